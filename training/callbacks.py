"""Callbacks: functions that are called after every epoch of a training run, for example to log to TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import torch

from training.recipe import RecipeError
from training.report.pictures import pseudo_inputs_of, sample
from training.trainer import EpochMetrics, Trainer

__all__ = ["Callback", "tensorboard"]

NUM_IMAGES = 64
"""Samples and pseudo-inputs per epoch in TensorBoard."""


class Callback(Protocol):
    """A function that `Run.fit` calls after every epoch; it must not change the trainer."""

    def __call__(self, trainer: Trainer, metrics: EpochMetrics) -> None: ...


@contextmanager
def tensorboard(folder: Path) -> Iterator[Callback]:
    """A callback that writes scalars, samples of the validated model and its pseudo-inputs for TensorBoard.

    The samples of all epochs use the same noise. The folder is created at the first call. From the epoch of that call
    on, events of an earlier run, which a resumed run repeats, are hidden. Raises `RecipeError` on entry if tensorboard
    is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise RecipeError("--tensorboard needs the tensorboard package: pip install '.[tensorboard]'") from error
    writer: SummaryWriter | None = None
    with ExitStack() as stack:

        def write(trainer: Trainer, metrics: EpochMetrics) -> None:
            nonlocal writer
            epoch, model = metrics.epoch, trainer.validated_model
            if writer is None:
                writer = stack.enter_context(SummaryWriter(folder, purge_step=epoch))
            for name, value in asdict(metrics).items():
                if name != "epoch":
                    split, _, quantity = name.rpartition("_")
                    tag = f"{quantity}/{split}" if split in ("train", "valid") else f"training/{name}"
                    writer.add_scalar(tag, value, epoch)
            writer.add_scalar("training/learning_rate", trainer.learning_rate, epoch)
            with torch.no_grad():
                writer.add_images("samples", sample(model, NUM_IMAGES, seed=0), epoch)
                if model.prior.pseudo_inputs is not None:
                    inputs = pseudo_inputs_of(model)[:NUM_IMAGES]
                    writer.add_images("pseudo-inputs", inputs, epoch)

        yield write
