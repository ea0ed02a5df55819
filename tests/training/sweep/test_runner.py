from __future__ import annotations

import os
import signal
from collections.abc import Sequence

import pytest

from training.sweep import runner
from training.sweep.jobs import Job, State
from training.sweep.runner import Interruptions, run_jobs


class Fake(Job):
    """A job whose child ends at the next look, unless it is endless."""

    def __init__(self, *, endless: bool = False, lacks_data: bool = False) -> None:
        self.state, self.note, self.progress = State.WAITING, "", None
        self.endless, self.missing, self.alive = endless, lacks_data, False

    @property
    def lacks_data(self) -> bool:
        return self.missing

    def begin(self) -> None:
        self.state, self.alive = State.RUNNING, True

    def look(self) -> None:
        if self.alive and not self.endless:
            self.state, self.alive, self.missing = State.DONE, False, False

    def interrupt(self) -> None:
        pass

    def kill(self) -> None:
        self.alive = False


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "PAUSE_SECONDS", 0.0)


def running(jobs: Sequence[Job]) -> list[int]:
    return [index for index, job in enumerate(jobs) if job.state is State.RUNNING]


def test_jobs_run_in_order_so_many_at_a_time() -> None:
    jobs, seen = [Fake() for _ in range(5)], []
    run_jobs(jobs, 2, Interruptions(), lambda jobs: seen.append(running(jobs)))
    assert seen == [[0, 1], [2, 3], [4], []]
    assert all(job.state is State.DONE for job in jobs)


def test_of_those_that_fetch_data_one_runs_at_a_time() -> None:
    jobs = [Fake(lacks_data=True), Fake(lacks_data=True), Fake(), Fake(lacks_data=True)]
    seen: list[list[int]] = []
    run_jobs(jobs, 3, Interruptions(), lambda jobs: seen.append(running(jobs)))
    assert seen == [[0, 2], [1], [3], []]


def test_nothing_begins_once_somebody_asks_to_stop(capsys: pytest.CaptureFixture[str]) -> None:
    jobs, asked = [Fake(), Fake(), Fake()], Interruptions()

    def ask(jobs: Sequence[Job]) -> None:
        asked.count = 1

    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, 1, asked, ask)
    assert [job.state for job in jobs] == [State.DONE, State.WAITING, State.WAITING]
    assert "once more kills it" in capsys.readouterr().out


def test_asking_again_does_not_wait() -> None:
    jobs, asked = [Fake(endless=True)], Interruptions()

    def ask(jobs: Sequence[Job]) -> None:
        asked.count += 1

    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, 1, asked, ask)
    assert not jobs[0].alive


def test_a_mistake_of_ours_leaves_no_child_behind() -> None:
    def break_down(jobs: Sequence[Job]) -> None:
        raise OSError("no space left on device")

    jobs = [Fake(endless=True)]
    with pytest.raises(OSError, match="no space"):
        run_jobs(jobs, 1, Interruptions(), break_down)
    assert not jobs[0].alive


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_counted_and_later_mean_what_they_meant(number: signal.Signals) -> None:
    handler = signal.default_int_handler
    before = signal.signal(number, handler)  # whatever it is where the tests run
    try:
        with Interruptions.counted() as asked:
            os.kill(os.getpid(), number)
            assert asked.count == 1
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)


def test_under_nohup_the_end_of_the_terminal_stops_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruptions.counted() as asked:
            os.kill(os.getpid(), signal.SIGHUP)
            assert asked.count == 0
    finally:
        signal.signal(signal.SIGHUP, before)
