"""An image whose header has been checked: its size and orientation, and the function that decodes its pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vampprior.pixels import upright

__all__ = ["OpenedImage"]


@dataclass(frozen=True)
class OpenedImage:
    """An image whose header has been checked and whose pixels have not been decoded.

    width, height: size in pixels as stored, before `orientation` is applied
    orientation:   value of EXIF's Orientation tag, 1 (upright) to 8
    decode_stored: gives the pixels as stored, (H, W) or (H, W, 3), over black; raises `BadImage`
    """

    width: int
    height: int
    orientation: int
    decode_stored: Callable[[], NDArray[np.uint8]]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the upright image."""
        return (self.width, self.height) if self.orientation > 4 else (self.height, self.width)

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.width * self.height

    def decode(self) -> NDArray[np.uint8]:
        """Upright pixels, (H, W) or (H, W, 3). Raises `BadImage`."""
        return upright(self.decode_stored(), self.orientation)
