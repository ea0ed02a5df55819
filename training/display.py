"""What a person sees while a command computes: live on a terminal, a plain line at a time anywhere else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from training.trainer import EpochMetrics, Trainer

__all__ = ["ShowEpoch", "ShowScores", "show_scoring", "show_training"]

PLAIN_SECONDS = 30.0
"""Between two plain lines about work that has no natural steps."""


class ShowEpoch(Protocol):
    """Shows how training stands after an epoch."""

    def __call__(self, trainer: Trainer, metrics: EpochMetrics) -> None: ...


class ShowScores(Protocol):
    """Shows how many test images are scored, and their mean log-likelihood in nats."""

    def __call__(self, done: int, mean: float) -> None: ...


@contextmanager
def show_training(console: Console) -> Iterator[ShowEpoch]:
    """A display of a training run: call it after every epoch."""
    if not console.is_terminal:
        yield _print_epoch
        return
    with Live("the first epoch is under way", console=console, refresh_per_second=4) as live:
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
    table.add_row("left", f"{trainer.epochs_left} epochs", _time_left(trainer, metrics), "unless it gets better")
    return table


def _time_left(trainer: Trainer, metrics: EpochMetrics) -> str:
    return str(timedelta(seconds=round(trainer.epochs_left * metrics.seconds)))


@contextmanager
def show_scoring(console: Console, total: int, done: int) -> Iterator[ShowScores]:
    """A display of an evaluation of `total` images, of which so many are done: call it after every batch."""
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
    """A line at the end, and one now and then before."""

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
