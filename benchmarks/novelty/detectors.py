"""Detectors of new images: the service's score, the log-likelihood alone, and detectors of PyOD."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from training.data import Pixels
from vampprior.calibration import read_calibration
from vampprior.checkpoint import load_checkpoint
from vampprior.novelty import Decision, conformal_p_values
from vampprior.statistics import image_statistics

__all__ = [
    "PCA_VARIANCE",
    "Detector",
    "Judgement",
    "LogLikelihoodDetector",
    "NoveltyDetector",
    "OfPyOD",
    "pyod_detectors",
]

Floats = NDArray[np.float64]

PCA_VARIANCE = 0.99
"""Share of the variance of the training images that the components of PCA have."""


class Judgement(NamedTuple):
    """Scores of N images, higher for newer ones, and their conformal p-values; shape (N,) each."""

    scores: Floats
    p_values: Floats


class Detector(Protocol):
    """A detector that is fitted and calibrated."""

    def judge(self, images: Pixels) -> Judgement:
        """Judge images (N, H, W) of 8-bit gray levels."""


class NoveltyDetector:
    """The novelty score of a checkpoint with its calibration, as `POST /novelty` answers it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.model, self.card = load_checkpoint(folder)
        self.calibration = read_calibration(folder, self.card)
        self.seed = seed
        with torch.inference_mode():
            self.mixture = self.model.prior_mixture()

    def judge(self, images: Pixels) -> Judgement:
        """Judge images by the score of `Calibration.decide`."""
        decisions = self._decide(images)
        return Judgement(
            np.array([decision.score for decision in decisions]), np.array([decision.p_value for decision in decisions])
        )

    def _decide(self, images: Pixels) -> list[Decision]:
        statistics = image_statistics(
            self.model,
            self.model.likelihood.from_bytes(torch.from_numpy(images[:, None])),
            num_samples=self.calibration.num_samples,
            mixture=self.mixture,
            generator=torch.Generator().manual_seed(self.seed),
        )
        return self.calibration.decide(statistics)


class LogLikelihoodDetector(NoveltyDetector):
    """-log p(x), estimated from as many samples as the novelty score."""

    def judge(self, images: Pixels) -> Judgement:
        """Judge images by their log-likelihood alone."""
        found = [decision.statistics["log_likelihood"] for decision in self._decide(images)]
        return Judgement(-np.array([one.value for one in found]), np.array([one.p_value for one in found]))


class OfPyOD:
    """A detector of PyOD, fitted to training images as rows of gray levels in [0, 1].

    Scores of validation images give its p-values.
    """

    def __init__(self, detector: Any, train: Pixels, valid: Pixels) -> None:
        self.detector = detector
        self.detector.fit(_rows(train))
        self.known = np.sort(self.detector.decision_function(_rows(valid)))

    def judge(self, images: Pixels) -> Judgement:
        """Judge images by the detector's decision function."""
        scores = self.detector.decision_function(_rows(images))
        if not np.isfinite(scores).all():
            raise FloatingPointError(f"a score of {type(self.detector).__name__} is not finite")
        return Judgement(scores, conformal_p_values(self.known, scores))


def pyod_detectors(seed: int, threads: int) -> dict[str, Any]:
    """PyOD's detectors by name, not fitted, with their default settings where these work.

    By default PCA divides by the variance of all components, which may be 0 if a pixel is the same in all images.
    """
    from pyod.models.auto_encoder import AutoEncoder
    from pyod.models.iforest import IForest
    from pyod.models.knn import KNN
    from pyod.models.lof import LOF
    from pyod.models.pca import PCA

    return {
        "IsolationForest": IForest(random_state=seed, n_jobs=threads),
        "KNN": KNN(n_jobs=threads),
        "LOF": LOF(n_jobs=threads),
        "PCA": PCA(n_components=PCA_VARIANCE, random_state=seed),
        "AutoEncoder": AutoEncoder(random_state=seed, verbose=0),
    }


def _rows(images: Pixels) -> NDArray[np.float32]:
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)
