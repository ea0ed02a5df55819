"""Dynamic binarization (Salakhutdinov & Murray, 2008): a pixel is 1 with its gray level as probability.

Training images stay gray, because they are binarized afresh at every visit. Validation and test images are binarized
once, so that every model is validated and tested on the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from training.data.splits import Pixels

__all__ = ["binarize_heldout"]

SEED = 777
"""Of the paper's public implementation, so that the test images are its own, bit by bit."""


def binarize_heldout(arrays: Mapping[str, Pixels]) -> dict[str, Pixels]:
    """From gray images `train`, `valid` and `test` (N, H, W) to the same with `valid` and `test` as zeros and ones."""
    random = np.random.RandomState(SEED)  # draws the same numbers in every version of NumPy, unlike its successor
    heldout = {split: random.binomial(1, arrays[split] / np.float32(255)) for split in ("valid", "test")}
    return {"train": arrays["train"]} | {split: images.astype(np.uint8) for split, images in heldout.items()}
