"""Images of a bulk run: files, folders, NumPy and Parquet files, and text files that list paths."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from service.errors import BadImage
from service.images import decode_image, levels_of
from service.images.arrays import BAD_HEADER, BAD_ZIP

__all__ = ["Item", "SourceError", "find_items"]

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
ARRAY_SUFFIXES = {".npy", ".npz"}
SUFFIXES = {*IMAGE_SUFFIXES, *ARRAY_SUFFIXES, ".parquet"}
"""What is looked for in folders; other files there are ignored."""
MAX_PIXELS = 100_000_000
"""Pixels of an image file."""

Levels = NDArray[np.uint8]


class SourceError(Exception):
    """Nothing can be scored as the command asks; the message says why in one line."""


@dataclass(frozen=True)
class Item:
    """An image to be scored.

    Args:
        name: Its path, with the array and the row in brackets for an image out of a NumPy or Parquet file.
        read: Gives its 8-bit levels, (H, W) or (H, W, 3). Raises `Problem` or `OSError`.
    """

    name: str
    read: Callable[[], Levels]


def find_items(paths: Sequence[Path], image_shape: tuple[int, int, int], column: str | None = None) -> list[Item]:
    """The images of all paths in their order, folders sorted by path; one that is named twice is there once.

    A file that cannot be opened is an item whose `read` raises the reason.

    Args:
        paths: Images, folders, `.npy`, `.npz` and `.parquet` files, and `.txt` files with a path in each line, relative
            to the folder of the list.
        image_shape: Shape of the model's images (C, H, W), which tells one image from several in an array.
        column: Column of Parquet files that holds image files; by default the only one that can.

    Raises:
        SourceError: If a path does not exist, or there are no images.
    """
    if missing := [path for path in paths if not path.exists()]:
        raise SourceError(f"there is no file {printable_path(missing[0])}")
    items = {item.name: item for path in paths for item in _items(path, image_shape, column)}
    if not items:
        raise SourceError(f"there are no images in {', '.join(map(printable_path, paths))}")
    return list(items.values())


def printable_path(path: Path) -> str:
    """The path as text; bytes that are not UTF-8 become escapes such as `\\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _items(path: Path, shape: tuple[int, int, int], column: str | None) -> Iterator[Item]:
    suffix = path.suffix.lower()
    if path.is_fifo() or path.is_socket() or path.is_char_device():  # opening or reading one may never end
        yield Item(printable_path(path), partial(_fail, "It is no file but a pipe, a socket or a device."))
    elif path.is_dir():
        for file in sorted(Path(folder, name) for folder, _, names in os.walk(path) for name in names):
            if file.suffix.lower() in SUFFIXES:
                yield from _items(file, shape, column)
    elif suffix == ".txt":
        for line in path.read_text("utf-8", "surrogateescape").splitlines():
            if line.strip():
                yield from _listed(path.parent / line.strip(), shape, column)
    elif suffix in ARRAY_SUFFIXES:
        yield from _of_container(path, lambda: list(_arrays(path, shape)))
    elif suffix == ".parquet":
        yield from _of_container(path, lambda: _parquet(path, column))
    else:
        yield Item(printable_path(path), partial(_read_file, path))


def _listed(path: Path, shape: tuple[int, int, int], column: str | None) -> Iterator[Item]:
    """Items of a line of a list; one that does not exist fails when it is read, and the others are scored."""
    is_list = path.suffix.lower() == ".txt"
    yield from [Item(printable_path(path), partial(_read_file, path))] if is_list else _items(path, shape, column)


def _of_container(path: Path, find: Callable[[], list[Item]]) -> list[Item]:
    """Items of a file with several images, or one item that fails if it cannot be opened."""
    try:
        items = find()
    except (*BAD_HEADER, *BAD_ZIP) as error:
        return [Item(printable_path(path), partial(_fail, f"The file cannot be read: {error}"))]
    return items or [Item(printable_path(path), partial(_fail, "The file holds no images."))]


def _fail(detail: str) -> NoReturn:
    raise BadImage(detail)


def _read_file(path: Path) -> Levels:
    return decode_image(path.read_bytes(), max_pixels=MAX_PIXELS)


# NumPy.


def _arrays(path: Path, shape: tuple[int, int, int]) -> Iterator[Item]:
    name = printable_path(path)
    if path.suffix.lower() == ".npy":
        keys: list[str | None] = [None]
    else:
        with np.load(path, allow_pickle=False) as archive:
            keys = list(archive.files)
    for key in keys:
        array = _load_array(path, key)
        prefix = name if key is None else f"{name}[{key}]"
        count = _num_images(array.shape, shape)
        for row in range(count):
            yield Item(f"{prefix}[{row}]", partial(_read_row, path, key, row, shape))


@lru_cache(maxsize=2)
def _load_array(path: Path, key: str | None) -> NDArray[Any]:
    if key is None:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        return array
    with np.load(path, allow_pickle=False) as archive:
        return archive[key]


def _num_images(array: Sequence[int], image: tuple[int, int, int]) -> int:
    """Number of images in an array of that shape; 0 for one that cannot hold any, such as labels."""
    channels, height, width = image
    colour = channels == 3 and tuple(array) in ((3, height, width), (height, width, 3))
    if len(array) == 2:
        return array[0] if array[1] == channels * height * width else 1
    return 1 if colour else array[0] if len(array) in (3, 4) else 0


def _read_row(path: Path, key: str | None, row: int, image: tuple[int, int, int]) -> Levels:
    array = _load_array(path, key)
    several = len(array) == _num_images(array.shape, image) and not (len(array) == 1 and array.ndim == 2)
    pixels = array[row] if several else array
    if pixels.ndim == 1:
        pixels = pixels.reshape(image)
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim == 3 and pixels.shape[2] != 3:
        raise BadImage(f"The shape {array.shape} of the array is not that of images: (N, H, W) or (N, C, H, W).")
    if pixels.dtype.kind not in "buif":
        raise BadImage(f"The array holds {pixels.dtype}, not numbers.")
    return np.ascontiguousarray(levels_of(pixels))


# Parquet.


def _parquet(path: Path, column: str | None) -> list[Item]:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        chosen = _image_column(file.schema_arrow, column)
        groups = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
    name = printable_path(path)
    starts = np.cumsum([0, *groups])
    return [
        Item(f"{name}[{starts[group] + row}]", partial(_read_cell, path, chosen, group, row))
        for group, count in enumerate(groups)
        for row in range(count)
    ]


def _image_column(schema: Any, wanted: str | None) -> str:
    """The column that holds the bytes of image files, or structs with such a field named `bytes`."""
    from pyarrow import types

    def is_binary(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    def holds_images(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(part.name == "bytes" and is_binary(part.type) for part in kind)
        return is_binary(kind)

    found = [part.name for part in schema if holds_images(part.type) and wanted in (None, part.name)]
    if len(found) != 1:
        columns = ", ".join(schema.names)
        raise ValueError(
            f"{len(found) or 'none'} of its columns ({columns}) {'hold' if len(found) > 1 else 'holds'} bytes of images"
            + ("" if wanted else "; name one with --column")
        )
    return str(found[0])


@lru_cache(maxsize=2)
def _load_group(path: Path, column: str, group: int) -> list[Any]:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        values: list[Any] = file.read_row_group(group, columns=[column])[column].to_pylist()
    return values


def _read_cell(path: Path, column: str, group: int, row: int) -> Levels:
    value = _load_group(path, column, group)[row]
    content = value["bytes"] if isinstance(value, dict) else value
    if content is None:
        raise BadImage("The cell is empty.")
    return decode_image(content, max_pixels=MAX_PIXELS)
