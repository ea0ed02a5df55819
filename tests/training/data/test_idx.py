from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from training.data.idx import parse_idx, read_idx
from training.data.splits import DatasetError

CONTENT = bytes.fromhex("00000803 00000002 00000001 00000003") + bytes([0, 127, 255, 1, 2, 3])


def test_an_idx_file_gives_its_images() -> None:
    images = parse_idx(CONTENT)
    assert images.dtype == np.uint8
    assert images.tolist() == [[[0, 127, 255]], [[1, 2, 3]]]


def test_it_may_be_gzipped(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(CONTENT)
    (tmp_path / "packed.gz").write_bytes(gzip.compress(CONTENT))
    assert (
        read_idx(tmp_path / "plain").tolist()
        == read_idx(tmp_path / "packed.gz").tolist()
        == parse_idx(CONTENT).tolist()
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with 00000803, and this one with $"),
        (b"<html>", "begins with 00000803, and this one with 3c68746d$"),
        (bytes.fromhex("00000801 00000002") + b"\1\2", "this one with 00000801"),  # labels
        (CONTENT[:10], "header of 16 bytes, and this one ends before"),
        (CONTENT[:-1], r"images of shape \(2, 1, 3\) make an IDX file of 22 bytes, and this one has 21"),
        (CONTENT + b"\0", "of 22 bytes, and this one has 23"),
        (CONTENT[:4] + b"\xff" * 12, r"images of shape \(4294967295, 4294967295, 4294967295\)"),
        (gzip.compress(CONTENT, mtime=0)[:-9], "cannot be unpacked"),
        (gzip.compress(CONTENT, mtime=0)[:-8] + bytes(8), "cannot be unpacked: CRC check failed"),
        (b"\x1f\x8b\x08" + bytes(20), "cannot be unpacked"),
    ],
)
def test_anything_else_is_refused_by_name(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(DatasetError, match=message) as info:
        read_idx(tmp_path / "images")
    assert str(info.value).startswith(str(tmp_path / "images"))
