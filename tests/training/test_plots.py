from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.plots import draw_curves, draw_histogram, y_limits


def test_the_first_epochs_do_not_squeeze_the_last_ones() -> None:
    values = [-500.0, -200.0, -120.0, *np.linspace(-100, -80, 97)]
    low, high = y_limits(values)
    assert -125 < low < -97.5
    assert -80 < high < -70


@pytest.mark.parametrize("values", [[-5.0], [3.0, 3.0, 3.0]])
def test_values_that_do_not_differ_have_limits_around_them(values: list[float]) -> None:
    low, high = y_limits(values)
    assert low < values[0] < high


@pytest.mark.parametrize("epochs", [1, 2, 40])
def test_curves_are_drawn_from_the_first_epoch_on(epochs: int, tmp_path: Path) -> None:
    keys = ("train_elbo", "train_kl", "valid_elbo", "valid_kl")
    history = [{"epoch": epoch, **dict.fromkeys(keys, float(-100 // epoch))} for epoch in range(1, epochs + 1)]
    draw_curves(history, tmp_path / "curves.png", title="t", warmup_epochs=100)
    with Image.open(tmp_path / "curves.png") as image:
        assert image.size == (960, 768)


def test_a_histogram_is_drawn(tmp_path: Path) -> None:
    draw_histogram(np.array([-90.0, -80.0]), tmp_path / "histogram.png", title="t")
    with Image.open(tmp_path / "histogram.png") as image:
        assert image.size == (768, 480)
