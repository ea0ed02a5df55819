"""The computations: each takes a batch of payloads of one kind, and gives a result for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from typing import Any, TypeVar

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.engine.protocol import (
    Combine,
    Decide,
    Decode,
    Draw,
    Encode,
    Gallery,
    Layout,
    Locate,
    Measure,
    Payload,
    Reconstruct,
    Refine,
    Render,
    Score,
)
from service.images import render
from vampprior.calibration import DEFAULT_NAME, Calibration, log_likelihood_percentile
from vampprior.card import Card
from vampprior.distributions import Mixture
from vampprior.heatmap import Prototypes
from vampprior.importance import LogLikelihood, chunk_rows
from vampprior.latent_model import LatentModel
from vampprior.novelty import Decision, Statistics
from vampprior.refinement import DRAWS, Proposal, fit_proposal
from vampprior.statistics import image_statistics

__all__ = ["BLOCK_ROWS", "Runtime", "compute"]

BLOCK_ROWS = 16
"""Batches are padded to a multiple of this, so that matrix products take the same path, and a row gives the same bits,
whatever it is batched with."""
MAX_ROWS, MAX_BYTES = 512, 1 << 21
"""Rows that go through the networks at once on a CPU, and the memory of their largest tensor: more is no faster."""
GPU_ROWS, GPU_BYTES = 1 << 15, 1 << 28
"""The same on a GPU."""
LATENTS, PIXELS, COMPONENTS, IMPORTANCE, REFINEMENT, NOVELTY = range(6)
"""Streams of random numbers of a seed."""
MIN_EFFECTIVE = 2.0
"""Effective samples below which an estimate hangs on a single one, and its error cannot be told."""
HANGS_ON_ONE = " The estimate hangs on a single sample, and is too low rather than too high: ask for more."

P = TypeVar("P", bound=Payload)
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Runtime:
    """A loaded model and what is computed once for it."""

    card: Card
    model: LatentModel
    mixture: Mixture
    device: torch.device
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.card.model.image_shape

    @cached_property
    def max_rows(self) -> int:
        """Rows that go through the networks at once."""
        rows, size = (MAX_ROWS, MAX_BYTES) if self.device.type == "cpu" else (GPU_ROWS, GPU_BYTES)
        return min(rows, max(BLOCK_ROWS, chunk_rows(self.model, size) // BLOCK_ROWS * BLOCK_ROWS))

    @cached_property
    def weights(self) -> Array:
        """Weights of the prior's components, (K,), which sum to 1."""
        return self.mixture.log_weights.exp().cpu().numpy().astype(np.float32)

    @cached_property
    def prototypes(self) -> Prototypes | None:
        """An image for each component of the prior; None if there is no way to have them."""
        try:
            return Prototypes.of(self.model, self.mixture)
        except ValueError:
            return None

    @cached_property
    def edges(self) -> NDArray[np.float64]:
        """Where the unit interval is cut into the components' weights, as in `Mixture.sample_index`."""
        return self.mixture.log_weights.double().exp().cumsum(0).cpu().numpy()

    def images(self, payloads: Sequence[Reconstruct | Encode | Score]) -> Tensor:
        """The pixels of all payloads as the model sees them, (N, C, H, W), padded."""
        levels = np.frombuffer(b"".join(payload.levels for payload in payloads), np.uint8)
        return self.model.likelihood.from_bytes(self.tensor(padded(levels.reshape(-1, *self.image_shape))))

    def tensor(self, array: NDArray[Any]) -> Tensor:
        """The array on the model's device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def compute(runtime: Runtime, payloads: Sequence[Payload]) -> list[bytes]:
    """Results of payloads of one kind, in their order."""
    with torch.inference_mode():
        return _COMPUTATIONS[type(payloads[0])](runtime, payloads)


def padded(rows: NDArray[Any]) -> NDArray[Any]:
    """Rows repeated from the last up to a multiple of `BLOCK_ROWS`."""
    missing = -len(rows) % BLOCK_ROWS
    return np.concatenate([rows, rows[-1:].repeat(missing, axis=0)]) if missing else rows


class Streams:
    """Random numbers of a seed, for one purpose and one unit of it (Philox; Salmon et al., 2011).

    There is one generator, since making one takes as long as to draw all numbers of an image; it gives the numbers of
    the latest call.
    """

    def __init__(self) -> None:
        self._bits = np.random.Philox(key=0)
        self._generator = np.random.Generator(self._bits)
        self._start = self._bits.state

    def __call__(self, seed: int, purpose: int, unit: int = 0) -> np.random.Generator:
        """The generator, at the start of a stream."""
        self._start["state"]["key"][:] = seed, unit << 8 | purpose
        self._bits.state = self._start
        return self._generator


stream = Streams()


def _draw(runtime: Runtime, payloads: Sequence[Draw]) -> list[bytes]:
    model, with_pixels = runtime.model, _draws_pixels(runtime, payloads[0].draw_pixels)
    components = [_components(runtime, payload) for payload in payloads]
    noise = [
        np.float32(payload.temperature) * _normal(payload.seed, payload.start, payload.count, model.noise_dim)
        for payload in payloads
    ]
    pixels = [_uniform(payload.seed, payload.start, payload.count, runtime) for payload in payloads if with_pixels]
    images = model.sample(
        component=runtime.tensor(padded(np.concatenate(components))),
        noise=runtime.tensor(padded(np.concatenate(noise))),
        pixel_noise=runtime.tensor(padded(np.concatenate(pixels))) if pixels else None,
        mixture=runtime.mixture,
    )
    return _rendered(runtime, images, payloads)


def _reconstruct(runtime: Runtime, payloads: Sequence[Reconstruct]) -> list[bytes]:
    model, pixels = runtime.model, None
    noise = [
        _normal(payload.seed, payload.start, payload.count, model.noise_dim)
        if payload.draw
        else np.zeros((payload.count, model.noise_dim), np.float32)
        for payload in payloads
    ]
    if _draws_pixels(runtime, payloads[0].draw):
        rows = [_uniform(payload.seed, payload.start, payload.count, runtime) for payload in payloads]
        pixels = runtime.tensor(padded(np.concatenate(rows)))
    noise_rows = runtime.tensor(padded(np.concatenate(noise)))
    images = model.reconstruct(runtime.images(payloads), noise=noise_rows, pixel_noise=pixels)
    return _rendered(runtime, images, payloads)


def _encode(runtime: Runtime, payloads: Sequence[Encode]) -> list[bytes]:
    posterior = runtime.model.encode(runtime.images(payloads))
    top_layer = next(iter(posterior.values()))
    responsibilities = runtime.mixture.responsibilities(top_layer.mean).cpu().numpy()
    layers = {
        name: {"mean": _decimals(normal.mean), "std": _decimals(normal.std)} for name, normal in posterior.items()
    }
    results, row = [], 0
    for payload in payloads:
        lines = []
        for index in range(row, row + payload.count):
            order = np.argsort(-responsibilities[index], kind="stable")[: payload.top]
            image = {
                "posterior": {
                    name: {key: values[index].tolist() for key, values in layer.items()}
                    for name, layer in layers.items()
                },
                "components": [
                    {"index": int(k), "probability": round(float(responsibilities[index, k]), 6)} for k in order
                ],
            }
            lines.append(msgspec.json.encode(image))
        row += payload.count
        results.append(b"\n".join(lines))
    return results


def _gallery(runtime: Runtime, payloads: Sequence[Gallery]) -> list[bytes]:
    return [_gallery_body(runtime, payload) for payload in payloads]


def _gallery_body(runtime: Runtime, payload: Gallery) -> bytes:
    images, layout = _prototypes(runtime, payload), payload.layout
    if layout.format == "png" and payload.stretch:
        images = images / np.maximum(images.max(axis=(1, 2, 3), keepdims=True), 1e-6)
    if layout.format != "json":
        return render(images, layout.format, columns=layout.columns, scale=layout.scale)
    names = {"model": runtime.card.name, "model_version": runtime.card.version}
    decoded = runtime.model.prior.pseudo_inputs is None
    page = {
        "total": len(runtime.weights),
        "offset": payload.offset,
        "kind": "decoded components" if decoded else "pseudo-inputs",
        "pseudo_inputs": [
            {"index": index, "weight": round(float(runtime.weights[index]), 8), "image": _decimals(image).tolist()}
            for index, image in zip(payload.components, images, strict=True)
        ],
    }
    return msgspec.json.encode(names | page)


def _prototypes(runtime: Runtime, payload: Gallery) -> Array:
    """Pseudo-inputs, or component means that were decoded before, (n, C, H, W)."""
    inputs = runtime.model.prior.pseudo_inputs
    if inputs is None or not payload.components:
        return np.frombuffer(b"".join(payload.decoded), np.float32).reshape(-1, *runtime.image_shape)
    return inputs[runtime.tensor(np.array(payload.components, np.int64))].cpu().numpy()


def _decode(runtime: Runtime, payloads: Sequence[Decode]) -> list[bytes]:
    model = runtime.model
    index = padded(np.concatenate([np.array(payload.components, np.int64) for payload in payloads]))
    pixels = None
    if model.autoregressive:
        # a row of the seed 0 for each component, so that one looks the same on every page
        pixels = runtime.tensor(_uniform(0, 0, int(index.max()) + 1, runtime)[index])
    images = model.sample(
        component=runtime.tensor(index),
        noise=runtime.tensor(np.zeros((len(index), model.noise_dim), np.float32)),
        pixel_noise=pixels,
        mixture=runtime.mixture,
    )
    array, results, row = images.cpu().numpy(), [], 0
    for payload in payloads:
        results.append(array[row : row + payload.count].tobytes())
        row += payload.count
    return results


def _refine(runtime: Runtime, payloads: Sequence[Refine]) -> list[bytes]:
    """Each image by itself, so that the result does not depend on its batch."""
    results = []
    for payload in payloads:
        shape = (payload.steps, 1, DRAWS, runtime.model.noise_dim)
        noise = stream(payload.seed, REFINEMENT).standard_normal(shape, dtype=np.float32)
        with torch.inference_mode(mode=False), torch.no_grad():
            image = np.frombuffer(payload.levels, np.uint8).reshape(1, *runtime.image_shape)
            x = runtime.model.likelihood.from_bytes(runtime.tensor(image.copy()))
            proposal = fit_proposal(runtime.model, x, runtime.tensor(noise), runtime.mixture)
        results.append(torch.cat(proposal).cpu().numpy().tobytes())
    return results


def _score(runtime: Runtime, payloads: Sequence[Score]) -> list[bytes]:
    model, count, images = runtime.model, payloads[0].count, len(payloads)
    samples = math.ceil(count / BLOCK_ROWS) * BLOCK_ROWS
    noise = np.zeros((images, samples, model.noise_dim), np.float32)
    for part, payload in zip(noise, payloads, strict=True):
        generator = stream(payload.seed, IMPORTANCE, payload.start)
        generator.standard_normal(out=part[:count].reshape(-1), dtype=np.float32)
    x = runtime.images(payloads)
    context = tuple(part[:images, None] for part in model.condition(x))
    step = max(BLOCK_ROWS, runtime.max_rows // images // BLOCK_ROWS * BLOCK_ROWS)
    score: Callable[..., tuple[Tensor, Tensor]] = model.log_px_and_kl
    if payloads[0].proposal:
        columns = np.frombuffer(b"".join(payload.proposal for payload in payloads), np.float32)
        shift, log_scale = runtime.tensor(columns.reshape(images, 2, -1).swapaxes(0, 1))
        score = partial(Proposal(shift, log_scale).log_px_and_kl, model)
    chunks = [
        score(x[:images, None], context, chunk, runtime.mixture)
        for chunk in torch.split(runtime.tensor(noise), step, dim=1)
    ]
    log_px, kl = (torch.cat(parts, dim=1)[:, :count] for parts in zip(*chunks, strict=True))
    return [part.tobytes() for part in torch.stack([log_px, kl], 1).cpu().numpy()]


def _measure(runtime: Runtime, payloads: Sequence[Measure]) -> list[bytes]:
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


def _decide(runtime: Runtime, payloads: Sequence[Decide]) -> list[bytes]:
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


def _locate(runtime: Runtime, payloads: Sequence[Locate]) -> list[bytes]:
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
    if layout.format != "json":
        return render(images, layout.format, columns=layout.columns, scale=layout.scale)
    names = {"model": runtime.card.name, "model_version": runtime.card.version}
    content = {"seed": None, "shape": list(images.shape), "images": _decimals(images).tolist()}
    return msgspec.json.encode(names | content)


def _overlay(images: Array, heat: Array) -> Array:
    """Images in gray or colours, (N, C, H, W), with the heat map, (N, 1, H, W), in red over them: (N, 3, H, W)."""
    ground = 0.8 * np.broadcast_to(images, (len(images), 3, *images.shape[2:]))
    red = np.array([1.0, 0.15, 0.1], np.float32)[:, None, None]
    return ((1 - heat) * ground + heat * red).astype(np.float32)


def _levels(runtime: Runtime, levels: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(levels, np.uint8).reshape(-1, *runtime.image_shape).copy()


class _Measured(msgspec.Struct):
    """Statistics of images, and for each the prototypes that explain it: component and log-probability."""

    columns: dict[str, list[float]]
    kl: dict[str, list[float]]
    prototypes: list[list[tuple[int, float]]]


def _combine(runtime: Runtime, payloads: Sequence[Combine]) -> list[bytes]:
    return [_score_json(runtime, payload) for payload in payloads]


def _score_json(runtime: Runtime, payload: Combine) -> bytes:
    """A `ScoredImage` without its name, as JSON."""
    parts = [torch.frombuffer(bytearray(part), dtype=torch.float32).view(2, -1) for part in payload.parts]
    log_px, kl = torch.cat(parts, dim=1)
    score = LogLikelihood.from_samples(log_px[None], kl[None])
    value, error, effective = (
        number.item() for number in (score.value, score.standard_error, score.effective_sample_size)
    )
    calibration = runtime.calibrations.get(DEFAULT_NAME)
    # refined estimates are higher, so they are not compared with plain ones
    percentile = None if payload.refined else log_likelihood_percentile(runtime.card, calibration, value, len(kl))
    content = {
        "log_likelihood": round(value, 4),
        "standard_error": round(error, 4) if effective >= MIN_EFFECTIVE and math.isfinite(error) else None,
        "bits_per_dim": round(-value / (runtime.card.model.num_pixels * math.log(2.0)), 5),
        "elbo": round(score.elbo.item(), 4),
        "num_samples": len(kl),
        "effective_sample_size": round(effective, 1),
        "pareto_k": round(score.pareto_k.item(), 3) if score.pareto_k.isfinite() else None,
        "reliability": score.reliability[0],
        "converged": None if payload.precision is None else _converged(score, payload.precision),
        "percentile": None if percentile is None else round(percentile, 1),
        "summary": _in_words(runtime.card, percentile) + ("" if effective >= MIN_EFFECTIVE else HANGS_ON_ONE),
    }
    return msgspec.json.encode(content)


def _converged(score: LogLikelihood, precision: float) -> bool:
    """Whether the standard error can be believed and is small enough."""
    return score.reliability[0] == "good" and score.standard_error.item() <= precision


def _in_words(card: Card, percentile: float | None) -> str:
    if percentile is None and not card.metrics:
        return "This checkpoint was never evaluated, so there is nothing to compare with."
    if percentile is None:
        return "Estimates with these settings are not known for held-out images, so there is nothing to compare with."
    if percentile <= 0.0:
        return "Less likely than every one of the held-out images."
    if percentile >= 100.0:
        return "More likely than every one of the held-out images."
    return f"More likely than {percentile:.0f} % of the held-out images."


def _render(runtime: Runtime, payloads: Sequence[Render]) -> list[bytes]:
    return [
        _body(runtime, np.frombuffer(b"".join(payload.images), np.float32), payload.layout, payload.seed)
        for payload in payloads
    ]


_COMPUTATIONS: dict[type[Payload], Callable[[Runtime, Sequence[Any]], list[bytes]]] = {
    Draw: _draw,
    Reconstruct: _reconstruct,
    Encode: _encode,
    Decode: _decode,
    Gallery: _gallery,
    Refine: _refine,
    Measure: _measure,
    Decide: _decide,
    Locate: _locate,
    Score: _score,
    Combine: _combine,
    Render: _render,
}


def _components(runtime: Runtime, payload: Draw) -> NDArray[np.int64]:
    """Component of each image: the one that was asked for, or drawn with the prior's weights."""
    if payload.component is not None:
        return np.full(payload.count, payload.component)
    uniform = stream(payload.seed, COMPONENTS).random(payload.start + payload.count)[payload.start :]
    index = np.searchsorted(runtime.edges, uniform * runtime.edges[-1], side="right")
    return index.clip(max=len(runtime.edges) - 1)


