"""Animations of images: WebP and animated PNG."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.images.writing import enlarged_levels

__all__ = ["animate"]


def animate(
    images: NDArray[np.floating], kind: Literal["webp", "apng"], *, scale: int = 1, duration: int = 60
) -> bytes:
    """A lossless animation of images (N, C, H, W) with values in [0, 1], repeated without end.

    scale:    whole factor by which the images are enlarged
    duration: time of each image, in milliseconds
    """
    levels = enlarged_levels(images, scale).transpose(0, 2, 3, 1)
    frames = [Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame) for frame in levels]
    if kind == "webp":
        frames = [frame.convert("RGB") for frame in frames]
    buffer = io.BytesIO()
    options = {"lossless": True, "method": 0} if kind == "webp" else {}
    frames[0].save(
        buffer,
        {"webp": "WEBP", "apng": "PNG"}[kind],
        save_all=True,
        append_images=frames[1:],
        duration=duration,
        loop=0,
        **options,
    )
    return buffer.getvalue()
