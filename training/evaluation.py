"""Test metrics of a checkpoint (Sec. 5.2): log-likelihood, ELBO and its parts, active units."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.checkpoints import dataset_of
from training.display import ShowScores
from training.plots import draw_histogram
from training.scoring import Plan, Scores
from vampprior.checkpoint import Card, load_checkpoint, read_card, write_card
from vampprior.machine import device_name
from vampprior.models import build_model

__all__ = ["HISTOGRAM_FILE", "Evaluation", "default_chunk_rows"]

HISTOGRAM_FILE = "log_likelihoods.png"
ACTIVE_VARIANCE = 0.01
BATCH = 500


def default_chunk_rows(folder: Path, device: torch.device) -> int:
    """Rows that are best computed at once with a checkpoint's model: a hundred times more on a GPU."""
    with torch.device("meta"):  # where a model takes no memory
        rows = build_model(read_card(folder).model).chunk_rows
    return rows * (100 if device.type == "cuda" else 1)


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
        self.scores = Scores(runs / self.card.name / f"{self.card.version}-evaluation-{key}.safetensors")

    def score(self, show: ShowScores) -> None:
        """Score the chosen images that have no score yet; `scores.load` gets those of a stopped evaluation."""
        images = torch.from_numpy(self.dataset.gray("test"))[self.chosen].to(self.device)
        self.scores.complete(self.model, images, self.plan, show)

    @torch.inference_mode()
    def metrics(self) -> dict[str, Any]:
        """The metrics of the card, in nats unless their name says otherwise.

        Active units are counted over all test images, the rest over the chosen ones. Raises `FloatingPointError` if a
        score is not finite.
        """
        columns = self.scores.columns
        if not all(column.isfinite().all() for column in columns.values()):
            raise FloatingPointError("the log-likelihood of a test image is not finite: the model is of no use")
        value, error = columns["value"], columns["standard_error"]
        reconstruction, kl = self._bound_parts()
        return {
            "log_likelihood": value.mean().item(),
            "log_likelihood_standard_error": value.std().item() / math.sqrt(len(value)),
            "monte_carlo_standard_error": error.square().sum().sqrt().item() / len(error),
            "num_images": len(value),
            "num_samples": self.plan.num_samples,
            "elbo": columns["elbo"].mean().item(),
            "reconstruction": reconstruction,
            "kl": kl,
            "bits_per_dim": -value.mean().item() / (self.model.config.num_pixels * math.log(2.0)),
            "active_units": self._active_units(),
            "seed": self.plan.seed,
            "device": device_name(self.device),
            "wall_clock_seconds": round(self.scores.seconds, 1),
        }

    def write(self) -> Card:
        """Write the metrics and the quantiles of the scores into the card, and the scores' histogram beside it."""
        metrics, values = self.metrics(), self.scores.columns["value"].numpy()
        probabilities = np.linspace(0.0, 1.0, 101)
        quantiles = np.maximum.accumulate(np.quantile(values, probabilities))  # rounding must not unsort them
        card = replace(
            self.card,
            metrics=metrics,
            log_likelihood_quantiles={"probabilities": probabilities.tolist(), "values": quantiles.tolist()},
        )
        draw_histogram(values, self.folder / HISTOGRAM_FILE, title=f"{card.name}, version {card.version}")
        write_card(self.folder, card)
        return card

    def _bound_parts(self) -> tuple[float, float]:
        """Mean reconstruction and KL of a single-sample bound, in nats."""
        mixture = self.model.prior_mixture()
        generator = torch.Generator(self.device).manual_seed(self.plan.seed)
        totals = torch.zeros(2, dtype=torch.float64, device=self.device)
        for x in self._batches(self.chosen):
            noise = torch.randn(len(x), self.model.noise_dim, generator=generator, device=self.device)
            bound = self.model.elbo(x, noise, mixture=mixture)
            totals += torch.stack([bound.reconstruction.sum(), bound.kl.sum()])
        reconstruction, kl = (totals / len(self.chosen)).tolist()
        return reconstruction, kl

    def _active_units(self) -> dict[str, int]:
        """Units per layer whose posterior mean varies by more than 0.01 over the test set (Burda et al., 2015)."""
        means: dict[str, list[Tensor]] = {}
        for x in self._batches(torch.arange(len(self.dataset.test))):
            for layer, posterior in self.model.posteriors(x).items():
                means.setdefault(layer, []).append(posterior.mean)
        return {layer: int((torch.cat(parts).var(dim=0) > ACTIVE_VARIANCE).sum()) for layer, parts in means.items()}

    def _batches(self, indices: Tensor) -> Iterator[Tensor]:
        images = torch.from_numpy(self.dataset.gray("test"))
        for batch in torch.split(indices, BATCH):
            yield self.model.likelihood.from_bytes(images[batch].to(self.device))
