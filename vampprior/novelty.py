"""Decisions whether images are new to a model, from statistics of the images. Does not import torch.

The score of an image is a smooth maximum of two statistics, each on a scale where 0 is the median of known images and 1
their 95th percentile:

- the surprise, the nats by which its ELBO is lower than is usual for an image as complex, where complexity is the total
  variation of the pixels;
- the KL between posterior and prior, summed over the layers.

Scores of calibration images, which the model was not trained on, turn a score into a p-value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LOWER_IS_NOVEL",
    "NUM_SAMPLES",
    "Coefficients",
    "CrossFit",
    "Decision",
    "Floats",
    "Statistic",
    "Statistics",
    "benjamini_hochberg",
    "conformal_p_values",
    "cross_fit",
    "decisions",
    "describe",
    "fit_coefficients",
    "named_statistics",
]

Floats = NDArray[np.floating]

NUM_SAMPLES = 16
"""Default number of draws of the latents per image."""
LOWER_IS_NOVEL = frozenset({"elbo", "reconstruction", "log_likelihood"})
"""Statistics whose small values are unusual; of all others large values are."""
MAX_CORRELATION = -0.3
"""The ELBO is predicted from the complexity only where their correlation is below this."""
NUM_FOLDS = 5


@dataclass(frozen=True)
class Statistics:
    r"""Statistics of N images; each array has shape $(N)$. All but the total variation are in nats.

    Args:
        elbo: Mean of $\log p(x, z_s) - \log q(z_s \mid x)$ over the draws.
        reconstruction: Mean of $\log p(x \mid z_s)$.
        log_likelihood: Importance-sampling estimate of $\log p(x)$ from the same draws.
        total_variation: Sum of absolute differences between neighbouring pixels.
        kl: KL between posterior and prior for each stochastic layer, top first; their sum is `reconstruction` - `elbo`.

    Example:
        >>> one = np.ones(3)
        >>> statistics = Statistics(-one, one, one, one, {"z2": one, "z1": one})
        >>> len(statistics), statistics.total_kl.tolist(), len(statistics[:2])
        (3, [2.0, 2.0, 2.0], 2)
    """

    elbo: Floats
    reconstruction: Floats
    log_likelihood: Floats
    total_variation: Floats
    kl: Mapping[str, Floats]

    def __len__(self) -> int:
        return len(self.elbo)

    def __getitem__(self, index: slice | NDArray[np.integer] | NDArray[np.bool_]) -> Statistics:
        """The statistics of some of the images."""
        columns = {item.name: getattr(self, item.name)[index] for item in fields(self) if item.name != "kl"}
        return Statistics(**columns, kl={layer: column[index] for layer, column in self.kl.items()})

    @property
    def total_kl(self) -> Floats:
        """KL summed over the layers."""
        total: Floats = np.sum(list(self.kl.values()), axis=0)
        return total

    @classmethod
    def concatenate(cls, parts: list[Statistics]) -> Statistics:
        """The statistics of the images of all parts, of which there must be at least one."""
        columns = {
            item.name: np.concatenate([getattr(part, item.name) for part in parts])
            for item in fields(cls)
            if item.name != "kl"
        }
        return cls(**columns, kl={layer: np.concatenate([part.kl[layer] for part in parts]) for layer in parts[0].kl})


class Coefficients(NamedTuple):
    """What is fitted to the statistics of calibration images.

    Args:
        slope, intercept: Line that predicts the ELBO in nats from the total variation.
        low, high: Range of the total variation of calibration images, to which it is clipped first.
        surprise_median, surprise_scale: Median of the surprise and the distance from it to the 95th percentile.
        kl_median, kl_scale: The same of the KL summed over the layers.
    """

    slope: float
    intercept: float
    low: float
    high: float
    surprise_median: float
    surprise_scale: float
    kl_median: float
    kl_scale: float

    def surprise(self, statistics: Statistics) -> Floats:
        """Nats by which the ELBO is lower than is usual for an image as complex, shape $(N)$."""
        complexity = np.clip(statistics.total_variation, self.low, self.high)
        difference: Floats = self.intercept + self.slope * complexity - statistics.elbo
        return difference

    def standardized(self, statistics: Statistics) -> dict[str, Floats]:
        """The two parts of the score by name, shape $(N)$ each: 0 at the median, 1 at the 95th percentile."""
        surprise = self.surprise(statistics)
        return {
            "surprise": (surprise - self.surprise_median) / self.surprise_scale,
            "kl": (statistics.total_kl - self.kl_median) / self.kl_scale,
        }

    def score(self, statistics: Statistics) -> Floats:
        r"""The novelty score of each image, shape $(N)$; higher is more unusual.

        It is the smooth maximum $\frac{1}{2} \log(e^{2a} + e^{2b})$ of the two standardized parts: it is close to the
        larger one, and higher by at most $\frac{1}{2} \log 2$ if both are equal.
        """
        surprise, kl = self.standardized(statistics).values()
        smooth: Floats = 0.5 * np.logaddexp(2.0 * surprise, 2.0 * kl)
        return smooth


def fit_coefficients(statistics: Statistics) -> Coefficients:
    """Fit the coefficients to the statistics of calibration images.

    Raises:
        ValueError: If there are fewer than two images, or a statistic is not finite.
    """
    complexity, elbo, kl = statistics.total_variation, statistics.elbo, statistics.total_kl
    if len(elbo) < 2:
        raise ValueError("at least two calibration images are needed")
    if not all(np.isfinite(column).all() for column in (complexity, elbo, kl)):
        raise ValueError("a statistic of a calibration image is not finite")
    slope, intercept = 0.0, float(elbo.mean())
    if complexity.std() > 0 and elbo.std() > 0 and np.corrcoef(complexity, elbo)[0, 1] < MAX_CORRELATION:
        slope = float(np.cov(complexity, elbo)[0, 1] / complexity.var(ddof=1))
        intercept -= slope * float(complexity.mean())
    line = Coefficients(slope, intercept, float(complexity.min()), float(complexity.max()), 0.0, 1.0, 0.0, 1.0)
    surprise_median, surprise_scale = _median_and_scale(line.surprise(statistics))
    kl_median, kl_scale = _median_and_scale(kl)
    return line._replace(
        surprise_median=surprise_median, surprise_scale=surprise_scale, kl_median=kl_median, kl_scale=kl_scale
    )


class CrossFit(NamedTuple):
    """Values of calibration images under coefficients that were fitted to other images; shape $(N)$ each."""

    surprise: Floats
    score: Floats


def cross_fit(statistics: Statistics, seed: int = 0, num_folds: int = NUM_FOLDS) -> CrossFit:
    """Score each calibration image by coefficients fitted to the other folds.

    An image never influences the coefficients that score it, so its score is comparable to that of a new image.

    Args:
        statistics: Statistics of the calibration images.
        seed: Seed of the random division into folds.
        num_folds: Number of folds.

    Raises:
        ValueError: If there are fewer than four images, or a statistic is not finite.
    """
    num_images = len(statistics)
    if num_images < 4:
        raise ValueError(f"at least four calibration images are needed, not {num_images}")
    order = np.random.default_rng(seed).permutation(num_images)
    surprise, score = np.empty(num_images), np.empty(num_images)
    for held_out in np.array_split(order, min(num_folds, num_images)):
        others = np.setdiff1d(order, held_out)
        coefficients = fit_coefficients(statistics[others])
        surprise[held_out] = coefficients.surprise(statistics[held_out])
        score[held_out] = coefficients.score(statistics[held_out])
    return CrossFit(surprise, score)


def conformal_p_values(calibration: Floats, scores: Floats) -> Floats:
    r"""Conformal p-values $(1 + |\{i : c_i \ge s\}|) / (n + 1)$ of scores s, given ascending calibration scores c.

    For an image from the distribution of the calibration images, P(p-value <= a) is at most a for every a.

    References:
        | Testing for Outliers with Conformal p-values (Bates et al., 2023)
        | https://arxiv.org/abs/2104.08279

    Example:
        >>> conformal_p_values(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0, 9.0])).tolist()
        [1.0, 0.75, 0.25]
    """
    at_least = len(calibration) - np.searchsorted(calibration, scores, side="left")
    return (1.0 + at_least) / (len(calibration) + 1.0)


def benjamini_hochberg(p_values: Floats, fdr: float) -> NDArray[np.bool_]:
    """Which images are novel, with an expected share of false alarms among them of at most `fdr`.

    References:
        | Controlling the False Discovery Rate (Benjamini & Hochberg, 1995)
        | https://doi.org/10.1111/j.2517-6161.1995.tb02031.x

    Raises:
        ValueError: If `fdr` is not between 0 and 1.

    Example:
        >>> benjamini_hochberg(np.array([0.04, 0.01, 0.9]), fdr=0.1).tolist()
        [True, True, False]
    """
    if not 0.0 < fdr < 1.0:
        raise ValueError(f"fdr must be between 0 and 1, not {fdr}")
    count = len(p_values)
    ascending = np.sort(p_values)
    accepted = np.flatnonzero(ascending <= fdr * np.arange(1, count + 1) / max(1, count))
    if not len(accepted):
        return np.zeros(count, bool)
    rejected: NDArray[np.bool_] = p_values <= ascending[accepted[-1]]
    return rejected


class Statistic(NamedTuple):
    """A statistic of an image, with the conformal p-value that it has alone."""

    value: float
    p_value: float


@dataclass(frozen=True)
class Decision:
    """Whether an image is new to the model, and what speaks for it.

    Args:
        score: The novelty score; higher is more unusual.
        p_value: Conformal p-value of the score.
        novel: True if the image is decided to be new.
        false_alarm_rate: Share of known images that are called new; None if the decision is by `fdr`.
        fdr: False discovery rate over all images that were decided together; None if it is by `false_alarm_rate`.
        statistics: `elbo`, `reconstruction`, `log_likelihood`, `kl`, `kl_<layer>` and `surprise`, in nats.
        sentence: The decision in plain English.
    """

    score: float
    p_value: float
    novel: bool
    false_alarm_rate: float | None
    fdr: float | None
    statistics: Mapping[str, Statistic]
    sentence: str = ""


def describe(decision: Decision, coefficients: Coefficients, parts: Mapping[str, float], num_calibration: int) -> str:
    """One sentence that states the decision, its p-value, and for a new image the main reason.

    Args:
        decision: The decision.
        coefficients: The fitted coefficients.
        parts: The standardized parts of the score.
        num_calibration: Number of calibration images.
    """
    count = round(decision.p_value * (num_calibration + 1)) - 1
    verdict = "This image is new to the model" if decision.novel else "There is no clear sign that this image is new"
    how_many = f"{count:,} of {num_calibration:,} calibration images" if count else "none of the calibration images"
    look = "looks" if count == 1 else "look"
    return (
        f"{verdict}: {how_many} {look} at least as unusual ({_rule(decision)}){_reason(decision, coefficients, parts)}."
    )


def _rule(decision: Decision) -> str:
    p_value = f"p = {decision.p_value:.3g}"
    if decision.fdr is not None:
        return f"{p_value}, decided at a false discovery rate of {decision.fdr:g}"
    relation = "at most" if decision.novel else "more than"
    return f"{p_value}, {relation} the false-alarm rate of {decision.false_alarm_rate:.3g}"


def _reason(decision: Decision, coefficients: Coefficients, parts: Mapping[str, float]) -> str:
    if not decision.novel:
        return ""
    if parts["surprise"] >= parts["kl"]:
        nats = decision.statistics["surprise"].value
        return f", mainly because its ELBO is {nats:.1f} nats lower than is usual for an image as complex"
    nats = decision.statistics["kl"].value
    return f", mainly because its latent code has a KL of {nats:.1f} nats, where {coefficients.kl_median:.1f} is usual"


def decisions(
    coefficients: Coefficients,
    calibration: Mapping[str, Floats],
    statistics: Statistics,
    false_alarm_rate: float | None = None,
    fdr: float | None = None,
) -> Iterator[Decision]:
    """Decisions on N images, given ascending calibration values by name; see `Calibration.decide`."""
    num_calibration = len(calibration["score"])
    smallest = 1.0 / (num_calibration + 1.0)
    if false_alarm_rate is not None and fdr is not None:
        raise ValueError("give either false_alarm_rate or fdr, not both")
    if false_alarm_rate is not None and not smallest <= false_alarm_rate < 1.0:
        raise ValueError(
            f"false_alarm_rate must be below 1 and at least {smallest:.2g}, the smallest p-value that "
            f"{num_calibration:,} calibration images can give, not {false_alarm_rate:g}"
        )
    rate = max(0.01, smallest) if false_alarm_rate is None else false_alarm_rate
    parts = coefficients.standardized(statistics)
    values = {
        "score": coefficients.score(statistics),
        **named_statistics(statistics, coefficients.surprise(statistics)),
    }
    p_values = {name: _p_values(name, calibration[name], column) for name, column in values.items()}
    novel = p_values["score"] <= rate if fdr is None else benjamini_hochberg(p_values["score"], fdr)
    for index in range(len(statistics)):
        decision = Decision(
            score=float(values["score"][index]),
            p_value=float(p_values["score"][index]),
            novel=bool(novel[index]),
            false_alarm_rate=rate if fdr is None else None,
            fdr=fdr,
            statistics={
                name: Statistic(float(column[index]), float(p_values[name][index]))
                for name, column in values.items()
                if name != "score"
            },
        )
        shares = {name: float(part[index]) for name, part in parts.items()}
        yield replace(decision, sentence=describe(decision, coefficients, shares, num_calibration))


def named_statistics(statistics: Statistics, surprise: Floats) -> dict[str, Floats]:
    """The statistics that have a p-value, by the names that decisions use."""
    return {
        "elbo": statistics.elbo,
        "reconstruction": statistics.reconstruction,
        "log_likelihood": statistics.log_likelihood,
        "kl": statistics.total_kl,
        **{f"kl_{layer}": column for layer, column in statistics.kl.items()},
        "surprise": surprise,
    }


def _p_values(name: str, calibration: Floats, values: Floats) -> Floats:
    # calibration values are stored in float32, so equal values must be rounded equally
    rounded = np.asarray(values, np.float32)
    if name in LOWER_IS_NOVEL:
        return conformal_p_values(-calibration[::-1], -rounded)
    return conformal_p_values(calibration, rounded)


def _median_and_scale(values: Floats) -> tuple[float, float]:
    median, upper = np.quantile(values, (0.5, 0.95))
    return float(median), max(float(upper - median), 1e-6)
