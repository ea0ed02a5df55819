"""Images in (PNG, JPEG, WebP and NumPy files) and out (PNG and npy)."""

from service.images.arrays import read_npy, read_npz
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
    "Target",
    "check_pixels",
    "check_size",
    "contact_sheet",
    "decode_image",
    "encode_npy",
    "encode_png",
    "fit_to_model",
    "format_names",
    "open_image",
    "read_npy",
    "read_npz",
    "render",
    "sheet_png",
    "sheet_size",
]
