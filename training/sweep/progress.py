"""How far a training is, read from what its process writes after every epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from training.recipe import Optimization

__all__ = ["MetricsFile", "Progress"]


@dataclass(frozen=True)
class Progress:
    """Where a training stands.

    epoch, max_epochs:     epochs done, and epochs at most
    best_elbo, best_epoch: the best validation ELBO (nats), and when that was
    seconds:               the last epoch took
    epochs_left:           if the validation ELBO never rises again
    """

    epoch: int
    max_epochs: int
    best_elbo: float
    best_epoch: int
    seconds: float
    epochs_left: int

    @classmethod
    def of(cls, history: Sequence[Mapping[str, Any]], settings: Optimization) -> Progress:
        """From the metrics of every epoch so far, one at least."""
        last = history[-1]
        best = last if settings.keep == "last" else max(history, key=lambda line: line["valid_elbo"])
        return cls(
            epoch=last["epoch"],
            max_epochs=settings.max_epochs,
            best_elbo=best["valid_elbo"],
            best_epoch=best["epoch"],
            seconds=last["seconds"],
            epochs_left=settings.epochs_left(last["epoch"], best["epoch"]),
        )

    @property
    def time_left(self) -> timedelta:
        """If the validation ELBO never rises again."""
        return timedelta(seconds=round(self.epochs_left * self.seconds))


class MetricsFile:
    """A run's metrics, which are read anew when there are more."""

    def __init__(self, path: Path, settings: Optimization) -> None:
        self._path, self._settings = path, settings
        self._size = 0
        self._progress: Progress | None = None

    def read(self) -> Progress | None:
        """How far the run is; None before the first epoch is done, or if the file is gone or damaged."""
        try:
            if (size := self._path.stat().st_size) != self._size:
                lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
                history = [json.loads(line) for line in lines if line.endswith("\n")]  # the last may be half written
                self._progress = Progress.of(history, self._settings) if history else None
                self._size = size
        except (FileNotFoundError, ValueError, KeyError):
            self._progress, self._size = None, 0
        return self._progress
