"""What a person sees of a sweep: a live table on a terminal, a line for each change of state anywhere else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from training.sweep.jobs import Job, State

__all__ = ["ShowJobs", "overview", "show_sweep"]

ShowJobs = Callable[[Sequence[Job]], None]
STYLES = {State.RUNNING: "bold", State.FAILED: "red", State.WAITING: "dim", State.DONE: "green", State.SKIPPED: "dim"}
OTHER_LINES = 4
"""Of an overview: its header, its summary, and room for the cursor and a message."""


@contextmanager
def show_sweep(console: Console) -> Iterator[ShowJobs]:
    """A display of jobs: call it whenever they may have changed."""
    if not console.is_terminal:
        yield _PlainLines()
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda jobs: live.update(overview(jobs, console.height - OTHER_LINES), refresh=True)


def overview(jobs: Sequence[Job], most: int) -> Group:
    """How the jobs stand, a row each, and how many are in which state; so many rows at most."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("recipe", overflow="fold", min_width=22)
    table.add_column("", no_wrap=True)
    for title in ("epoch", "best ELBO", "at", "s/epoch", "left"):
        table.add_column(title, no_wrap=True, justify="right")
    table.add_column("")
    for job in _most_urgent(jobs, most):
        note = Text(job.note, no_wrap=True, overflow="ellipsis")
        table.add_row(job.name, Text(job.doing, STYLES[job.state]), *_progress(job), note)
    counts = Counter(job.state for job in jobs)
    summary = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
    return Group(table, Text(summary, "dim"))


def _progress(job: Job) -> tuple[str, str, str, str, str]:
    """Epochs, the best validation ELBO in nats and its epoch, seconds an epoch, and the time left if it stays best."""
    if (progress := job.progress) is None:
        return "", "", "", "", ""
    return (
        f"{progress.epoch}/{progress.max_epochs}",
        f"{progress.best_elbo:.2f}",
        str(progress.best_epoch),
        f"{progress.seconds:.1f}",
        str(progress.time_left) if progress.epochs_left else "",
    )


def _most_urgent(jobs: Sequence[Job], most: int) -> list[Job]:
    """So many of the jobs, in their order."""
    urgency = list(State)
    chosen = sorted(jobs, key=lambda job: urgency.index(job.state))[: max(0, most)]
    return [job for job in jobs if job in chosen]


class _PlainLines:
    """A line for each job whose state has changed since the last call; all have waited before the first."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def __call__(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if self._said.get(job.name, State.WAITING.value) != job.doing:
                self._said[job.name] = job.doing
                print(f"{job.name}: {job.doing}{f', {job.note}' if job.note else ''}", flush=True)
