"""Calibrations: what is known of a model's statistics on images that it was not trained on. Does not import torch.

    <store>/<name>/<version>/calibration.safetensors          of the validation images, under the name "default"
    <store>/<name>/<version>/calibration-<name>.safetensors   of the user's own normal images

The card names each file with its sha256.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from vampprior.card import CHECKPOINT_NAME, Card, CheckpointError, read_card, read_file, write_card
from vampprior.files import atomic_write
from vampprior.novelty import (
    NUM_SAMPLES,
    Coefficients,
    Decision,
    Floats,
    Statistics,
    cross_fit,
    decisions,
    fit_coefficients,
    named_statistics,
)

__all__ = [
    "DEFAULT_NAME",
    "Calibration",
    "CalibrationError",
    "LatentMap",
    "calibration_file",
    "log_likelihood_percentile",
    "map_rows",
    "read_calibration",
    "read_calibrations",
    "write_calibration",
]

DEFAULT_NAME = "default"
SCHEMA_VERSION = 1
MAX_CALIBRATION_BYTES = 64 * 1024 * 1024
MAX_POINTS = 2000
"""Most points of a map."""
PLAIN_STATISTICS = ("elbo", "reconstruction", "log_likelihood", "total_variation")


class CalibrationError(CheckpointError):
    """A calibration that must not be used; the message says what is wrong with it."""


class LatentMap(NamedTuple):
    """Posterior means of the top layer in two dimensions, by principal component analysis.

    Args:
        mean: Center of the posterior means, shape $(M)$.
        components: The two principal components, rows of length 1, shape $(2, M)$.
        points: Calibration images, at most 2,000, shape $(P, 2)$.
        labels: Labels of the points, shape $(P)$; -1 where there are none.
        prototypes: Means of the prior's components, shape $(K, 2)$.
    """

    mean: Floats
    components: Floats
    points: Floats
    labels: NDArray[np.int32]
    prototypes: Floats

    def project(self, means: Floats) -> Floats:
        """Positions of posterior means, shape $(N, M)$ to $(N, 2)$."""
        positions: Floats = (means - self.mean) @ self.components.T
        return positions


@dataclass(frozen=True)
class Calibration:
    """Statistics of n calibration images, from which decisions about new images follow.

    Args:
        name: "default" for the validation images, or a name that the user chose.
        weights_sha256: Hash of the weights that the statistics are of.
        images_sha256: Hash of the calibration images.
        num_samples: Draws S of the latents per image; new images must be scored with as many.
        seed: Seed of the noise and of the folds.
        statistics: Statistics of the images, float32, in their order.
        surprise: Their cross-fitted surprise in nats, float32, shape $(n)$.
        scores: Their cross-fitted novelty scores, ascending, float32, shape $(n)$.
        coefficients: Coefficients fitted to all images, which score new ones.
        log_likelihoods: Log-likelihoods in nats of some of the images, ascending, float32, by number of importance
            samples.
        map: The images and the prior's components in two dimensions; None if there is none.

    Example:
        >>> column = np.linspace(0.0, 1.0, 99)
        >>> statistics = Statistics(-column, column, -column, column, {"z1": column + column})
        >>> calibration = Calibration.of(statistics, name="default", weights_sha256="")
        >>> calibration.smallest_p_value, calibration.default_false_alarm_rate
        (0.01, 0.01)
        >>> unusual = Statistics(column[:1] - 9, column[:1], column[:1], column[:1], {"z1": column[:1] + 9})
        >>> (decision,) = calibration.decide(unusual)
        >>> decision.novel, decision.p_value
        (True, 0.01)
    """

    name: str
    weights_sha256: str
    images_sha256: str
    num_samples: int
    seed: int
    statistics: Statistics
    surprise: Floats
    scores: Floats
    coefficients: Coefficients
    log_likelihoods: Mapping[int, Floats] = field(default_factory=dict)
    map: LatentMap | None = None

    @classmethod
    def of(
        cls,
        statistics: Statistics,
        *,
        name: str,
        weights_sha256: str,
        images_sha256: str = "",
        num_samples: int = NUM_SAMPLES,
        seed: int = 0,
        log_likelihoods: Mapping[int, Floats] | None = None,
        latent_map: LatentMap | None = None,
    ) -> Calibration:
        """Fit the coefficients and score the calibration images; raises `ValueError` as `cross_fit` does."""
        statistics = _rounded(statistics)
        fitted = cross_fit(statistics, seed)
        tables = {**(log_likelihoods or {}), num_samples: statistics.log_likelihood}
        return cls(
            name=name,
            weights_sha256=weights_sha256,
            images_sha256=images_sha256,
            num_samples=num_samples,
            seed=seed,
            statistics=statistics,
            surprise=fitted.surprise.astype(np.float32),
            scores=np.sort(fitted.score.astype(np.float32)),
            coefficients=fit_coefficients(statistics),
            log_likelihoods={samples: np.sort(_float32(column)) for samples, column in sorted(tables.items())},
            map=latent_map,
        )

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def smallest_p_value(self) -> float:
        """1 / (n + 1); no smaller false-alarm rate can be kept."""
        return 1.0 / (len(self) + 1.0)

    @property
    def default_false_alarm_rate(self) -> float:
        """The larger of 0.01 and the smallest p-value."""
        return max(0.01, self.smallest_p_value)

    def decide(
        self, statistics: Statistics, *, false_alarm_rate: float | None = None, fdr: float | None = None
    ) -> list[Decision]:
        """Decide for each image whether it is new to the model.

        Args:
            statistics: Statistics of the images, from `num_samples` draws each.
            false_alarm_rate: Share of known images that may be called new; by default `default_false_alarm_rate`.
            fdr: False discovery rate to keep over all images together by the method of Benjamini and Hochberg, in
                place of a false-alarm rate.

        Raises:
            ValueError: If both rates are given, one is not below 1, the false-alarm rate is below `smallest_p_value`,
                or the layers of the statistics are not those of the calibration.
        """
        if list(statistics.kl) != list(self.statistics.kl):
            raise ValueError(f"the statistics are of layers {list(statistics.kl)}, not {list(self.statistics.kl)}")
        return list(decisions(self.coefficients, self._ascending, statistics, false_alarm_rate, fdr))

    def percentile(self, log_likelihood: float, num_samples: int) -> float | None:
        """Percentage of calibration images with a lower log-likelihood, estimated with equally many samples.

        Between two numbers of samples that were calibrated it is interpolated; outside of their range it is None.
        """
        return _percentile(self.log_likelihoods, log_likelihood, num_samples)

    @cached_property
    def _ascending(self) -> dict[str, Floats]:
        named = named_statistics(self.statistics, self.surprise)
        return {"score": self.scores, **{name: np.sort(_float32(column)) for name, column in named.items()}}


def log_likelihood_percentile(
    card: Card, calibration: Calibration | None, log_likelihood: float, num_samples: int
) -> float | None:
    """Percentage of held-out images that score lower, if estimates with equally many samples are known; else None.

    Log-likelihoods rise with the number of samples, so scores from different numbers are not compared. The tables of
    the calibration are of its own images; the largest number of samples is that of the test images on the card.
    """
    tables = dict(calibration.log_likelihoods) if calibration is not None else {}
    on_card, values = card.metrics.get("num_samples"), card.quantiles().get("values")
    if isinstance(on_card, int) and values:
        tables[on_card] = np.sort(_float32(values if card.scores is None else card.scores.log_likelihood))
    return _percentile(tables, log_likelihood, num_samples)


def _percentile(tables: Mapping[int, Floats], value: float, num_samples: int) -> float | None:
    below = max((known for known in tables if known <= num_samples), default=None)
    above = min((known for known in tables if known >= num_samples), default=None)
    if below is None or above is None:
        return None
    low, high = (
        100.0 * float(np.searchsorted(tables[known], np.float32(value), side="left")) / len(tables[known])
        for known in (below, above)
    )
    if below == above:
        return low
    return low + (high - low) * math.log(num_samples / below) / math.log(above / below)


def map_rows(count: int, seed: int) -> NDArray[np.int64]:
    """Numbers of the calibration images that are points of the map, ascending: at most 2,000 of `count`."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:MAX_POINTS])


