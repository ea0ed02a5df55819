"""Small sets of real images, and scratches on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.small_sets.figure import BASE, CHANGES, recipe_of
from benchmarks.small_sets.scratches import DEPTH, LENGTH, with_scratches
from benchmarks.small_sets.sets import SETS, TEXTURES


@pytest.mark.parametrize("name", [*TEXTURES, "faces"])  # some digits are equal, and so are white patches of tissue
def test_no_image_is_in_two_splits(name: str) -> None:
    dataset = SETS[name]()
    train, valid, test = ({image.tobytes() for image in getattr(dataset, s)} for s in ("train", "valid", "test"))
    assert len(train) > 50
    assert train.isdisjoint(valid | test)
    assert valid.isdisjoint(test)


@pytest.mark.parametrize("name", TEXTURES)
def test_test_patches_come_from_the_right_half(name: str) -> None:
    from skimage import data

    right = getattr(data, name)()[:, 256:]
    patches = {right[y : y + 16, x : x + 16].tobytes() for y in range(0, 512, 16) for x in range(0, 256, 16)}
    assert {patch.tobytes() for patch in SETS[name]().test} <= patches


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_a_recipe_that_differs_from_the_base(change: str) -> None:
    dataset = SETS["digits"]()
    changed = recipe_of(dataset, {**BASE, **CHANGES[change]})
    assert (changed == recipe_of(dataset, BASE)) == (change == "base")


def test_a_scratch_is_a_short_line_within_the_image() -> None:
    gray: Any = np.full((200, 16, 16), 128, np.uint8)
    changed = with_scratches(gray, np.random.default_rng(0)).astype(int) - 128
    assert set(np.unique(changed)) == {-DEPTH, 0, DEPTH}
    for image in changed:
        rows, columns = np.nonzero(image)
        assert len(np.unique(image[rows, columns])) == 1
        assert LENGTH // 2 < len(rows) <= LENGTH + 2
        assert max(np.ptp(rows), np.ptp(columns)) <= LENGTH + 1
