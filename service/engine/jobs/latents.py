"""Images from given latents, and from latents along a path between two images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import torch
from torch import Tensor

from service.engine.jobs.images import image_body
from service.engine.jobs.runtime import Array, Runtime, decimals, padded
from service.engine.jobs.streams import uniform_rows
from service.engine.protocol import DecodeLatents, Interpolate
from service.images.animation import animate
from vampprior.distributions import DiagonalNormal
from vampprior.latent_model import LatentModel, Latents

__all__ = ["decode_latents", "interpolate"]

TOP_COMPONENTS = 3
"""Components that JSON names for each image of a path."""


def decode_latents(runtime: Runtime, payloads: Sequence[DecodeLatents]) -> list[bytes]:
    """Images of given latents, as bodies; layers that are not given are at their means."""
    return [_decoded(runtime, payload) for payload in payloads]


def _decoded(runtime: Runtime, payload: DecodeLatents) -> bytes:
    layers = [np.frombuffer(layer, np.float32).reshape(payload.count, -1).copy() for layer in payload.latents]
    top, *below = [runtime.tensor(padded(layer)) for layer in layers]
    latents = _ancestral(runtime.model, top, _noise_of(runtime.model, top, below))
    return image_body(runtime, _images(runtime, latents, payload.seed)[: payload.count], payload.layout, payload.seed)


def interpolate(runtime: Runtime, payloads: Sequence[Interpolate]) -> list[bytes]:
    """Images along paths, as bodies."""
    return [_path_body(runtime, payload) for payload in payloads]


def _path_body(runtime: Runtime, payload: Interpolate) -> bytes:
    (top, noise), (last_top, last_noise) = _ends(runtime, payload)
    position = runtime.tensor(padded(np.linspace(0.0, 1.0, payload.steps, dtype=np.float32)))[:, None]
    tops = (_arc if payload.spherical else torch.lerp)(top, last_top, position)
    latents = _ancestral(runtime.model, tops, torch.lerp(noise, last_noise, position))
    images = _images(runtime, latents, payload.seed)[: payload.steps]
    if payload.animation is not None:
        return animate(images, payload.animation, scale=payload.layout.scale, duration=payload.duration)
    body = image_body(runtime, images, payload.layout, payload.seed)
    if payload.layout.format != "json":
        return body
    shares = runtime.mixture.responsibilities(tops).cpu().numpy()[: payload.steps]
    components = [
        [{"index": int(k), "probability": round(float(row[k]), 6)} for k in np.argsort(-row)[:TOP_COMPONENTS]]
        for row in shares
    ]
    values = decimals(tops[: payload.steps]).tolist()
    return (
        body[:-1]
        + b',"components":'
        + msgspec.json.encode(components)
        + b',"top":'
        + msgspec.json.encode(values)
        + b"}"
    )


def _ends(runtime: Runtime, payload: Interpolate) -> list[tuple[Tensor, Tensor]]:
    """Top latent (1, M) and noise of all layers (1, noise_dim) at the start and at the end of a path."""
    model = runtime.model
    uploads: Iterator[tuple[Tensor, Tensor]] = iter(())
    if payload.levels:
        x = runtime.images([payload])
        latents = model.rsample(model.condition(x), x.new_zeros(len(x), model.noise_dim)).latents
        noise = _noise_of(model, latents[0], latents[1:])
        uploads = iter(zip(latents[0][:, None], noise[:, None], strict=True))
    means = runtime.mixture.mean
    return [
        next(uploads) if number is None else (means[number : number + 1], means.new_zeros(1, model.noise_dim))
        for number in payload.components
    ]


def _noise_of(model: LatentModel, top: Tensor, below: Sequence[Tensor]) -> Tensor:
    """Noise with which `_ancestral` gives these latents below the top one, (N, noise_dim); zero for further layers."""
    noise = top.new_zeros(len(top), model.noise_dim)
    start = top.shape[1]
    for index, latent in enumerate(below, 1):
        stop = start + latent.shape[1]
        mean = _ancestral(model, top, noise)[index]
        shifted = noise.clone()
        shifted[:, start:stop] = 1.0
        std = _ancestral(model, top, shifted)[index] - mean
        noise[:, start:stop] = (latent - mean) / std.clamp_min(1e-6)
        start = stop
    return noise


def _ancestral(model: LatentModel, top: Tensor, noise: Tensor) -> Latents:
    """Latents of all layers: the top one as it is, the others from their conditional priors with the noise."""
    noise = torch.cat([torch.zeros_like(top), noise[:, top.shape[1] :]], dim=1)
    return model.ancestral_sample(DiagonalNormal(top, torch.zeros_like(top)), noise)


def _arc(start: Tensor, end: Tensor, position: Tensor) -> Tensor:
    """Spherical interpolation of (1, M) at positions (N, 1) in [0, 1]; a line where the ends have one direction."""
    cosine = torch.cosine_similarity(start, end).clamp(-1, 1)
    angle = torch.arccos(cosine)
    if float(angle.sin()) < 1e-4:
        return torch.lerp(start, end, position)
    weights = torch.sin((1 - position) * angle), torch.sin(position * angle)
    return (weights[0] * start + weights[1] * end) / torch.sin(angle)


def _images(runtime: Runtime, latents: Latents, seed: int) -> Array:
    """Mean images (N, C, H, W) of latents; of an autoregressive model draws, all with the same numbers."""
    model = runtime.model
    if not model.autoregressive:
        images: Array = model.mean_image(latents).cpu().numpy()
        return images
    pixels = runtime.tensor(uniform_rows(seed, 0, 1, runtime.num_pixels)).expand(len(latents[0]), -1)
    drawn: Array = model.draw_image(latents, pixels).cpu().numpy()
    return drawn
