"""Log-likelihoods of many images, batch by batch, kept on disk so that hours of work survive an interruption."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vampprior.importance import LogLikelihood, chunk_rows, log_likelihood
from vampprior.models import LatentModel

__all__ = ["Plan", "Scores"]

SAVE_SECONDS = 5.0
COLUMNS = ("value", "standard_error", "effective_sample_size", "pareto_k", "reconstruction", "kl")


@dataclass(frozen=True)
class Plan:
    """How images are scored: equal weights and equal plans give equal numbers.

    num_samples: importance samples per image
    max_images:  number of test images to score, drawn at random; None for all
    max_bytes:   memory of the largest tensor, which bounds the samples that pass through the networks at once
    seed:        seed of the choice of images and of all noise
    device:      kind of device, `cpu` or `cuda`; their random numbers differ
    """

    num_samples: int
    max_images: int | None
    max_bytes: int
    seed: int
    device: str

    def choose(self, num_images: int) -> Tensor:
        """Indices of the images to score, ascending."""
        if self.max_images is None or num_images <= self.max_images:
            return torch.arange(num_images)
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randperm(num_images, generator=generator)[: self.max_images].sort().values

    def key(self, weights_sha256: str, test_sha256: str) -> str:
        """A name for the numbers that this plan gives with these weights on these images."""
        text = json.dumps([asdict(self), weights_sha256, test_sha256, torch.__version__])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Scores:
    """Fields of `LogLikelihood` for the images scored so far.

    columns: the fields that `COLUMNS` names, float64, each of shape (done,)
    seconds: time spent on them
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns = {name: torch.empty(0, dtype=torch.float64) for name in COLUMNS}
        self.seconds = 0.0

    @property
    def done(self) -> int:
        """Images scored so far."""
        return len(self.columns["value"])

    def load(self) -> None:
        """Continue from the file, if there is one; a damaged one is ignored, since nothing but time is lost with it."""
        try:
            with safe_open(self.path, framework="pt") as file:
                seconds = float(file.metadata()["seconds"])
                columns = {name: file.get_tensor(name) for name in COLUMNS}
        except (OSError, SafetensorError):
            return
        self.columns, self.seconds = columns, seconds

    def save(self) -> None:
        """Write the file, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(self.path.name + ".partial")
        save_file(self.columns, partial, metadata={"seconds": str(self.seconds)})
        partial.replace(self.path)

    def complete(self, model: LatentModel, images: Tensor, plan: Plan, show: Callable[[int, float], None]) -> None:
        """Score the rest of the images, gray levels of shape (N, C, H, W), saving now and then and whenever it ends.

        The noise of a batch comes from a generator seeded with the plan's seed and the batch's place. After each batch
        `show` gets the number of images done and their mean log-likelihood. On a CPU each thread computes batches of
        its own, since threads that share every operation wait for each other after each.
        """
        per_batch = max(1, chunk_rows(model, plan.max_bytes) // plan.num_samples)
        with torch.inference_mode():
            mixture = model.prior_mixture()

        def score(start: int) -> LogLikelihood:
            x = model.likelihood.from_bytes(images[start : start + per_batch])
            generator = torch.Generator(x.device).manual_seed(plan.seed * 1_000_003 + start)
            return log_likelihood(model, x, plan.num_samples, generator, mixture=mixture, max_bytes=plan.max_bytes)

        threads = torch.get_num_threads()
        workers = threads if images.device.type == "cpu" else 1
        pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
        started = saved = time.monotonic()
        try:
            for result in pool.map(score, range(self.done, len(images), per_batch)):
                self.columns = {
                    name: torch.cat([column, getattr(result, name)]) for name, column in self.columns.items()
                }
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
