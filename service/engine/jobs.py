"""The computations: each takes a batch of payloads of one kind, and gives a result for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.engine.protocol import Combine, Draw, Encode, Gallery, Payload, Reconstruct, Render, Score
from service.engine.rendering import render
from vampprior.card import Card
from vampprior.distributions import Mixture
from vampprior.importance import LogLikelihood
from vampprior.models import LatentModel

__all__ = ["BLOCK_ROWS", "Runtime", "compute"]

BLOCK_ROWS = 16
"""Batches are padded to a multiple of this, so that a row gives the same bits whatever it is batched with."""
LATENTS, PIXELS, COMPONENTS, IMPORTANCE = range(4)
"""Streams of random numbers of a seed."""

P = TypeVar("P", bound=Payload)
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Runtime:
    """A loaded model and what is computed once for it."""

    card: Card
    model: LatentModel
    mixture: Mixture
    device: torch.device

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.card.model.image_shape

    def images(self, payloads: Sequence[Reconstruct | Encode | Score]) -> Tensor:
        """The pixels of all payloads as the model sees them, (N, C, H, W)."""
        gray = np.frombuffer(b"".join(payload.gray for payload in payloads), np.uint8)
        return self.model.likelihood.from_bytes(self.tensor(padded(gray.reshape(-1, *self.image_shape))))

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


def stream(seed: int, purpose: int, unit: int = 0) -> np.random.Generator:
    """Random numbers of a seed, for one purpose and one unit of it (Philox; Salmon et al., 2011)."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, purpose << 32 | unit], np.uint64)))


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
    return _rendered(runtime, images, payloads, with_seed=True)


def _reconstruct(runtime: Runtime, payloads: Sequence[Reconstruct]) -> list[bytes]:
    model, draw = runtime.model, payloads[0].draw
    pixels = None
    noise = [
        _normal(payload.seed, payload.start, payload.count, model.noise_dim)
        if payload.draw
        else np.zeros((payload.count, model.noise_dim), np.float32)
        for payload in payloads
    ]
    if _draws_pixels(runtime, draw):
        rows = [_uniform(payload.seed, payload.start, payload.count, runtime) for payload in payloads]
        pixels = runtime.tensor(padded(np.concatenate(rows)))
    noise_rows = runtime.tensor(padded(np.concatenate(noise)))
    images = model.reconstruct(runtime.images(payloads), noise=noise_rows, pixel_noise=pixels)
    return _rendered(runtime, images, payloads, with_seed=draw)


def _encode(runtime: Runtime, payloads: Sequence[Encode]) -> list[bytes]:
    posterior = runtime.model.encode(runtime.images(payloads))
    top_layer = next(iter(posterior.values()))
    responsibilities = runtime.mixture.responsibilities(top_layer.mean).cpu().numpy()
    layers = {
        name: {"mean": _decimals(normal.mean), "std": _decimals(normal.std)} for name, normal in posterior.items()
    }
    results, row = [], 0
    for payload in payloads:
        images = []
        for index in range(row, row + payload.count):
            order = np.argsort(-responsibilities[index], kind="stable")[: payload.top]
            images.append(
                {
                    "posterior": {
                        name: {key: values[index].tolist() for key, values in layer.items()}
                        for name, layer in layers.items()
                    },
                    "components": [
                        {"index": int(k), "probability": round(float(responsibilities[index, k]), 6)} for k in order
                    ],
                }
            )
        row += payload.count
        results.append(msgspec.json.encode(images))
    return results


def _gallery(runtime: Runtime, payloads: Sequence[Gallery]) -> list[bytes]:
    return [render(_prototypes(runtime, payload.components), payload.layout, runtime.card) for payload in payloads]


def _prototypes(runtime: Runtime, components: Sequence[int]) -> Array:
    """Pseudo-inputs of these numbers, or component means decoded, (n, C, H, W)."""
    index = np.array(components, np.int64)
    inputs = runtime.model.prior.pseudo_inputs
    if inputs is not None:
        return inputs[runtime.tensor(index)].cpu().numpy()
    pixels = _uniform(0, 0, len(index), runtime) if runtime.model.autoregressive else None
    images = runtime.model.sample(
        component=runtime.tensor(padded(index)),
        noise=runtime.tensor(np.zeros((len(padded(index)), runtime.model.noise_dim), np.float32)),
        pixel_noise=None if pixels is None else runtime.tensor(padded(pixels)),
        mixture=runtime.mixture,
    )
    return images[: len(index)].cpu().numpy()


