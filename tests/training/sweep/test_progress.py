from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from training.recipe import Optimization
from training.state import METRICS_FILE
from training.sweep.progress import MetricsFile, Progress
from training.trainer import Trainer

SETTINGS = Optimization(warmup_epochs=3, patience=4, max_epochs=9)


def history(best: int, epochs: int) -> list[dict[str, float]]:
    return [{"epoch": n, "valid_elbo": -100.0 - abs(n - best), "seconds": 30.0} for n in range(1, epochs + 1)]


def test_the_epochs_left_are_those_of_the_trainer(trainer: Trainer) -> None:
    trainer.recipe = replace(trainer.recipe, training=SETTINGS)
    left = set()
    for epochs in range(1, SETTINGS.max_epochs + 1):
        for best in range(1, epochs + 1):
            trainer.epoch, trainer.best_epoch = epochs, best
            progress = Progress.of(history(best, epochs), SETTINGS)
            assert (progress.epoch, progress.best_epoch, progress.best_elbo) == (epochs, best, -100.0)
            assert progress.epochs_left == trainer.epochs_left
            left.add(progress.epochs_left)
    assert left == {0, 1, 2, 3, 4, 5, 6}


def test_where_the_last_weights_are_kept_every_epoch_is_the_best() -> None:
    progress = Progress.of(history(best=1, epochs=8), replace(SETTINGS, keep="last"))
    assert (progress.best_epoch, progress.best_elbo, progress.epochs_left) == (8, -107.0, 1)


def test_the_time_left_is_that_of_the_epochs_left() -> None:
    assert Progress.of(history(best=5, epochs=6), SETTINGS).time_left == timedelta(seconds=90)


def test_the_metrics_are_followed_as_they_grow_and_are_trimmed(trainer: Trainer) -> None:
    path = trainer.folder.path / METRICS_FILE
    metrics = MetricsFile(path, trainer.recipe.training)
    assert metrics.read() is None
    for _ in range(2):
        last = trainer.run_epoch()
        progress = metrics.read()
        assert progress is not None
        assert (progress.epoch, progress.seconds) == (trainer.epoch, last.seconds)
        assert (progress.best_epoch, progress.best_elbo) == (trainer.best_epoch, trainer.best_elbo)
    whole = path.read_text()
    path.write_text(whole + '{"epoch": 3, "val')  # caught in the middle of writing
    assert metrics.read() == progress
    path.write_text(whole.splitlines(keepends=True)[0])
    assert (first := metrics.read()) is not None
    assert first.epoch == 1
    path.unlink()
    assert metrics.read() is None


@pytest.mark.parametrize("text", ['{"epoch": 1', "\0\0\0\n", '{"epoch": 1}\n'])
def test_metrics_that_say_nothing_are_none(text: str, tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_text(text)
    assert MetricsFile(tmp_path / METRICS_FILE, SETTINGS).read() is None
