"""Test metrics of a checkpoint (Sec. 5.2): log-likelihood, ELBO and its parts, active units."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hardware import device_name
from training.checkpoints import dataset_of
from training.display import ShowScores
from training.plots import draw_histogram
from training.scoring import Plan
from training.scoring import Scores as ScoreFile
from vampprior.card import Card, Scores, write_card
from vampprior.checkpoint import load_checkpoint
from vampprior.importance import MAX_BYTES, RELIABLE_PARETO_K

__all__ = ["HISTOGRAM_FILE", "Evaluation", "default_max_bytes"]

HISTOGRAM_FILE = "log_likelihoods.png"
ACTIVE_VARIANCE = 0.01
BATCH = 500
GPU_MAX_BYTES = 1 << 28


def default_max_bytes(device: torch.device) -> int:
    """Memory of the largest tensor of an evaluation, in bytes."""
    return GPU_MAX_BYTES if device.type == "cuda" else MAX_BYTES


class Evaluation:
    """A checkpoint, the test images that the plan chooses, and their scores, kept in `runs` as far as they got.

    Raises `CheckpointError` if the checkpoint is of no use or does not say what it was trained on, and `DatasetError`
    if that cannot be had or has other test images now.
    """

    def __init__(self, folder: Path, plan: Plan, runs: Path, data_directory: Path | None = None) -> None:
        self.folder, self.plan, self.device = folder, plan, torch.device(plan.device)
        model, self.card = load_checkpoint(folder)
        self.dataset = dataset_of(self.card, data_directory)
        self.model = model.to(self.device)
        self.chosen = plan.choose(len(self.dataset.test))
        key = plan.key(self.card.weights_sha256, self.card.dataset["sha256"]["test"])
        self.scores = ScoreFile(runs / self.card.name / f"{self.card.version}-evaluation-{key}.safetensors")

    def score(self, show: ShowScores) -> None:
        """Score the chosen images that have no score yet; `scores.load` gets those of a stopped evaluation."""
        images = torch.from_numpy(self.dataset.gray("test"))[self.chosen].to(self.device)
        self.scores.complete(self.model, images, self.plan, show)

    @torch.inference_mode()
    def metrics(self) -> dict[str, Any]:
        """The metrics of the card, in nats unless their name says otherwise.

        Active units are counted over all test images, the rest over the chosen ones. ELBO, reconstruction and KL are
        means over the same importance samples. `reliable_share` is the share of images whose k-hat is below 0.7, so
        that their standard error can be believed. Raises `FloatingPointError` if a score is not finite.
        """
        columns = self.scores.columns
        if not all(column.isfinite().all() for name, column in columns.items() if name != "pareto_k"):
            raise FloatingPointError("the log-likelihood of a test image is not finite: the model is of no use")
        value, error = columns["value"], columns["standard_error"]
        reconstruction, kl = columns["reconstruction"].mean().item(), columns["kl"].mean().item()
        return {
            "log_likelihood": value.mean().item(),
            "log_likelihood_standard_error": value.std().item() / math.sqrt(len(value)),
            "monte_carlo_standard_error": error.square().sum().sqrt().item() / len(error),
            "num_images": len(value),
            "num_samples": self.plan.num_samples,
            "elbo": reconstruction - kl,
            "reconstruction": reconstruction,
            "kl": kl,
            "reliable_share": (columns["pareto_k"] < RELIABLE_PARETO_K).double().mean().item(),
            "median_effective_sample_size": columns["effective_sample_size"].median().item(),
            "bits_per_dim": -value.mean().item() / (self.model.config.num_pixels * math.log(2.0)),
            "active_units": self._active_units(),
            "seed": self.plan.seed,
            "device": device_name(self.device),
            "wall_clock_seconds": round(self.scores.seconds, 1),
        }

    def write(self) -> Card:
        """Write the card with the metrics and, beside it, the score of each image and the histogram of the scores."""
        columns = self.scores.columns
        scores = Scores(
            log_likelihood=columns["value"].float().numpy(),
            pareto_k=columns["pareto_k"].float().numpy(),
            effective_sample_size=columns["effective_sample_size"].float().numpy(),
        )
        card = replace(self.card, metrics=self.metrics(), log_likelihood_quantiles={}, scores=scores)
        title = f"{card.name}, version {card.version}"
        draw_histogram(columns["value"].numpy(), self.folder / HISTOGRAM_FILE, title=title)
        return write_card(self.folder, card)

    def _active_units(self) -> dict[str, int]:
        """Units per layer whose posterior mean varies by more than 0.01 over the test set (Burda et al., 2015)."""
        means: dict[str, list[Tensor]] = {}
        for x in self._batches(torch.arange(len(self.dataset.test))):
            for layer, posterior in self.model.encode(x).items():
                means.setdefault(layer, []).append(posterior.mean)
        return {layer: int((torch.cat(parts).var(dim=0) > ACTIVE_VARIANCE).sum()) for layer, parts in means.items()}

    def _batches(self, indices: Tensor) -> Iterator[Tensor]:
        images = torch.from_numpy(self.dataset.gray("test"))
        for batch in torch.split(indices, BATCH):
            yield self.model.likelihood.from_bytes(images[batch].to(self.device))
