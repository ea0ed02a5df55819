from __future__ import annotations

import numpy as np
import torch

from vampprior.binarization import sample_binary, threshold_gray
from vampprior.likelihoods import LIKELIHOODS

LEVELS = np.arange(256, dtype=np.uint8)


def test_a_threshold_is_what_binary_models_see() -> None:
    gray = torch.from_numpy(LEVELS.copy())
    bernoulli = LIKELIHOODS["bernoulli"]
    assert bernoulli.from_bytes(torch.from_numpy(threshold_gray(LEVELS))).equal(bernoulli.from_bytes(gray))


def test_pixels_are_on_as_often_as_their_gray_level_says() -> None:
    drawn = sample_binary(np.broadcast_to(LEVELS, (2000, 256)), seed=0)
    assert set(np.unique(drawn)) == {0, 255}
    shares = (drawn == 255).mean(0)
    np.testing.assert_allclose(shares, LEVELS / 255, atol=5 * 0.5 / np.sqrt(2000))
    assert (shares[0], shares[255]) == (0.0, 1.0)


def test_an_image_is_drawn_by_seed_and_place_alone() -> None:
    gray = np.random.default_rng(0).integers(0, 256, (3, 1, 5, 6), dtype=np.uint8)
    drawn = sample_binary(gray, seed=7)
    assert drawn.shape == gray.shape
    np.testing.assert_array_equal(sample_binary(gray[:2], seed=7), drawn[:2])
    assert (sample_binary(gray, seed=8) != drawn).any()
    same = sample_binary(np.stack([gray[0], gray[0]]), seed=7)
    assert (same[0] != same[1]).any()
