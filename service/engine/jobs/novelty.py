"""Whether images are new to the model, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.engine.jobs.images import image_body
from service.engine.jobs.runtime import MAX_BYTES, Array, Runtime
from service.engine.jobs.streams import NOVELTY, stream
from service.engine.protocol import Decide, Locate, Measure
from vampprior.novelty import Decision, Statistics
from vampprior.statistics import image_statistics

__all__ = ["decide", "locate", "measure"]


class _Measured(msgspec.Struct):
    """Statistics of images, and for each the prototypes that explain it: component and log-probability."""

    columns: dict[str, list[float]]
    kl: dict[str, list[float]]
    prototypes: list[list[tuple[int, float]]]


def measure(runtime: Runtime, payloads: Sequence[Measure]) -> list[bytes]:
    """Statistics and prototypes of images, for `decide`."""
    return [_measured(runtime, payload) for payload in payloads]


def _measured(runtime: Runtime, payload: Measure) -> bytes:
    x = runtime.model.likelihood.from_bytes(runtime.tensor(_levels(runtime, payload.levels)))
    shape = (payload.num_samples, runtime.model.noise_dim)
    noise = stream(payload.seed, NOVELTY).standard_normal(shape, dtype=np.float32)  # the same for every image
    statistics = image_statistics(
        runtime.model,
        x,
        num_samples=payload.num_samples,
        noise=runtime.tensor(noise).expand(len(x), -1, -1),
        mixture=runtime.mixture,
        max_bytes=MAX_BYTES,
    )
    columns = {item.name: getattr(statistics, item.name) for item in fields(statistics) if item.name != "kl"}
    prototypes = runtime.prototypes.explain(x) if runtime.prototypes is not None else [[] for _ in x]
    return msgspec.msgpack.encode(
        _Measured(
            columns={name: column.tolist() for name, column in columns.items()},
            kl={layer: column.tolist() for layer, column in statistics.kl.items()},
            prototypes=[[(item.component, item.log_prob) for item in explanation] for explanation in prototypes],
        )
    )


def decide(runtime: Runtime, payloads: Sequence[Decide]) -> list[bytes]:
    """Decisions on all images of a request, a JSON object in a line each."""
    return [_decisions(runtime, payload) for payload in payloads]


def _decisions(runtime: Runtime, payload: Decide) -> bytes:
    """A line for each image: a `NovelImage` without its name, as JSON."""
    parts = [msgspec.msgpack.decode(part, type=_Measured) for part in payload.parts]
    statistics = Statistics.concatenate(
        [
            Statistics(
                **{name: np.array(column) for name, column in part.columns.items()},
                kl={layer: np.array(column) for layer, column in part.kl.items()},
            )
            for part in parts
        ]
    )
    decided = runtime.calibrations[payload.calibration].decide(
        statistics, false_alarm_rate=payload.false_alarm_rate, fdr=payload.fdr
    )
    prototypes = [explanation for part in parts for explanation in part.prototypes]
    return b"\n".join(map(_decision_json, decided, prototypes))


def _decision_json(decision: Decision, prototypes: Sequence[tuple[int, float]]) -> bytes:
    return msgspec.json.encode(
        {
            "novel": decision.novel,
            "p_value": round(decision.p_value, 6),
            "score": round(decision.score, 4),
            "statistics": {
                name: {"value": round(statistic.value, 4), "p_value": round(statistic.p_value, 6)}
                for name, statistic in decision.statistics.items()
            },
            "prototypes": [{"index": index, "log_prob": round(log_prob, 3)} for index, log_prob in prototypes],
            "summary": decision.sentence,
        }
    )


def locate(runtime: Runtime, payloads: Sequence[Locate]) -> list[bytes]:
    """Heat maps of images, as bodies."""
    return [_located(runtime, payload) for payload in payloads]


def _located(runtime: Runtime, payload: Locate) -> bytes:
    if runtime.prototypes is None:
        raise ValueError("the model has no prototypes")
    x = runtime.model.likelihood.from_bytes(runtime.tensor(_levels(runtime, payload.levels)))
    layout = payload.layout
    if payload.view == "prototypes":
        images = runtime.prototypes.contrast(x).cpu().numpy()
    else:
        images = runtime.prototypes.heat_map(x).clamp(0, 1).cpu().numpy()[:, None]
    if layout.format == "png" and payload.view == "overlay":
        images = _overlay(x.cpu().numpy(), images)
    return image_body(runtime, images, layout)


def _overlay(images: Array, heat: Array) -> Array:
    """Images in gray or colours, (N, C, H, W), with the heat map, (N, 1, H, W), in red over them: (N, 3, H, W)."""
    ground = 0.8 * np.broadcast_to(images, (len(images), 3, *images.shape[2:]))
    red = np.array([1.0, 0.15, 0.1], np.float32)[:, None, None]
    return ((1 - heat) * ground + heat * red).astype(np.float32)


def _levels(runtime: Runtime, levels: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(levels, np.uint8).reshape(-1, *runtime.image_shape).copy()
