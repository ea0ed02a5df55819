"""The terminal: options that several commands share, tables in which nothing is cut, and progress displays."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Protocol, TextIO

import typer
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from training.callbacks import Callback
from training.trainer import EpochMetrics, Trainer

__all__ = [
    "DataDir",
    "Device",
    "RunsDir",
    "ShowScores",
    "Store",
    "Threads",
    "console",
    "interruptible",
    "print_table",
    "show_draws",
    "show_scoring",
    "show_training",
]

DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder of the data sets, instead of VAMP_DATA_DIR or a folder in the user's cache."),
]
RunsDir = Annotated[Path, typer.Option(help="Folder of the states of runs.")]
Store = Annotated[Path, typer.Option(help="Folder of checkpoints.")]
Device = Annotated[
    str, typer.Option(help="Where to compute: cpu, cuda, cuda:<number>, or auto for a GPU if there is one.")
]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 takes all that this process may use.")]

UNLIMITED = 100_000
"""Columns of output that is not a terminal."""
SHORTEST_NAME = 10
"""Letters of a name that a column must hold; longer names continue in the next line."""
PLAIN_SECONDS = 30.0
"""Time between two plain lines about an evaluation."""


class ShowScores(Protocol):
    """Shows how many images are scored, and their mean log-likelihood in nats."""

    def __call__(self, done: int, mean: float) -> None: ...


def console(file: TextIO | None = None) -> Console:
    """A console for standard output, or for a file, with no markup and no limit on the width outside a terminal."""
    target = file or sys.stdout
    return Console(file=file, markup=False, highlight=False, width=None if target.isatty() else UNLIMITED)


def print_table(console: Console, header: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Print a table in which nothing is cut.

    Where the console is too narrow, texts continue in the next line. Numbers are never divided: if they do not fit, the
    last columns are left out, and a line below the table names them.
    """
    columns = [(name, *cells) for name, *cells in zip(header, *rows, strict=True)]
    widths = _widths(columns, console.width - 1)
    table = Table(title=title or None, title_justify="left")
    for name, width in zip(header, widths, strict=False):
        table.add_column(name, width=width, overflow="fold")
    for row in rows:
        table.add_row(*row[: len(widths)])
    console.print(table)
    if left_out := header[len(widths) :]:
        console.print(f"Columns that do not fit: {', '.join(left_out)}.")


def _widths(columns: Sequence[Sequence[str]], available: int) -> list[int]:
    """Widths of the columns, without their margins of 3, of as many as fit."""
    full = [max(1, *map(len, column)) for column in columns]
    least = [max(1, *(_least(word) for cell in column for word in cell.split())) for column in columns]
    while len(least) > 1 and sum(least) + 3 * len(least) > available:
        least.pop()
    spare = available - sum(least) - 3 * len(least)
    widths = []
    for wanted, needed in zip(full, least, strict=False):
        extra = max(0, min(wanted - needed, spare))
        spare -= extra
        widths.append(needed + extra)
    return widths


def _least(word: str) -> int:
    """Letters that must stay together: a whole number, or the beginning of a name."""
    is_number = re.search(r"\d", word) and not re.search(r"[^\W\d]", word)
    return len(word) if is_number else min(len(word), SHORTEST_NAME)


@contextmanager
def interruptible(hint: Callable[[], str]) -> Iterator[None]:
    """Answer Ctrl-C with exit code 130 and one line that says what to do next."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"interrupted: {hint()}", file=sys.stderr)
        raise typer.Exit(130) from None


@contextmanager
def show_training(console: Console) -> Iterator[Callback]:
    """A callback that shows every epoch: in a live table on a terminal, in a line elsewhere."""
    if not console.is_terminal:
        yield _print_epoch
        return
    with Live("the first epoch is running", console=console, refresh_per_second=4) as live:
        yield lambda trainer, metrics: live.update(_epoch_table(trainer, metrics))


def _print_epoch(trainer: Trainer, metrics: EpochMetrics) -> None:
    settings = trainer.recipe.training
    print(
        f"epoch {metrics.epoch}/{settings.max_epochs}  {settings.bound_names} train {metrics.train_elbo:.2f}"
        f"  valid {metrics.valid_elbo:.2f}  KL {metrics.valid_kl:.2f}  KL weight {metrics.kl_weight:.2f}"
        f"  best {trainer.best_elbo:.2f} at {trainer.best_epoch}  epochs left {trainer.epochs_left}"
        f"  time left {_time_left(trainer, metrics)}",
        flush=True,
    )


def _epoch_table(trainer: Trainer, metrics: EpochMetrics) -> Table:
    settings = trainer.recipe.training
    table = Table.grid(padding=(0, 3))
    table.add_column(style="bold")
    table.add_row("epoch", f"{metrics.epoch} of at most {settings.max_epochs}", f"{metrics.seconds:.1f} s")
    table.add_row("", "train", "validation", style="dim")
    table.add_row(settings.bound_names, f"{metrics.train_elbo:.2f}", f"{metrics.valid_elbo:.2f} nats")
    table.add_row("KL", f"{metrics.train_kl:.2f}", f"{metrics.valid_kl:.2f} nats", f"weight {metrics.kl_weight:.2f}")
    table.add_row("best", "", Text(f"{trainer.best_elbo:.2f} nats", style="green"), f"epoch {trainer.best_epoch}")
    table.add_row("left", f"{trainer.epochs_left} epochs", _time_left(trainer, metrics), "unless it improves")
    return table


def _time_left(trainer: Trainer, metrics: EpochMetrics) -> str:
    return str(timedelta(seconds=round(trainer.epochs_left * metrics.seconds)))


@contextmanager
def show_scoring(console: Console, total: int, done: int) -> Iterator[ShowScores]:
    """A function that shows the progress of an evaluation of `total` images, `done` of which have scores already."""
    if not console.is_terminal:
        yield _PlainScores(total, done)
        return
    columns = (
        TextColumn("scoring"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[mean]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, speed_estimate_period=120.0) as progress:
        task = progress.add_task("scoring", total=total, completed=done, mean="")
        yield lambda done, mean: progress.update(task, completed=done, mean=f"mean {mean:.2f} nats")


class _PlainScores:
    """Prints a line every 30 seconds and one at the end."""

    def __init__(self, total: int, done: int) -> None:
        self._total, self._done_before = total, done
        self._started = self._printed = time.monotonic()

    def __call__(self, done: int, mean: float) -> None:
        now = time.monotonic()
        if done < self._total and now - self._printed < PLAIN_SECONDS:
            return
        self._printed = now
        seconds = (now - self._started) * (self._total - done) / max(1, done - self._done_before)
        left = timedelta(seconds=round(seconds))
        print(f"scored {done}/{self._total} images  mean {mean:.2f} nats  time left {left}", flush=True)


@contextmanager
def show_draws(console: Console, total: int) -> Iterator[Callable[[int], None]]:
    """A function that shows the progress of a calibration; it takes the number of draws that were added."""
    if not console.is_terminal:
        yield _PlainDraws(total)
        return
    columns = TextColumn("calibrating"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("calibrating", total=total)
        yield lambda added: progress.advance(task, added)


class _PlainDraws:
    """Prints a line every 30 seconds."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._printed = total, 0, time.monotonic()

    def __call__(self, added: int) -> None:
        self._done += added
        now = time.monotonic()
        if now - self._printed >= PLAIN_SECONDS:
            self._printed = now
            print(f"calibrating: {self._done}/{self._total} draws", flush=True)