def calibration_file(name: str) -> str:
    """Name of the file of a calibration; raises `CalibrationError` if the calibration's name is not a valid one."""
    if not re.fullmatch(CHECKPOINT_NAME, name):
        raise CalibrationError(
            f"the name {name!r} of a calibration must be lower-case letters, digits, '.', '_' and '-'"
        )
    return "calibration.safetensors" if name == DEFAULT_NAME else f"calibration-{name}.safetensors"


def write_calibration(folder: Path, calibration: Calibration) -> Card:
    """Write a calibration beside the weights and name it in the card; returns the card.

    Writes are atomic, the card's last. Equal calibrations give equal bytes.

    Raises:
        CardError: If there is no valid card.
        CalibrationError: If the card is of other weights, or the name is not a valid one.
    """
    path, card = folder / calibration_file(calibration.name), read_card(folder)
    if card.weights_sha256 != calibration.weights_sha256:
        raise CalibrationError(f"the weights in {folder} are not those that were calibrated")
    header = {
        "schema_version": SCHEMA_VERSION,
        "name": calibration.name,
        "weights_sha256": calibration.weights_sha256,
        "images_sha256": calibration.images_sha256,
        "num_samples": calibration.num_samples,
        "seed": calibration.seed,
        "layers": list(calibration.statistics.kl),
    }
    # a single key, since safetensors writes several in a random order
    payload = save(_arrays(calibration), metadata={"calibration": json.dumps(header)})
    with atomic_write(path) as partial:
        partial.write_bytes(payload)
    digests = {**card.calibrations, calibration.name: hashlib.sha256(payload).hexdigest()}
    return write_card(folder, replace(card, calibrations=dict(sorted(digests.items()))))


