"""Test metrics of a checkpoint (Sec. 5.2): log-likelihood, ELBO and its parts, active units."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hardware import device_name
from training.checkpoints import dataset_of
from training.plots import draw_histogram
from vampprior.card import Card, Scores, write_card
from vampprior.checkpoint import load_checkpoint
from vampprior.files import atomic_write
from vampprior.importance import RELIABLE_PARETO_K, LogLikelihood, chunk_rows, log_likelihood
from vampprior.latent_model import LatentModel

__all__ = ["HISTOGRAM_FILE", "Evaluation", "Plan", "ScoreFile"]

HISTOGRAM_FILE = "log_likelihoods.png"
ACTIVE_VARIANCE = 0.01
BATCH = 500
"""Images that are encoded at once."""
SAVE_SECONDS = 5.0
COLUMNS = ("value", "standard_error", "effective_sample_size", "pareto_k", "reconstruction", "kl")


@dataclass(frozen=True)
class Plan:
    """Settings of an evaluation; equal weights and equal plans give equal numbers.

    num_samples: importance samples per image
    max_images:  number of images to score, drawn at random; None for all
    max_bytes:   memory of the largest tensor, which limits the samples that are drawn and scored at once
    seed:        seed of the choice of images and of all noise
    split:       `test`, or `valid` for the validation images
    refine:      steps that fit the proposal to each image first, 0 in the paper
    """

    num_samples: int
    max_images: int | None
    max_bytes: int
    seed: int
    split: str = "test"
    refine: int = 0

    def image_indices(self, num_images: int) -> Tensor:
        """Indices of the images to score, ascending."""
        if self.max_images is None or num_images <= self.max_images:
            return torch.arange(num_images)
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randperm(num_images, generator=generator)[: self.max_images].sort().values

    def key(self, *others: str) -> str:
        """A name for the numbers of this plan, given the hashes of weights and images and the kind of the device."""
        settings = asdict(self)
        if not self.refine:
            del settings["refine"]  # so that evaluations from before it was there can be continued
        text = json.dumps([settings, *others, torch.__version__])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class ScoreFile:
    """The scores of an evaluation so far, in a file from which it continues after an interruption.

    columns: the fields of `LogLikelihood` that `COLUMNS` names, float64, each of shape (done,)
    seconds: time spent on them
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns = {name: torch.empty(0, dtype=torch.float64) for name in COLUMNS}
        self.seconds = 0.0

    @property
    def done(self) -> int:
        """Number of images scored so far."""
        return len(self.columns["value"])

    def load(self) -> None:
        """Read the file, if there is one; a damaged file is ignored, since it only saves time."""
        try:
            with safe_open(self.path, framework="pt") as file:
                seconds = float(file.metadata()["seconds"])
                columns = {name: file.get_tensor(name) for name in COLUMNS}
        except (OSError, SafetensorError):
            return
        self.columns, self.seconds = columns, seconds

    def save(self) -> None:
        """Write the file."""
        with atomic_write(self.path) as partial:
            save_file(self.columns, partial, metadata={"seconds": str(self.seconds)})

    def complete(self, model: LatentModel, images: Tensor, plan: Plan, show: Callable[[int, float], None]) -> None:
        """Score the remaining images, gray levels of shape (N, C, H, W), and save regularly and at the end.

        The noise of a batch comes from a generator seeded with the plan's seed and the index of its first image. After
        each batch `show` is called with the number of images done and their mean log-likelihood. On a CPU each thread
        scores its own batches, which avoids synchronizing after every operation.
        """
        per_batch = max(1, chunk_rows(model, plan.max_bytes) // plan.num_samples)
        with torch.no_grad():
            mixture = model.prior_mixture()

        def score(start: int) -> LogLikelihood:
            x = model.likelihood.from_bytes(images[start : start + per_batch])
            generator = torch.Generator(x.device).manual_seed(plan.seed * 1_000_003 + start)
            return log_likelihood(
                model,
                x,
                num_samples=plan.num_samples,
                mixture=mixture,
                generator=generator,
                refine=plan.refine,
                max_bytes=plan.max_bytes,
            )

        threads = torch.get_num_threads()
        workers = threads if images.device.type == "cpu" else 1
        pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
        started = saved = time.monotonic()
        try:
            for scores in pool.map(score, range(self.done, len(images), per_batch)):
                self.columns = {name: torch.cat([old, getattr(scores, name)]) for name, old in self.columns.items()}
                now = time.monotonic()
                self.seconds, started = self.seconds + now - started, now
                show(self.done, self.columns["value"].mean().item())
                if now - saved > SAVE_SECONDS:
                    self.save()
                    saved = now
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)  # threads started later take the last number that was set
            self.save()


