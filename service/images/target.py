"""Decoded images in the shape of a model's images, (C, H, W)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.images.reading import check_size, fit_to_model
from vampprior.preparation import Preparation

__all__ = ["Target"]


@dataclass(frozen=True)
class Target:
    """How decoded images become images of one model.

    Args:
        shape: Shape of the model's images, (C, H, W).
        preparation: Preparation on the model's card, which takes images of any size; None for models without one.
        resize: Stretch images of another size, for models without a preparation.
        invert: Swap dark and light.
    """

    shape: tuple[int, int, int]
    preparation: Preparation | None
    resize: bool
    invert: bool

    def check_size(self, size: tuple[int, int]) -> None:
        """Raise `WrongSize` for a size, (height, width), that cannot be made the model's."""
        if self.preparation is None:
            check_size(size, self.shape, resize=self.resize)

    def fit(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Image of the model's shape for decoded pixels, (H, W) or (H, W, 3). Raises as `check_size`."""
        if self.preparation is None:
            return fit_to_model(pixels, self.shape, resize=self.resize, invert=self.invert)
        return self.preparation.prepare(~pixels if self.invert else pixels)