def read_calibrations(folder: Path, card: Card) -> dict[str, Calibration]:
    """All calibrations that the card names, by name; none for a checkpoint without calibrations.

    Raises:
        CalibrationError: If one of them is missing or damaged.
    """
    return {name: read_calibration(folder, card, name) for name in card.calibrations}


def read_calibration(folder: Path, card: Card, name: str = DEFAULT_NAME) -> Calibration:
    """Read and verify a calibration of a checkpoint.

    Raises:
        CalibrationError: If the card does not name it, or its file is missing, damaged or of other weights.
    """
    path = folder / calibration_file(name)
    if name not in card.calibrations:
        known = ", ".join(card.calibrations) or "none"
        raise CalibrationError(f"{card.name}@{card.version} has no calibration {name!r}; there are: {known}")
    try:
        payload = read_file(path, MAX_CALIBRATION_BYTES + 1)
    except OSError as error:
        raise CalibrationError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(payload) > MAX_CALIBRATION_BYTES:
        raise CalibrationError(f"{path} is larger than {MAX_CALIBRATION_BYTES} bytes")
    if (digest := hashlib.sha256(payload).hexdigest()) != card.calibrations[name]:
        raise CalibrationError(
            f"{path} has sha256 {digest}, its card says {card.calibrations[name]}: "
            "it is damaged, or another checkpoint's"
        )
    try:
        calibration = _parse(load(payload), _header(payload))
    except CalibrationError as error:
        raise CalibrationError(f"{path}: {error}") from error
    except Exception as error:  # a forged header makes it raise almost anything
        raise CalibrationError(f"{path} does not hold a calibration: {error!r}") from error
    if calibration.name != name:
        raise CalibrationError(f"{path} holds the calibration {calibration.name!r}, not {name!r}")
    if calibration.weights_sha256 != card.weights_sha256:
        raise CalibrationError(f"{path} is of other weights than those of its card; calibrate again")
    return calibration


