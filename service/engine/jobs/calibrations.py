"""What a calibration knows of its images: their map, and quantiles of their scores."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.engine.jobs.runtime import Runtime
from service.engine.protocol import ShowMap, ShowQuantiles
from vampprior.calibration import Calibration, LatentMap, map_rows

__all__ = ["show_map", "show_quantiles"]

LEVELS = np.linspace(0.0, 1.0, 1001)
"""Levels of the quantiles: a false-alarm rate in steps of one per thousand has its threshold among them."""


def show_map(runtime: Runtime, payloads: Sequence[ShowMap]) -> list[bytes]:
    """Maps as a `LatentMapAnswer` each, or nothing where a calibration has no map."""
    bodies = []
    for payload in payloads:
        calibration = runtime.calibrations[payload.calibration]
        bodies.append(b"" if calibration.map is None else _map_body(runtime, calibration, calibration.map))
    return bodies


def _map_body(runtime: Runtime, calibration: Calibration, latent_map: LatentMap) -> bytes:
    labels = latent_map.labels
    return msgspec.json.encode(
        {
            "model": runtime.card.name,
            "model_version": runtime.card.version,
            "calibration": calibration.name,
            "layer": next(iter(runtime.model.latent_dims)),
            "mean": _rounded(latent_map.mean),
            "components": _rounded(latent_map.components),
            "prototypes": _rounded(latent_map.prototypes),
            "points": _rounded(latent_map.points),
            "labels": None if (labels < 0).all() else labels.tolist(),
            "p_values": _rounded(_point_p_values(calibration)),
        }
    )


def _point_p_values(calibration: Calibration) -> NDArray[np.floating]:
    """Novelty p-values of the images on the map, shape (P,)."""
    rows, count = map_rows(len(calibration), calibration.seed), len(calibration)
    scores = calibration.coefficients.score(calibration.statistics)[rows]
    at_least = count - np.searchsorted(calibration.scores, scores.astype(np.float32), side="left")
    return (1.0 + at_least) / (1.0 + count)


def show_quantiles(runtime: Runtime, payloads: Sequence[ShowQuantiles]) -> list[bytes]:
    """Quantiles as a `CalibrationAnswer` each."""
    bodies = []
    for payload in payloads:
        calibration = runtime.calibrations[payload.calibration]
        columns = {"score": calibration.scores, "log_likelihood": calibration.statistics.log_likelihood}
        content = {
            "model": runtime.card.name,
            "model_version": runtime.card.version,
            "calibration": calibration.name,
            "num_images": len(calibration),
            "num_samples": calibration.num_samples,
            "quantiles": {name: _rounded(np.quantile(column, LEVELS)) for name, column in columns.items()},
        }
        bodies.append(msgspec.json.encode(content))
    return bodies


def _rounded(values: NDArray[np.floating]) -> list[float]:
    """Values with four decimals, as (nested) lists."""
    rounded: list[float] = values.astype(np.float64).round(4).tolist()
    return rounded
