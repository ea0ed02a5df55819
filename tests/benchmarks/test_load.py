"""wrk's numbers as the figures read them."""

from __future__ import annotations

import os
import sys

import pytest

from benchmarks import load as load_module
from benchmarks.contestants import CONSTANT, NAIVE_SCORERS, SAMPLE, SAMPLERS, SCORERS, loglik
from benchmarks.load import LoadError, Request, load, under_load

SAID = '{"requests": 300, "seconds": 2.0, "p50": 0.01, "p99": 0.05, "failures": %d, "refusals": %d}'


@pytest.fixture
def wrk(monkeypatch, tmp_path):
    """A wrk that prints what it is told."""

    def install(text, status=0, before=""):
        program = tmp_path / "wrk"
        program.write_text(
            f"#!{sys.executable}\n{before}print('Running 2s test')\nprint({text!r})\nraise SystemExit({status})\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(load_module, "ask", lambda *_: {})

    return install


def test_throughput_and_latencies_are_read(wrk):
    wrk(SAID % (0, 0))
    answers = load("http://127.0.0.1:1", [SAMPLE], clients=2, seconds=2)
    assert (answers.per_second, answers.p50, answers.p99) == (150.0, 0.01, 0.05)


@pytest.mark.parametrize("counts", [(1, 0), (0, 1)])
def test_a_load_with_failures_is_no_measurement(wrk, counts):
    wrk(SAID % counts)
    with pytest.raises(LoadError, match="of 300 requests"):
        load("http://127.0.0.1:1", [SAMPLE], clients=2, seconds=2)


def test_a_failing_wrk_is_reported(wrk):
    wrk("unable to connect", status=1)
    with pytest.raises(LoadError, match="unable to connect"):
        load("http://127.0.0.1:1", [Request("/")], clients=2, seconds=2)


def test_without_wrk_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(load_module, "ask", lambda *_: {})
    with pytest.raises(LoadError, match="install"):
        load("http://127.0.0.1:1", [Request("/")], clients=2, seconds=2)


def test_every_alternative_answers_both_figures():
    names = [contestant.name for contestant in SAMPLERS]
    assert names == [contestant.name for contestant in SCORERS]
    assert [f"{name}, naive" for name in names] == [contestant.name for contestant in NAIVE_SCORERS]
    assert CONSTANT.request == SAMPLE
    assert "seed={seed}" in loglik(500).target


def test_a_load_in_the_background_is_counted_at_its_end(wrk, tmp_path):
    os.mkfifo(tmp_path / "started")
    wrk(
        SAID % (0, 0),
        before="import signal\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\n"
        f"open({str(tmp_path / 'started')!r}, 'w').close()\n"
        "signal.sigwait([signal.SIGINT])\n",
    )
    with under_load("http://127.0.0.1:1", [SAMPLE], clients=2) as answers:
        (tmp_path / "started").read_text()  # waits until wrk opens it
        assert answers == []
    assert [one.per_second for one in answers] == [150.0]
