"""Synthetic scratches, as defects of textures."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from training.data import Pixels

__all__ = ["with_scratches"]

LENGTH = 8
"""Pixels from end to end."""
DEPTH = 80
"""Gray levels by which a scratch is darker or brighter than the image."""


def with_scratches(images: Pixels, random: np.random.Generator) -> Pixels:
    """Images (N, H, W) of gray levels with a straight line of one pixel's width in each, at a random place and angle.

    Half of the lines are darker than the image, and half are brighter.

    Example:
        >>> gray = np.full((1, 16, 16), 128, np.uint8)
        >>> np.unique(with_scratches(gray, np.random.default_rng(0))).tolist() in ([48, 128], [128, 208])
        True
    """
    height, width = images.shape[1:]
    scratched = []
    for image in images:
        angle, change = random.uniform(0, math.pi), DEPTH if random.random() < 0.5 else -DEPTH
        reach = LENGTH / 2 * np.array([math.cos(angle), math.sin(angle)])
        middle = random.uniform(LENGTH / 2, np.array([width, height]) - LENGTH / 2)
        mask = Image.new("1", (width, height))
        ImageDraw.Draw(mask).line([tuple(middle - reach), tuple(middle + reach)], fill=1)
        scratched.append(np.clip(image.astype(np.int16) + change * np.asarray(mask), 0, 255).astype(np.uint8))
    return np.stack(scratched)
