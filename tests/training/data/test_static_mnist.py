from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from training.data.archive import Archive
from training.data.dataset import SPLITS, DatasetError, Pixels
from training.data.static_mnist import STATIC_MNIST, parse_amat

AtHome = Callable[[Archive, Mapping[str, bytes], Mapping[str, Pixels]], Archive]


def amat(images: Pixels) -> bytes:
    """The text that the canonical files hold."""
    rows = images.reshape(len(images), -1)
    return b"".join(b" ".join(str(pixel).encode() for pixel in row) + b"\n" for row in rows)


@pytest.fixture
def images() -> dict[str, Pixels]:
    rng = np.random.default_rng(0)
    return {split: rng.integers(0, 2, (3, 28, 28), dtype=np.uint8) for split in SPLITS}


def test_an_amat_file_gives_its_images(images: dict[str, Pixels]) -> None:
    text = amat(images["train"])
    assert len(text) == 3 * 1568
    parsed = parse_amat(text)
    assert parsed.dtype == np.uint8
    assert np.array_equal(parsed, images["train"])


def test_rows_of_another_size_are_read_row_by_row() -> None:
    assert parse_amat(b"0 1 1 0 0 0\n1 1 1 1 0 1\n", height=2, width=3).tolist() == [
        [[0, 1, 1], [0, 0, 0]],
        [[1, 1, 1], [1, 0, 1]],
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "rows of 8 bytes"),
        (b"0 1 1 0\n0 1", "rows of 8 bytes"),
        (b"0 1 2 0\n", "the pixels of an .amat file must be 0 or 1"),
        (b"0,1,1,0\n", "one space between pixels"),
        (b"0 1 1 0 ", "a line feed after each image"),
        (b"MATLAB 5", "one space between pixels"),
    ],
)
def test_anything_else_is_no_amat_file(text: bytes, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        parse_amat(text, height=2, width=2)


def test_it_is_downloaded_converted_and_loaded(images: dict[str, Pixels], at_home: AtHome, tmp_path: Path) -> None:
    small = at_home(STATIC_MNIST, {split: amat(images[split]) for split in SPLITS}, images)
    small.fetch(tmp_path)
    dataset = small.load(tmp_path)
    assert (dataset.name, dataset.levels, dataset.dynamic) == ("static_mnist", 1, False)
    for split in SPLITS:
        assert np.array_equal(getattr(dataset, split), images[split][:, None])
