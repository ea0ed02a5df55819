"""Preparation of images: how an image of any size and kind becomes what a model sees. Free of torch.

Trainer and server prepare images by this code: the card of a checkpoint holds the preparation of its training images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Fit", "Mode", "Preparation"]

Mode = Literal["rgb", "gray", "binary"]
Fit = Literal["crop", "pad", "stretch"]
REDUCING_GAP = 3.0
"""Images more than 3 times too large are first reduced by averaging whole pixels: faster, with nearly equal results."""


@dataclass(frozen=True)
class Preparation:
    """How images become the model's: their size, their channels, and what happens to other aspect ratios.

    Args:
        size: Height and width of the prepared images.
        mode: `rgb` for three channels, `gray` for one, the luma of ITU-R 601, or `binary` for gray thresholded at one
            half: 0 below a level of 128 and 255 from there on.
        fit: `crop` scales an image until it covers the size and keeps its middle, `pad` scales it until it fits into
            the size and fills the rest with black, and `stretch` changes its aspect ratio.

    Raises:
        ValueError: If a value does not fit.

    Example:
        >>> preparation = Preparation(size=(8, 8), mode="gray", fit="crop")
        >>> photo = np.zeros((480, 640, 3), np.uint8)
        >>> preparation.prepare(photo).shape
        (1, 8, 8)
        >>> Preparation.from_dict(preparation.to_dict()) == preparation
        True
    """

    size: tuple[int, int]
    mode: Mode
    fit: Fit = "crop"

    def __post_init__(self) -> None:
        size = self.size
        if not isinstance(size, tuple) or len(size) != 2 or not all(_is_side(side) for side in size):
            raise ValueError(f"size must be two positive whole numbers (height, width), not {size!r}")
        for name, known in (("mode", get_args(Mode)), ("fit", get_args(Fit))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width (C, H, W) of prepared images."""
        return (3 if self.mode == "rgb" else 1, *self.size)

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Prepared image, (C, H, W), for upright pixels (H, W) or (H, W, 3) with transparent parts over black.

        An image that has the size already is not resampled. Others are resampled with Lanczos' filter.
        """
        from PIL import Image  # the core of the library does not need Pillow

        image = Image.fromarray(pixels).convert("RGB" if self.mode == "rgb" else "L")
        height, width = self.size
        if image.size != (width, height):
            image = self._resample(image)
        values = np.asarray(image).reshape(height, width, -1).transpose(2, 0, 1)
        if self.mode == "binary":
            return np.where(values >= 128, np.uint8(255), np.uint8(0))
        return np.ascontiguousarray(values)

    def _resample(self, image: Image) -> Image:
        from PIL import Image as Images

        height, width = self.size
        filter_, box = Images.Resampling.LANCZOS, (0.0, 0.0, float(image.width), float(image.height))
        if self.fit == "stretch":
            return image.resize((width, height), filter_, box, REDUCING_GAP)
        scales = width / image.width, height / image.height
        if self.fit == "crop":
            scale = max(scales)
            left, top = (image.width - width / scale) / 2, (image.height - height / scale) / 2
            box = (max(0.0, left), max(0.0, top), min(box[2], box[2] - left), min(box[3], box[3] - top))
            return image.resize((width, height), filter_, box, REDUCING_GAP)
        scale = min(scales)
        inner = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        padded = Images.new(image.mode, (width, height))
        corner = (width - inner[0]) // 2, (height - inner[1]) // 2
        padded.paste(image.resize(inner, filter_, box, REDUCING_GAP), corner)
        return padded

    @classmethod
    def from_dict(cls, values: Any) -> Preparation:
        """Build a preparation from plain values; raises `ValueError` if they do not fit."""
        if not isinstance(values, Mapping) or set(values) != {"size", "mode", "fit"}:
            raise ValueError(f"must be an object with size, mode and fit, not {values!r}")
        size = values["size"]
        return cls(tuple(size) if isinstance(size, list) else size, values["mode"], values["fit"])

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `from_dict` takes back."""
        return asdict(self) | {"size": list(self.size)}

    def describe(self) -> str:
        """The preparation in words, such as `64x64 pixels in colour, cropped to their middle`; width comes first."""
        height, width = self.size
        kind = {"rgb": "in colour", "gray": "in gray", "binary": "in black and white"}[self.mode]
        fit = {"crop": "cropped to their middle", "pad": "padded with black", "stretch": "stretched"}[self.fit]
        return f"{width}x{height} pixels {kind}, {fit}"


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
