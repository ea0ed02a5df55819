"""AUROC with bootstrap intervals, and the table that compares detectors of new images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.novelty.detectors import Detector, Judgement
from training.data import Pixels

__all__ = ["FALSE_ALARM_RATE", "OURS", "RESAMPLES", "Comparison", "auroc_resamples", "compare", "verdict"]

Floats = NDArray[np.float64]

OURS = "ours"
FALSE_ALARM_RATE = 0.05
RESAMPLES = 1000
INTERVAL = (0.025, 0.975)
"""Quantiles of the resamples between which the 95 % interval lies."""


def auroc_resamples(known: Floats, novel: Floats, known_weights: Floats, novel_weights: Floats) -> Floats:
    """Probability that a new image scores higher than a known one, ties counted half, in each of B resamples.

    Args:
        known: Scores of n known images, shape (n,).
        novel: Scores of m new images, shape (m,).
        known_weights: How often each known image is in each resample, shape (B, n).
        novel_weights: The same of the new images, shape (B, m).

    Returns:
        AUROC of each resample, shape (B,).
    """
    order = np.argsort(known)
    shares = np.cumsum(known_weights[:, order], axis=1) / known_weights.sum(axis=1, keepdims=True)
    shares = np.pad(shares, ((0, 0), (1, 0)))
    below, up_to = (np.searchsorted(known[order], novel, side=side) for side in ("left", "right"))
    placements = 0.5 * (shares[:, below] + shares[:, up_to])
    areas: Floats = (placements * novel_weights).sum(axis=1) / novel_weights.sum(axis=1)
    return areas


@dataclass(frozen=True)
class Comparison:
    """What detectors answered, by the name of the detector and then of the set of images.

    auroc:       AUROC of each set against the known images, and of its resamples: shape (1 + RESAMPLES,)
    missed:      share of each set that is not called new at the false-alarm rate
    called_new:  share of the known images that is called new
    """

    auroc: Mapping[str, Mapping[str, Floats]]
    missed: Mapping[str, Mapping[str, float]]
    called_new: Mapping[str, float]

    def mean_auroc(self, detector: str) -> Floats:
        """Mean AUROC over the sets, and of each resample."""
        mean: Floats = np.mean(list(self.auroc[detector].values()), axis=0)
        return mean

    def header(self) -> list[str]:
        """Names of the columns of `lines`."""
        return ["set", *self.auroc, f"{OURS} against the best other"]

    def lines(self) -> list[list[str]]:
        """A line per set, one of the means, and one of the known images."""
        lines = [
            [
                name,
                *(_cell(self.auroc[detector][name], self.missed[detector][name]) for detector in self.auroc),
                verdict({detector: areas[name] for detector, areas in self.auroc.items()}),
            ]
            for name in self.auroc[OURS]
        ]
        means = {detector: self.mean_auroc(detector) for detector in self.auroc}
        missed = {detector: float(np.mean(list(shares.values()))) for detector, shares in self.missed.items()}
        lines.append(["**mean**", *(_cell(means[name], missed[name]) for name in means), verdict(means)])
        lines.append(["test images called new", *(f"{share:.1%}" for share in self.called_new.values()), ""])
        return lines


def verdict(areas: Mapping[str, Floats]) -> str:
    """Compare our AUROC with the best of the others in words.

    One of them wins if the 95 % interval of their difference, over the same resamples, is above or below 0.

    Args:
        areas: AUROC by detector, the first value of all images and the others of resamples.
    """
    best = max((name for name in areas if name != OURS), key=lambda name: areas[name][0])
    difference = areas[best] - areas[OURS]
    low, high = np.quantile(difference[1:], INTERVAL)
    if low > 0:
        return f"**{best} wins** by {_gap(difference[0])}"
    if high < 0:
        return f"{OURS} wins by {_gap(-difference[0])}"
    return f"no clear difference from {best}"


def _gap(difference: float) -> str:
    return f"{difference:.3f}" if difference >= 0.0005 else "less than 0.001"


def compare(
    detectors: Mapping[str, Detector], known: Pixels, sets: Mapping[str, Pixels], random: np.random.Generator
) -> Comparison:
    """Let each detector judge known images and sets of new ones; all detectors have the same resamples."""
    known_weights = _weights(len(known), random)
    weights = {name: _weights(len(images), random) for name, images in sets.items()}
    auroc: dict[str, dict[str, Floats]] = {}
    missed: dict[str, dict[str, float]] = {}
    called_new = {}
    for title, detector in detectors.items():
        of_known = detector.judge(known)
        called_new[title] = 1.0 - _missed(of_known)
        auroc[title], missed[title] = {}, {}
        for name, images in sets.items():
            judged = detector.judge(images)
            auroc[title][name] = auroc_resamples(of_known.scores, judged.scores, known_weights, weights[name])
            missed[title][name] = _missed(judged)
    return Comparison(auroc, missed, called_new)


def _weights(count: int, random: np.random.Generator) -> Floats:
    """How often each image is in each sample: once in the first, which is all images; then bootstrap resamples."""
    resampled = random.multinomial(count, np.full(count, 1.0 / count), size=RESAMPLES)
    return np.concatenate([np.ones((1, count)), resampled])


def _missed(judged: Judgement) -> float:
    return float(np.mean(judged.p_values > FALSE_ALARM_RATE))


def _cell(areas: Floats, missed: float) -> str:
    low, high = np.quantile(areas[1:], INTERVAL)
    return f"{areas[0]:.3f} [{low:.3f}, {high:.3f}], {missed:.0%}"
