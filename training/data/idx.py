"""IDX files, in which MNIST and its successors come: a big-endian header, then the bytes of the pixels."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from training.data.splits import DatasetError, Pixels

__all__ = ["parse_idx", "read_idx"]

MAGIC = bytes([0, 0, 8, 3])
"""Two zeros, the code of unsigned bytes, and the number of dimensions."""
HEADER_BYTES = 16


def read_idx(path: Path) -> Pixels:
    """Images (N, H, W) of an IDX file, gzipped or plain; raises `DatasetError` if it is none."""
    content = path.read_bytes()
    try:
        return parse_idx(gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content)
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path} cannot be unpacked: {error}") from error
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from error


def parse_idx(content: bytes) -> Pixels:
    """Images (N, H, W) from the bytes of an IDX file; raises `DatasetError` if they are none."""
    if not content.startswith(MAGIC):
        raise DatasetError(f"an IDX file of images begins with {MAGIC.hex()}, and this one with {content[:4].hex()}")
    if len(content) < HEADER_BYTES:
        raise DatasetError(f"an IDX file of images has a header of {HEADER_BYTES} bytes, and this one ends before")
    shape = tuple(int.from_bytes(content[start : start + 4], "big") for start in range(4, HEADER_BYTES, 4))
    wanted = HEADER_BYTES + shape[0] * shape[1] * shape[2]
    if len(content) != wanted:
        raise DatasetError(
            f"images of shape {shape} make an IDX file of {wanted} bytes, and this one has {len(content)}"
        )
    return np.frombuffer(content, np.uint8, offset=HEADER_BYTES).reshape(shape)