def _score(runtime: Runtime, payloads: Sequence[Score]) -> list[bytes]:
    model, count = runtime.model, payloads[0].count
    rows = count + -count % BLOCK_ROWS
    noise = np.zeros((len(payloads), rows, model.noise_dim), np.float32)
    for part, payload in zip(noise, payloads, strict=True):
        generator = stream(payload.seed, IMPORTANCE, payload.start)
        generator.standard_normal(out=part[:count].reshape(-1), dtype=np.float32)
    x = runtime.images(payloads)
    context = tuple(part[: len(payloads), None] for part in model.condition(x))
    log_px, kl = model.log_ratio(x[: len(payloads), None], context, runtime.tensor(noise), runtime.mixture)
    both = torch.stack([log_px[:, :count], kl[:, :count]], 1).cpu().numpy()
    return [part.tobytes() for part in both]


def _combine(runtime: Runtime, payloads: Sequence[Combine]) -> list[bytes]:
    return [_score_json(runtime, payload) for payload in payloads]


def _score_json(runtime: Runtime, payload: Combine) -> bytes:
    parts = [torch.frombuffer(bytearray(part), dtype=torch.float32).view(2, -1) for part in payload.parts]
    log_px, kl = torch.cat(parts, dim=1)
    score = LogLikelihood.from_samples(log_px[None], kl[None])
    numbers = {
        "log_likelihood": score.value,
        "standard_error": score.standard_error,
        "elbo": score.elbo,
        "effective_sample_size": score.effective_sample_size,
        "pareto_k": score.pareto_k,
    }
    return msgspec.json.encode({name: _finite(tensor.item()) for name, tensor in numbers.items()})


def _render(runtime: Runtime, payloads: Sequence[Render]) -> list[bytes]:
    return [
        render(_floats(b"".join(payload.images), runtime.image_shape), payload.layout, runtime.card, seed=payload.seed)
        for payload in payloads
    ]


_COMPUTATIONS: dict[type[Payload], Callable[[Runtime, Sequence[Any]], list[bytes]]] = {
    Draw: _draw,
    Reconstruct: _reconstruct,
    Encode: _encode,
    Gallery: _gallery,
    Score: _score,
    Combine: _combine,
    Render: _render,
}


def _components(runtime: Runtime, payload: Draw) -> NDArray[np.int64]:
    """Component of each image: the one that was asked for, or drawn with the prior's weights."""
    if payload.component is not None:
        return np.full(payload.count, payload.component)
    uniform = stream(payload.seed, COMPONENTS).random(payload.start + payload.count)[payload.start :]
    return runtime.mixture.sample_index(torch.from_numpy(uniform).to(runtime.device)).cpu().numpy()


def _normal(seed: int, start: int, count: int, dim: int) -> Array:
    """Standard-normal rows `start` to `start + count` of a seed, (count, dim)."""
    return stream(seed, LATENTS).standard_normal((start + count, dim), dtype=np.float32)[start:]


def _uniform(seed: int, start: int, count: int, runtime: Runtime) -> Array:
    """Uniform rows of a seed, a number per pixel, (count, D)."""
    shape = (start + count, math.prod(runtime.image_shape))
    return stream(seed, PIXELS).random(shape, dtype=np.float32)[start:]


def _draws_pixels(runtime: Runtime, draw: bool) -> bool:
    """An autoregressive model has no mean image, so its pixels are drawn in either case."""
    return draw or runtime.model.autoregressive


def _rendered(
    runtime: Runtime, images: Tensor, payloads: Sequence[Draw | Reconstruct], *, with_seed: bool
) -> list[bytes]:
    """The images of each payload as it wants them."""
    array, results, row = images.cpu().numpy(), [], 0
    for payload in payloads:
        own = array[row : row + payload.count]
        row += payload.count
        if payload.layout is None:
            results.append(own.tobytes())
        else:
            results.append(render(own, payload.layout, runtime.card, seed=payload.seed if with_seed else None))
    return results


def _floats(data: bytes, image_shape: tuple[int, int, int]) -> Array:
    return np.frombuffer(data, np.float32).reshape(-1, *image_shape)


def _decimals(values: Tensor) -> NDArray[np.float64]:
    return values.double().cpu().numpy().round(6)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
