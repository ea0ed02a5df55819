"""What the prior's components stand for: pseudo-inputs, or component means decoded."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from service.engine.jobs.runtime import Array, Runtime, decimals, padded
from service.engine.jobs.streams import uniform_rows
from service.engine.protocol import Decode, Gallery
from service.images import render

__all__ = ["decode", "gallery"]


def gallery(runtime: Runtime, payloads: Sequence[Gallery]) -> list[bytes]:
    """Pages of the gallery, as bodies."""
    return [_gallery_body(runtime, payload) for payload in payloads]


def _gallery_body(runtime: Runtime, payload: Gallery) -> bytes:
    images, layout = _prototypes(runtime, payload), payload.layout
    if layout.format == "png" and payload.stretch:
        images = images / np.maximum(images.max(axis=(1, 2, 3), keepdims=True), 1e-6)
    if layout.format != "json":
        return render(images, layout.format, columns=layout.columns, scale=layout.scale)
    names = {"model": runtime.card.name, "model_version": runtime.card.version}
    decoded = bool(payload.decoded) or runtime.model.prior.pseudo_inputs is None
    page = {
        "total": len(runtime.weights),
        "offset": payload.offset,
        "kind": "decoded components" if decoded else "pseudo-inputs",
        "pseudo_inputs": [
            {"index": index, "weight": round(float(runtime.weights[index]), 8), "image": decimals(image).tolist()}
            for index, image in zip(payload.components, images, strict=True)
        ],
    }
    return msgspec.json.encode(names | page)


def _prototypes(runtime: Runtime, payload: Gallery) -> Array:
    """Pseudo-inputs, or component means that were decoded before, (n, C, H, W)."""
    inputs = runtime.model.prior.pseudo_inputs
    if inputs is None or payload.decoded or not payload.components:
        return np.frombuffer(b"".join(payload.decoded), np.float32).reshape(-1, *runtime.image_shape)
    return inputs[runtime.tensor(np.array(payload.components, np.int64))].cpu().numpy()


def decode(runtime: Runtime, payloads: Sequence[Decode]) -> list[bytes]:
    """Component means decoded, float32 values."""
    model = runtime.model
    index = padded(np.concatenate([np.array(payload.components, np.int64) for payload in payloads]))
    pixels = None
    if model.autoregressive:
        # a row of the seed 0 for each component, so that one looks the same on every page
        pixels = runtime.tensor(uniform_rows(0, 0, int(index.max()) + 1, runtime.num_pixels)[index])
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
