"""Binary images from gray ones. Does not import torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["sample_binary", "threshold_gray"]

Bytes = NDArray[np.uint8]


def threshold_gray(gray: Bytes) -> Bytes:
    """Black and white images: 255 where the gray level is 128 or more, and 0 elsewhere.

    Binary models see every image in this way.

    Example:
        >>> threshold_gray(np.array([0, 127, 128, 255], np.uint8)).tolist()
        [0, 0, 255, 255]
    """
    return np.where(gray >= 128, np.uint8(255), np.uint8(0))


def sample_binary(gray: Bytes, seed: int) -> Bytes:
    """Black and white images drawn from gray ones: a pixel is 255 with probability level / 255, and 0 otherwise.

    Static MNIST was made in this way (Larochelle & Murray, 2011), so a gray digit that was sampled looks like its
    images, while one that was thresholded is smoother. Image i is drawn from the stream (seed, i), so it does not
    depend on the images beside it.

    Args:
        gray: Gray levels, shape (N, ...).
        seed: Seed of the draws, not negative.

    Example:
        >>> gray = np.array([[0, 255, 128, 128]], np.uint8)
        >>> sample_binary(gray, seed=0).tolist()
        [[0, 255, 255, 255]]
    """
    drawn = np.empty(gray.shape, np.uint8)
    for index, image in enumerate(gray):
        uniform = np.random.default_rng((seed, index)).random(image.shape)
        drawn[index] = np.where(uniform * 255.0 < image, 255, 0)
    return drawn
