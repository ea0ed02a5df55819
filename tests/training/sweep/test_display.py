from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from training.machine import DeviceChoice
from training.sweep.display import overview, show_sweep
from training.sweep.jobs import Job, State
from training.sweep.progress import Progress
from training.sweep.steps import Options

PROGRESS = Progress(epoch=120, max_epochs=2000, best_elbo=-91.234, best_epoch=118, seconds=2.04, epochs_left=48)


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    """One in each state."""
    options = Options("1", tmp_path, tmp_path, tmp_path, DeviceChoice.CPU, 1, 5000, None, None)
    jobs = [Job(f"static_mnist-hvae-mog-{number}", options) for number in range(1, 6)]
    for job, state in zip(jobs, ("done", "skipped", "running", "failed", "waiting"), strict=True):
        job.state, job.note = State(state), f"note of {state}"
    jobs[2].progress = PROGRESS
    return jobs


def shown(jobs: list[Job], most: int) -> list[str]:
    console = Console(file=io.StringIO(), width=150)
    console.print(overview(jobs, most))
    assert isinstance(console.file, io.StringIO)
    return [line.strip() for line in console.file.getvalue().splitlines()]


def test_a_row_says_where_a_recipe_is(jobs: list[Job]) -> None:
    header, *rows, summary = shown(jobs, most=10)
    assert header.split() == ["recipe", "epoch", "best", "ELBO", "at", "s/epoch", "left"]
    assert " ".join(rows[2].split()) == (
        "static_mnist-hvae-mog-3 training 120/2000 -91.23 118 2.0 0:01:38 note of running"
    )
    assert " ".join(rows[3].split()) == "static_mnist-hvae-mog-4 failed note of failed"
    assert summary == "1 running, 1 failed, 1 waiting, 1 done, 1 skipped"


def test_where_there_is_no_room_what_runs_and_what_failed_is_shown(jobs: list[Job]) -> None:
    _, *rows, summary = shown(jobs, most=3)
    assert [row.split()[0][-1] for row in rows] == ["3", "4", "5"]
    assert summary.count("1 ") == 5


def test_a_terminal_shows_the_rows_that_fit(jobs: list[Job]) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=150, height=6, color_system=None)
    with show_sweep(terminal) as show:
        show(jobs)
    assert isinstance(terminal.file, io.StringIO)
    text = terminal.file.getvalue()
    assert "120/2000" in text
    assert "note of failed" in text
    assert "note of waiting" not in text


def test_a_file_gets_a_line_for_each_change(jobs: list[Job], capsys: pytest.CaptureFixture[str]) -> None:
    with show_sweep(Console(file=io.StringIO())) as show:
        show(jobs)
        jobs[2].progress = None
        show(jobs)
        jobs[2].state, jobs[2].note = State.DONE, ""
        show(jobs)
    assert capsys.readouterr().out.splitlines() == [
        "static_mnist-hvae-mog-1: done, note of done",
        "static_mnist-hvae-mog-2: skipped, note of skipped",
        "static_mnist-hvae-mog-3: training, note of running",
        "static_mnist-hvae-mog-4: failed, note of failed",
        "static_mnist-hvae-mog-3: done",
    ]
