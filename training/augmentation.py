"""Random changes of training images, made anew for every batch."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Change", "augment"]

Change = Literal["shift", "flip"]
SHIFT = 1 / 16
"""Largest shift, as a part of the side; at least one pixel."""


def augment(images: Tensor, changes: Collection[Change], generator: torch.Generator) -> Tensor:
    """Images (N, C, H, W) after random changes of each.

    shift: moves by up to a sixteenth of each side, where the pixels at the edge are repeated
    flip:  swaps left and right with probability 1/2
    """
    if not changes:
        return images
    n, _, height, width = images.shape
    device = generator.device
    rows = torch.arange(height, device=device).expand(n, height)
    columns = torch.arange(width, device=device).expand(n, width)
    if "shift" in changes:
        rows, columns = (
            (index + _shifts(n, index.shape[1], generator)).clamp(0, index.shape[1] - 1) for index in (rows, columns)
        )
    if "flip" in changes:
        flipped = torch.rand((n, 1), generator=generator, device=device) < 0.5
        columns = torch.where(flipped, columns.flip(1), columns)
    each = torch.arange(n, device=device)[:, None, None]
    return images[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _shifts(n: int, side: int, generator: torch.Generator) -> Tensor:
    """Whole numbers of pixels, one per image, shape (n, 1)."""
    largest = max(1, round(side * SHIFT))
    return torch.randint(-largest, largest + 1, (n, 1), generator=generator, device=generator.device)
