from __future__ import annotations

import numpy as np
import pytest

from training.data.gray_levels import bins, nearest_levels
from training.data.splits import DatasetError

LEVELS = np.arange(256)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_levels_come_back_from_their_fractions(dtype: type[np.floating]) -> None:
    fractions = (LEVELS / 255).astype(dtype)
    assert nearest_levels(fractions, "it").tolist() == LEVELS.tolist()
    assert bins(fractions, "it").tolist() == LEVELS.tolist()


def test_a_fraction_goes_to_the_nearest_level() -> None:
    assert nearest_levels(np.array([0.4, 0.6, 254.4, 254.6]) / 255, "it").tolist() == [0, 1, 254, 255]


def test_a_fraction_goes_to_the_bin_that_holds_it() -> None:
    fractions = np.array([0, 0.99 / 256, 1 / 256, 1.99 / 256, 254.99 / 256, 255 / 256, 1])
    assert bins(fractions, "it").tolist() == [0, 0, 1, 1, 254, 255, 255]


@pytest.mark.parametrize("convert", [nearest_levels, bins])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.5, 1.01], "it has values outside 0 to 1: from 0.5 to 1.01"),
        ([-0.01, 0.5], "it has values outside 0 to 1: from -0.01 to 0.5"),
        ([0.5, np.nan], "it has values outside 0 to 1: from nan to nan"),
        ([0, 255], "it holds int64 values, not fractions"),
    ],
)
def test_what_is_no_fraction_is_refused(convert, values: list[float], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        convert(np.array(values), "it")