def _normal(seed: int, start: int, count: int, dim: int) -> Array:
    """Standard-normal rows `start` to `start + count` of a seed, (count, dim)."""
    return stream(seed, LATENTS).standard_normal((start + count, dim), dtype=np.float32)[start:]


def _uniform(seed: int, start: int, count: int, runtime: Runtime) -> Array:
    """Uniform rows `start` to `start + count` of a seed, which draw pixels, (count, D)."""
    pixels = runtime.card.model.num_pixels
    return stream(seed, PIXELS).random((start + count, pixels), dtype=np.float32)[start:]


def _draws_pixels(runtime: Runtime, draw: bool) -> bool:
    """An autoregressive model has no mean image, so its pixels are drawn in either case."""
    return draw or runtime.model.autoregressive


def _rendered(runtime: Runtime, images: Tensor, payloads: Sequence[Draw | Reconstruct]) -> list[bytes]:
    """The images of each payload as it wants them."""
    array, results, row = images.cpu().numpy(), [], 0
    for payload in payloads:
        own = array[row : row + payload.count]
        row += payload.count
        if payload.layout is None:
            results.append(own.tobytes())
        else:
            results.append(_body(runtime, own, payload.layout, payload.seed))
    return results


def _body(runtime: Runtime, values: Array, layout: Layout, seed: int | None) -> bytes:
    """Images as a body, with the model and the seed beside them in JSON."""
    images = values.reshape(-1, *runtime.image_shape)
    if layout.format != "json":
        return render(images, layout.format, columns=layout.columns, scale=layout.scale)
    names = {"model": runtime.card.name, "model_version": runtime.card.version}
    content = {"seed": seed, "shape": list(images.shape), "images": _decimals(images).tolist()}
    return msgspec.json.encode(names | content)


def _decimals(values: Tensor | Array) -> NDArray[np.float64]:
    """Values with six decimals: more than a pixel or a latent can tell, at half the bytes."""
    array = values.cpu().numpy() if isinstance(values, Tensor) else values
    return array.astype(np.float64).round(6)
