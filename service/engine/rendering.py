"""Images as a body: PNG, JSON or NPY."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.engine.protocol import Layout
from service.images import encode_npy, encode_png, sheet_png
from vampprior.card import Card

__all__ = ["render"]


def render(images: NDArray[np.float32], layout: Layout, card: Card, *, seed: int | None = None) -> bytes:
    """A body of images of shape (N, C, H, W) with values in [0, 1].

    A PNG of one image has no margin, so that it can be sent back; several make a contact sheet.
    """
    if layout.format == "png" and len(images) == 1:
        return encode_png(images[0], scale=layout.scale)
    if layout.format == "png":
        return sheet_png(images, columns=layout.columns, scale=layout.scale)
    if layout.format == "npy":
        return encode_npy(images)
    return msgspec.json.encode(
        {
            "model": card.name,
            "model_version": card.version,
            **({} if seed is None else {"seed": seed}),
            "shape": list(images.shape),
            "images": images.astype(np.float64).round(6).tolist(),
        }
    )