class Evaluation:
    """The evaluation of a checkpoint by a plan, with the scores so far in a file in `runs`.

    Raises `CheckpointError` if the checkpoint is damaged or its card does not name its data set, and `DatasetError` if
    the data set cannot be loaded or has changed.
    """

    def __init__(
        self, folder: Path, plan: Plan, runs: Path, device: torch.device, data_directory: Path | None = None
    ) -> None:
        self.folder, self.plan, self.device = folder, plan, device
        model, self.card = load_checkpoint(folder)
        dataset = dataset_of(self.card, data_directory, plan.split)
        self.model = model.to(device)
        self.images = torch.from_numpy(dataset.gray(plan.split))
        self.indices = plan.image_indices(len(self.images))
        key = plan.key(self.card.weights_sha256, self.card.dataset["sha256"][plan.split], device.type)
        self.scores = ScoreFile(runs / self.card.name / f"{self.card.version}-evaluation-{key}.safetensors")

    def score(self, show: Callable[[int, float], None]) -> None:
        """Score the chosen images that have no score yet; `scores.load` reads those of an interrupted evaluation."""
        self.scores.complete(self.model, self.images[self.indices].to(self.device), self.plan, show)

    @torch.inference_mode()
    def metrics(self) -> dict[str, Any]:
        """The metrics for the card, in nats unless their name says otherwise.

        Active units are counted over all images of the split, the rest over the chosen ones. ELBO, reconstruction and
        KL are means over the importance samples. `reliable_share` is the fraction of images with a Pareto k-hat below
        0.7, whose standard error can be trusted. `gain_over_plain` is the mean difference in nats between the refined
        log-likelihoods and the plain ones on the card, of the same images.

        Raises `FloatingPointError` if a score is not finite.
        """
        columns = self.scores.columns
        if not all(column.isfinite().all() for name, column in columns.items() if name != "pareto_k"):
            raise FloatingPointError("the log-likelihood of an image is not finite, so the model cannot be used")
        value, error = columns["value"], columns["standard_error"]
        reconstruction, kl = columns["reconstruction"].mean().item(), columns["kl"].mean().item()
        return {
            "log_likelihood": value.mean().item(),
            "log_likelihood_standard_error": value.std().item() / math.sqrt(len(value)),
            "monte_carlo_standard_error": error.square().sum().sqrt().item() / len(error),
            "num_images": len(value),
            "num_samples": self.plan.num_samples,
            **({"refine": self.plan.refine} if self.plan.refine else {}),
            "elbo": reconstruction - kl,
            "reconstruction": reconstruction,
            "kl": kl,
            "reliable_share": (columns["pareto_k"] < RELIABLE_PARETO_K).double().mean().item(),
            "median_effective_sample_size": columns["effective_sample_size"].median().item(),
            "bits_per_dim": -value.mean().item() / (self.model.config.num_pixels * math.log(2.0)),
            "active_units": self._active_units(),
            **self._gain_over_plain(),
            "seed": self.plan.seed,
            "device": device_name(self.device),
            "wall_clock_seconds": round(self.scores.seconds, 1),
        }

    def reason_not_to_write(self) -> str:
        """The reason why the metrics should not go into the card; empty if they should.

        Metrics of validation images never go into the card. Test metrics should not replace those of more images or
        more samples; refined ones stand apart from plain ones.
        """
        if self.plan.split != "test":
            return "the card is for metrics of test images"
        before = self.card.metrics.get("refined", {}) if self.plan.refine else self.card.metrics
        images, samples = (before.get(key, 0) for key in ("num_images", "num_samples"))
        if images > len(self.indices) or samples > self.plan.num_samples:
            return f"the card has metrics of {images:,} images with {samples:,} samples; --force replaces them"
        return ""

    def write(self, metrics: dict[str, Any]) -> Card:
        """Write the card with the metrics, the scores of the images, and their histogram.

        Refined metrics are written below `refined`, and leave the rest as it is.
        """
        if self.plan.refine:
            return write_card(self.folder, replace(self.card, metrics={**self.card.metrics, "refined": metrics}))
        if "refined" in self.card.metrics:
            metrics = {**metrics, "refined": self.card.metrics["refined"]}
        columns = self.scores.columns
        scores = Scores(
            log_likelihood=columns["value"].float().numpy(),
            pareto_k=columns["pareto_k"].float().numpy(),
            effective_sample_size=columns["effective_sample_size"].float().numpy(),
        )
        card = replace(self.card, metrics=metrics, log_likelihood_quantiles={}, scores=scores)
        title = f"{card.name}, version {card.version}"
        draw_histogram(columns["value"].numpy(), self.folder / HISTOGRAM_FILE, title=title)
        return write_card(self.folder, card)

    def _gain_over_plain(self) -> dict[str, float]:
        """Gain of refined log-likelihoods with its standard error; empty if the card lacks the plain ones."""
        plain = self.card.scores if self.plan.refine and self.plan.split == "test" else None
        if plain is None or len(plain.log_likelihood) != len(self.images):
            return {}
        gain = self.scores.columns["value"] - torch.from_numpy(plain.log_likelihood)[self.indices]
        error = gain.std().item() / math.sqrt(len(gain))
        return {"gain_over_plain": gain.mean().item(), "gain_over_plain_standard_error": error}

    def _active_units(self) -> dict[str, int]:
        """Units per layer whose posterior mean has a variance over 0.01 between images (Burda et al., 2016)."""
        means: dict[str, list[Tensor]] = {}
        for images in torch.split(self.images, BATCH):
            x = self.model.likelihood.from_bytes(images.to(self.device))
            for layer, posterior in self.model.encode(x).items():
                means.setdefault(layer, []).append(posterior.mean)
        return {layer: int((torch.cat(parts).var(dim=0) > ACTIVE_VARIANCE).sum()) for layer, parts in means.items()}