def _arrays(calibration: Calibration) -> dict[str, NDArray[Any]]:
    statistics = calibration.statistics
    arrays: dict[str, NDArray[Any]] = {
        "scores": calibration.scores,
        "surprise": calibration.surprise,
        "coefficients": np.array(calibration.coefficients, np.float64),
        **{f"statistics.{name}": getattr(statistics, name) for name in PLAIN_STATISTICS},
        **{f"statistics.kl.{layer}": column for layer, column in statistics.kl.items()},
        **{
            f"log_likelihoods.{samples}": column
            for samples, column in calibration.log_likelihoods.items()
            if samples != calibration.num_samples  # the statistics hold these
        },
    }
    if calibration.map is not None:
        arrays |= {
            f"map.{name}": column.astype(np.int32 if name == "labels" else np.float32)
            for name, column in calibration.map._asdict().items()
        }
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _header(payload: bytes) -> dict[str, Any]:
    """The header of the file, which safetensors' NumPy interface does not return for bytes."""
    length = int.from_bytes(payload[:8], "little")
    header = json.loads(json.loads(payload[8 : 8 + length])["__metadata__"]["calibration"])
    if header["schema_version"] != SCHEMA_VERSION:
        raise CalibrationError(f"schema_version is {header['schema_version']!r}, this program reads {SCHEMA_VERSION}")
    return dict(header)


def _parse(arrays: Mapping[str, NDArray[Any]], header: Mapping[str, Any]) -> Calibration:
    statistics = Statistics(
        **{name: arrays[f"statistics.{name}"] for name in PLAIN_STATISTICS},
        kl={str(layer): arrays[f"statistics.kl.{layer}"] for layer in header["layers"]},
    )
    num_samples, prefix = int(header["num_samples"]), "log_likelihoods."
    tables = {int(name.removeprefix(prefix)): array for name, array in arrays.items() if name.startswith(prefix)}
    tables[num_samples] = np.sort(statistics.log_likelihood)
    calibration = Calibration(
        name=str(header["name"]),
        weights_sha256=str(header["weights_sha256"]),
        images_sha256=str(header["images_sha256"]),
        num_samples=num_samples,
        seed=int(header["seed"]),
        statistics=statistics,
        surprise=arrays["surprise"],
        scores=arrays["scores"],
        coefficients=Coefficients(*arrays["coefficients"].tolist()),
        log_likelihoods=dict(sorted(tables.items())),
        map=LatentMap(**{name: arrays[f"map.{name}"] for name in LatentMap._fields}) if "map.mean" in arrays else None,
    )
    _check(calibration, arrays)
    return calibration


def _check(calibration: Calibration, arrays: Mapping[str, NDArray[Any]]) -> None:
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise CalibrationError(f"{name} holds a value that is not finite")
        if (name in ("scores", "surprise") or name.startswith("statistics.")) and array.shape != (len(calibration),):
            raise CalibrationError(f"{name} has shape {array.shape}, not {(len(calibration),)}")
    if not len(calibration) or not calibration.statistics.kl:
        raise CalibrationError("it is of no image or of no layer")
    tables = {f"log_likelihoods.{samples}": column for samples, column in calibration.log_likelihoods.items()}
    for name, column in {"scores": calibration.scores, **tables}.items():
        if column.ndim != 1 or not len(column) or (np.diff(column) < 0).any():
            raise CalibrationError(f"{name} must be a column of ascending values")
    if calibration.coefficients.surprise_scale <= 0 or calibration.coefficients.kl_scale <= 0:
        raise CalibrationError("the scales of its coefficients must be positive")
    if calibration.map is not None:
        _check_map(calibration.map)


def _check_map(latent_map: LatentMap) -> None:
    mean, components, points, labels, prototypes = latent_map
    fits = mean.ndim == 1 and components.shape == (2, len(mean)) and labels.shape == points.shape[:1]
    if not (fits and points.shape[1:] == (2,) and prototypes.shape[1:] == (2,)):
        raise CalibrationError("the arrays of its map do not fit each other")


def _rounded(statistics: Statistics) -> Statistics:
    """The statistics in float32, as they are stored."""
    return Statistics(
        **{name: _float32(getattr(statistics, name)) for name in PLAIN_STATISTICS},
        kl={layer: _float32(column) for layer, column in statistics.kl.items()},
    )


def _float32(values: Floats | list[float]) -> NDArray[np.float32]:
    return np.asarray(values, np.float32)
