"""Arrays become image files whose pixels are theirs."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vampprior_client import InvalidImage, to_pillow
from vampprior_client.images import batches


def pixels(image: Any) -> Any:
    ((file,),) = batches([image], 1)
    return np.asarray(Image.open(io.BytesIO(file.content)))


@pytest.mark.parametrize("shape", [(5, 7), (1, 5, 7), (3, 5, 7)])
def test_levels_are_kept(shape: tuple[int, ...]) -> None:
    levels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    expected = levels.transpose(1, 2, 0) if shape[0] == 3 else levels.reshape(5, 7)
    np.testing.assert_array_equal(pixels(levels), expected)


@pytest.mark.parametrize(("value", "level"), [(0.0, 0), (0.5, 128), (1.0, 255), (True, 255)])
def test_values_become_levels(value: Any, level: int) -> None:
    assert (pixels(np.full((2, 2), value)) == level).all()
    assert np.asarray(to_pillow(np.full((2, 2), float(value)))).max() == level


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 5, 7)),
        np.zeros(5),
        np.zeros((2, 2), np.int64),
        np.full((2, 2), np.nan),
        np.full((2, 2), 255.0),
        np.full((2, 2), -0.1),
    ],
)
def test_what_is_no_image_is_refused_before_it_is_sent(array: Any) -> None:
    with pytest.raises(InvalidImage):
        pixels(array)


def test_something_else_is_refused() -> None:
    with pytest.raises(InvalidImage, match="a dict"):
        list(batches([{}], 1))  # type: ignore[list-item]


def test_batches_keep_the_order_and_none_means_all() -> None:
    images = np.zeros((5, 1, 2, 2), np.uint8)
    assert [[file.name for file in files] for files in batches(images, 2)] == [
        ["image 0", "image 1"],
        ["image 2", "image 3"],
        ["image 4"],
    ]
    assert [len(files) for files in batches(images, None)] == [5]
    assert list(batches([], 2)) == []
