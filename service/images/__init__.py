"""Images in (PNG, JPEG, WebP and NumPy files) and out (PNG and npy)."""

from service.images.arrays import ImageArray, levels_of, read_array
from service.images.reading import (
    FORMATS,
    check_pixels,
    check_size,
    decode_image,
    fit_to_model,
    format_names,
    open_image,
)
from service.images.target import Target
from service.images.writing import contact_sheet, encode_npy, encode_png, render, sheet_png, sheet_size

__all__ = [
    "FORMATS",
    "ImageArray",
    "Target",
    "check_pixels",
    "check_size",
    "contact_sheet",
    "decode_image",
    "encode_npy",
    "encode_png",
    "fit_to_model",
    "format_names",
    "levels_of",
    "open_image",
    "read_array",
    "render",
    "sheet_png",
    "sheet_size",
]
