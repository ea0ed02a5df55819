from __future__ import annotations

import numpy as np

from training.data.binarization import binarize_heldout

RAMP = np.arange(256, dtype=np.uint8)


def test_validation_and_test_images_are_binarized_always_in_the_same_way() -> None:
    gray = {split: np.full((1, 4, 8), 128, np.uint8) for split in ("train", "valid", "test")}
    binary = binarize_heldout(gray)
    assert binary["train"] is gray["train"]
    rows = {split: ["".join(map(str, row)) for row in binary[split][0]] for split in ("valid", "test")}
    assert rows == {
        "valid": ["11110000", "10110100", "00111111", "00011010"],
        "test": ["00010001", "10010100", "10101111", "10110111"],
    }


def test_a_pixel_is_one_with_its_level_as_probability() -> None:
    gray = np.tile(RAMP, (4000, 1, 1))
    binary = binarize_heldout({"train": gray, "valid": gray, "test": gray})
    for split in ("valid", "test"):
        assert binary[split].dtype == np.uint8
        assert set(np.unique(binary[split])) == {0, 1}
        share = binary[split].mean(axis=(0, 1))
        assert share[0] == 0
        assert share[255] == 1
        assert np.abs(share - RAMP / 255).max() < 0.04
    assert not np.array_equal(binary["valid"], binary["test"])
