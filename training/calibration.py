"""Calibration of a checkpoint: the statistics of images that it was not trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.checkpoints import dataset_of
from training.data import Dataset, DatasetError, Pixels, Wanted, load_dataset
from vampprior.binarization import sample_binary
from vampprior.calibration import (
    DEFAULT_NAME,
    Calibration,
    CalibrationError,
    LatentMap,
    calibration_file,
    map_rows,
    write_calibration,
)
from vampprior.card import Card
from vampprior.checkpoint import load_checkpoint
from vampprior.importance import chunk_rows, log_likelihood
from vampprior.latent_model import LatentModel
from vampprior.likelihoods import LIKELIHOODS
from vampprior.novelty import NUM_SAMPLES, Statistics
from vampprior.statistics import image_statistics

__all__ = ["Binarize", "Calibrator", "Images", "latent_map", "load_images", "own_images", "validation_images"]

TABLE_SAMPLES = (1, 16, 100, 500)
"""Numbers of importance samples whose log-likelihoods are tabulated; the card has those of an evaluation."""
CHEAP_SAMPLES = 16
"""Tables of more samples than this are of at most `MAX_TABLE_IMAGES` images."""
MAX_TABLE_IMAGES = 1000
BATCH = 500
"""Images that are encoded at once."""
MIN_IMAGES = 20


class Binarize(StrEnum):
    """How gray images become black and white for a binary model, as `binarize` of a request."""

    THRESHOLD = "threshold"
    SAMPLE = "sample"


@dataclass(frozen=True)
class Images:
    """Calibration images as 8-bit gray levels, shape (N, C, H, W), with their labels if there are any."""

    pixels: Pixels
    labels: NDArray[np.int32] | None = None

    @property
    def sha256(self) -> str:
        """Hash of the pixels."""
        return hashlib.sha256(self.pixels.tobytes()).hexdigest()

    def check(self) -> None:
        """Raise `DatasetError` if there are too few images."""
        if len(self.pixels) < MIN_IMAGES:
            raise DatasetError(f"there are {len(self.pixels)} calibration images; at least {MIN_IMAGES} are needed")


def load_images(
    card: Card,
    images: Path | None = None,
    data_directory: Path | None = None,
    binarize: Binarize = Binarize.THRESHOLD,
    seed: int = 0,
) -> Images:
    """The validation images of a checkpoint's data set, or the user's own ones if their path is given.

    `binarize` and `seed` are those of `own_images`.

    Raises `CheckpointError` if the card does not name its data set, or `binarize` does not fit the images or the model;
    and `DatasetError` if images cannot be loaded, are of another size than the model's, or are fewer than 20.
    """
    if binarize is Binarize.SAMPLE and images is None:
        raise CalibrationError("--binarize sample is for --images; validation images are as their data set has them")
    found = (
        own_images(card, images, binarize, seed)
        if images
        else validation_images(dataset_of(card, data_directory, "valid"))
    )
    if found.pixels.shape[1:] != card.model.image_shape:
        raise DatasetError(f"the images have shape {found.pixels.shape[1:]}, the model's {card.model.image_shape}")
    found.check()
    return found


def validation_images(dataset: Dataset) -> Images:
    """The validation images of a data set."""
    return Images(dataset.gray("valid"), dataset.labels.get("valid"))


def own_images(card: Card, path: Path, binarize: Binarize = Binarize.THRESHOLD, seed: int = 0) -> Images:
    """All images of a folder or a file of arrays, prepared as the card says.

    Those of a binary model are thresholded at one half, or their pixels are drawn by their gray levels, image i from
    the stream (seed, i). Raises `CalibrationError` if pixels are to be drawn for a model that takes gray levels.
    """
    likelihood = LIKELIHOODS[card.model.likelihood]
    drawn = binarize is Binarize.SAMPLE
    if drawn and not likelihood.binary:
        raise CalibrationError("--binarize sample is for binary models, and this one takes gray levels as they are")
    wanted = Wanted.of(card.preparation) if card.preparation else None
    dataset = load_dataset(str(path.absolute()), likelihood=None if drawn else likelihood, wanted=wanted)
    gray = np.concatenate([dataset.gray(split) for split in ("train", "valid", "test")])
    return Images(sample_binary(gray, seed) if drawn else gray)


class Calibrator:
    """The calibration of a checkpoint.

    folder:      the checkpoint
    name:        the calibration's name; "default" is that of the validation images
    num_samples: draws of the latents per image
    seed:        seed of the noise, of the folds, and of the choice of images for the tables and the map
    max_bytes:   memory of the largest tensor

    Raises `CheckpointError` if the checkpoint is damaged or the name not a valid one.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        max_bytes: int,
        name: str = DEFAULT_NAME,
        num_samples: int = NUM_SAMPLES,
        seed: int = 0,
    ) -> None:
        self.folder, self.name, self.num_samples, self.seed = folder, name, num_samples, seed
        self.path = folder / calibration_file(name)
        model, self.card = load_checkpoint(folder)
        self.model, self.max_bytes = model.to(device), max_bytes
        with torch.inference_mode():
            self.mixture = self.model.prior_mixture()

    def num_draws(self, num_images: int) -> int:
        """Number of draws of the latents in all, for a progress bar."""
        return sum(samples * len(self._chosen(samples, num_images)) for samples in self._samples())

    def run(self, images: Images, show: Callable[[int], None]) -> Calibration:
        """Compute the calibration of some images; `show` is called with the number of draws that were added.

        On a CPU each thread has batches of its own, so that the numbers do not depend on how many threads there are.

        Raises `FloatingPointError` if a statistic is not finite.
        """
        threads = torch.get_num_threads()
        workers = threads if self.mixture.mean.device.type == "cpu" else 1
        pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
        try:
            statistics = self._statistics(images, pool, show)
            tables = {
                samples: self._log_likelihoods(images, samples, pool, show)
                for samples in self._samples()
                if samples != self.num_samples
            }
            plane = pool.submit(latent_map, self.model, images, self.seed).result()
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)  # threads started later take the last number that was set
        return Calibration.of(
            statistics,
            name=self.name,
            weights_sha256=self.card.weights_sha256,
            images_sha256=images.sha256,
            num_samples=self.num_samples,
            seed=self.seed,
            log_likelihoods=tables,
            latent_map=plane,
        )

    def write(self, calibration: Calibration) -> Card:
        """Write the calibration and the card that names it."""
        return write_calibration(self.folder, calibration)

    def _samples(self) -> list[int]:
        return sorted({*TABLE_SAMPLES, self.num_samples})

    def _chosen(self, num_samples: int, num_images: int) -> NDArray[np.int64]:
        """Indices of the images for a table."""
        if num_samples in (self.num_samples, *range(CHEAP_SAMPLES + 1)) or num_images <= MAX_TABLE_IMAGES:
            return np.arange(num_images)
        return np.sort(np.random.default_rng(self.seed).permutation(num_images)[:MAX_TABLE_IMAGES])

    def _batches(self, indices: NDArray[np.int64], num_samples: int) -> list[NDArray[np.int64]]:
        size = max(1, chunk_rows(self.model, self.max_bytes) // num_samples)
        return [indices[start : start + size] for start in range(0, len(indices), size)]

    def _statistics(self, images: Images, pool: ThreadPoolExecutor, show: Callable[[int], None]) -> Statistics:
        def score(batch: NDArray[np.int64]) -> Statistics:
            x, noise = self._inputs(images, batch, self.num_samples)
            return image_statistics(
                self.model,
                x,
                num_samples=self.num_samples,
                noise=noise,
                mixture=self.mixture,
                max_bytes=self.max_bytes,
            )

        parts = []
        for part in pool.map(
            score, self._batches(self._chosen(self.num_samples, len(images.pixels)), self.num_samples)
        ):
            parts.append(part)
            show(self.num_samples * len(part))
        statistics = Statistics.concatenate(parts)
        if not (np.isfinite(statistics.log_likelihood).all() and np.isfinite(statistics.elbo).all()):
            raise FloatingPointError("a statistic of a calibration image is not finite, so the model cannot be used")
        return statistics

    def _log_likelihoods(
        self, images: Images, num_samples: int, pool: ThreadPoolExecutor, show: Callable[[int], None]
    ) -> NDArray[np.float32]:
        def score(batch: NDArray[np.int64]) -> NDArray[np.float32]:
            x, noise = self._inputs(images, batch, num_samples)
            found = log_likelihood(
                self.model, x, num_samples=num_samples, noise=noise, mixture=self.mixture, max_bytes=self.max_bytes
            )
            return found.value.float().numpy()

        columns = []
        for column in pool.map(score, self._batches(self._chosen(num_samples, len(images.pixels)), num_samples)):
            columns.append(column)
            show(num_samples * len(column))
        return np.concatenate(columns)

    def _inputs(self, images: Images, indices: NDArray[np.int64], num_samples: int) -> tuple[Tensor, Tensor]:
        """Pixels and noise; each image has noise of its own, so that neither depends on the batch."""
        device = self.mixture.mean.device
        x = self.model.likelihood.from_bytes(torch.from_numpy(images.pixels[indices]).to(device))
        noise = torch.stack([self._noise(int(index), num_samples) for index in indices])
        return x, noise.to(device)

    def _noise(self, index: int, num_samples: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        return torch.randn(num_samples, self.model.noise_dim, generator=generator)


@torch.inference_mode()
def latent_map(model: LatentModel, images: Images, seed: int = 0) -> LatentMap:
    """Images and prototypes in the plane of the two main components of the posterior means of the top layer."""
    chosen = map_rows(len(images.pixels), seed)
    mixture = model.prior_mixture()
    means = []
    for part in np.array_split(chosen, max(1, len(chosen) // BATCH)):
        x = model.likelihood.from_bytes(torch.from_numpy(images.pixels[part]).to(mixture.mean.device))
        means.append(next(iter(model.encode(x).values())).mean.cpu().double().numpy())
    points = np.concatenate(means)
    center = points.mean(0)
    _, _, rows = np.linalg.svd(points - center, full_matrices=False)
    components = np.zeros((2, points.shape[1]))
    components[: len(rows[:2])] = rows[:2]
    # the sign of a component is arbitrary: make its largest entry positive
    signs = np.sign(components[np.arange(2), np.abs(components).argmax(1)])
    components *= np.where(signs == 0, 1.0, signs)[:, None]
    labels = np.full(len(chosen), -1, np.int32) if images.labels is None else images.labels[chosen]
    plane = LatentMap(center, components, points, labels, mixture.mean.cpu().double().numpy())
    return plane._replace(points=plane.project(points), prototypes=plane.project(plane.prototypes))
