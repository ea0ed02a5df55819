"""Running the jobs of a sweep, so many at a time, until all have ended or somebody stops them."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from training.sweep.jobs import Job, State

__all__ = ["Interruptions", "run_jobs"]

PAUSE_SECONDS = 0.5


class Interruptions:
    """How often somebody asked this process to stop, which it then does when it suits."""

    def __init__(self) -> None:
        self.count = 0

    @classmethod
    @contextmanager
    def counted(cls) -> Iterator[Interruptions]:
        """Count Ctrl-C, a request to terminate, and the terminal's end, unless that is ignored, as `nohup` does."""
        asked = cls()
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, asked._count) for number in numbers}
        try:
            yield asked
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _count(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.count += 1


def run_jobs(jobs: Sequence[Job], at_once: int, asked: Interruptions, show: Callable[[Sequence[Job]], None]) -> None:
    """Run jobs in their order, so many at once, and show how they stand, until none is left or somebody asks to stop.

    Then the children are interrupted and waited for, or if somebody asks again, killed; raises `KeyboardInterrupt`.
    No child is left behind.
    """
    try:
        while not asked.count:
            for job in jobs:
                job.look()
            while len(_running(jobs)) < at_once and (following := _next(jobs)):
                following.begin()
            show(jobs)
            if not _running(jobs):
                return
            time.sleep(PAUSE_SECONDS)
        for job in _running(jobs):
            job.interrupt()
        print("waiting for what is under way to stop; once more kills it", flush=True)
        while _running(jobs) and asked.count == 1:
            for job in jobs:
                job.look()
            show(jobs)
            time.sleep(PAUSE_SECONDS)
        raise KeyboardInterrupt
    finally:
        for job in jobs:
            job.kill()


def _running(jobs: Sequence[Job]) -> list[Job]:
    return [job for job in jobs if job.state is State.RUNNING]


def _next(jobs: Sequence[Job]) -> Job | None:
    """The first job that waits; of those that have to fetch data, which may be the same, only one at a time."""
    fetching = any(job.lacks_data for job in _running(jobs))
    return next((job for job in jobs if job.state is State.WAITING and not (fetching and job.lacks_data)), None)
