"""Networks of convolutions applied to many images, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["over_images"]

KEPT_BYTES = 1 << 29
"""Intermediate results that the backward pass of one call may keep; beyond that they are computed again."""
CHUNK_BYTES = 1 << 27
"""Intermediate results of the images that are computed at once where they are not kept."""


def over_images(function: Callable[[Tensor], Tensor], x: Tensor, values: int = 0) -> Tensor:
    """Apply a function of $(N, C, H, W)$ to images with any leading dimensions, $(*, C, H, W)$.

    Where the backward pass would keep more than 512 MiB, the images are computed in chunks, and each chunk is computed
    again in the backward pass (Chen et al., 2016, [paper](https://arxiv.org/abs/1604.06174)). Results and gradients are
    the same up to rounding if the function treats each image on its own, as batch normalization does not.

    Args:
        function: The network.
        x: Images.
        values: Numbers per image that the network's backward pass keeps; 0 if the images must not be divided.

    Example:
        >>> over_images(torch.nn.Conv2d(1, 2, 3, padding=1), torch.zeros(5, 7, 1, 4, 4)).shape
        torch.Size([5, 7, 2, 4, 4])
    """
    images = x.reshape(-1, *x.shape[-3:])
    size = values * x.element_size()
    if len(images) * size <= KEPT_BYTES:
        y = function(images)
    else:
        chunks = torch.split(images, max(1, CHUNK_BYTES // size))
        if torch.is_grad_enabled():
            parts = [checkpoint(function, chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
        else:
            parts = [function(chunk) for chunk in chunks]
        y = torch.cat(parts)
    return y.reshape(*x.shape[:-3], *y.shape[1:])
