"""Images: drawn, reconstructed, and rendered as a body."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from service.engine.jobs.runtime import Array, Runtime, decimals, padded
from service.engine.jobs.stopwatch import rendering
from service.engine.jobs.streams import COMPONENTS, normal_rows, stream, uniform_rows
from service.engine.protocol import Draw, Layout, Reconstruct, Render
from service.images import render

__all__ = ["draw", "image_body", "reconstruct", "render_images"]


def draw(runtime: Runtime, payloads: Sequence[Draw]) -> list[bytes]:
    """Images from the prior or from components of it, as bodies or as float32 values."""
    model, with_pixels = runtime.model, _draws_pixels(runtime, payloads[0].draw_pixels)
    components = [_components(runtime, payload) for payload in payloads]
    noise = [
        np.float32(payload.temperature) * normal_rows(payload.seed, payload.start, payload.count, model.noise_dim)
        for payload in payloads
    ]
    pixels = [
        uniform_rows(payload.seed, payload.start, payload.count, runtime.num_pixels)
        for payload in payloads
        if with_pixels
    ]
    images = model.sample(
        component=runtime.tensor(padded(np.concatenate(components))),
        noise=runtime.tensor(padded(np.concatenate(noise))),
        pixel_noise=runtime.tensor(padded(np.concatenate(pixels))) if pixels else None,
        mixture=runtime.mixture,
    )
    return _rendered(runtime, images, payloads)


def reconstruct(runtime: Runtime, payloads: Sequence[Reconstruct]) -> list[bytes]:
    """Images encoded and decoded, as bodies or as float32 values."""
    model, pixels = runtime.model, None
    noise = [
        normal_rows(payload.seed, payload.start, payload.count, model.noise_dim)
        if payload.draw
        else np.zeros((payload.count, model.noise_dim), np.float32)
        for payload in payloads
    ]
    if _draws_pixels(runtime, payloads[0].draw):
        rows = [uniform_rows(payload.seed, payload.start, payload.count, runtime.num_pixels) for payload in payloads]
        pixels = runtime.tensor(padded(np.concatenate(rows)))
    noise_rows = runtime.tensor(padded(np.concatenate(noise)))
    images = model.reconstruct(runtime.images(payloads), noise=noise_rows, pixel_noise=pixels)
    return _rendered(runtime, images, payloads)


def render_images(runtime: Runtime, payloads: Sequence[Render]) -> list[bytes]:
    """Images whose values other computations gave, as bodies."""
    bodies = []
    for payload in payloads:
        images = np.frombuffer(b"".join(payload.images), np.float32).reshape(-1, *runtime.image_shape)
        bodies.append(image_body(runtime, images, payload.layout, payload.seed))
    return bodies


def _components(runtime: Runtime, payload: Draw) -> NDArray[np.int64]:
    """Component of each image: the one that was asked for, or drawn with the prior's weights."""
    if payload.component is not None:
        return np.full(payload.count, payload.component)
    uniform = stream(payload.seed, COMPONENTS).random(payload.start + payload.count)[payload.start :]
    index = np.searchsorted(runtime.edges, uniform * runtime.edges[-1], side="right")
    return index.clip(max=len(runtime.edges) - 1)


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
            results.append(image_body(runtime, own, payload.layout, payload.seed))
    return results


def image_body(runtime: Runtime, images: Array, layout: Layout, seed: int | None = None) -> bytes:
    """Images (N, C, H, W) as a body, with the model and the seed beside them in JSON."""
    with rendering:
        if layout.format != "json":
            return render(images, layout.format, columns=layout.columns, scale=layout.scale)
        names = {"model": runtime.card.name, "model_version": runtime.card.version}
        content = {"seed": seed, "shape": list(images.shape), "images": decimals(images).tolist()}
        return msgspec.json.encode(names | content)
