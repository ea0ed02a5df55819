from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from training.data import DATASETS, Dataset, DatasetError, data_directory, load_dataset
from training.data.dataset import binarize_heldout
from vampprior.likelihoods import LIKELIHOODS

BERNOULLI = LIKELIHOODS["bernoulli"]


def gray(pixels: np.ndarray, levels: int = 255) -> Dataset:
    images = pixels.astype(np.uint8)[:, None]
    return Dataset("gray", images, images, images, levels)


def test_the_digits_are_all_of_scikit_learns_split_at_random(digits: Dataset) -> None:
    from sklearn.datasets import load_digits

    original = (load_digits().images >= 8).astype(np.uint8)
    together = np.concatenate([digits.train, digits.valid, digits.test])[:, 0]
    assert [len(digits.train), len(digits.valid), len(digits.test)] == [1297, 250, 250]
    assert digits.image_shape == (1, 8, 8)
    assert sorted(image.tobytes() for image in together) == sorted(image.tobytes() for image in original)
    assert not np.array_equal(together[:1297], original[:1297])


def test_the_digits_are_the_same_every_time(digits: Dataset) -> None:
    assert load_dataset("digits").describe() == digits.describe()


def test_the_digits_without_scikit_learn_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert not DATASETS["digits"].is_available(Path())
    with pytest.raises(DatasetError, match="pip install scikit-learn"):
        load_dataset("digits")


@pytest.mark.parametrize(("levels", "dark", "bright"), [(255, 127, 128), (16, 7, 8), (1, 0, 1)])
def test_a_pixel_is_white_from_one_half_on(levels: int, dark: int, bright: int) -> None:
    thresholded = gray(np.array([[[dark, bright], [0, levels]]]), levels).thresholded()
    assert thresholded.train.tolist() == [[[[0, 1], [0, 1]]]]
    assert (thresholded.levels, thresholded.kind) == (1, "binary")
    assert thresholded.train.dtype == np.uint8


def test_a_card_tells_data_sets_apart_by_one_pixel() -> None:
    pixels = np.zeros((3, 2, 2))
    before = gray(pixels).describe()
    pixels[2, 1, 1] = 1
    after = gray(pixels).describe()
    assert before["sizes"] == after["sizes"] == {"train": 3, "valid": 3, "test": 3}
    assert before["sha256"]["test"] != after["sha256"]["test"]


def test_an_unknown_data_set_is_answered_with_those_there_are() -> None:
    with pytest.raises(
        DatasetError, match=r"no data set 'cifar'; there are static_mnist, .*, or give the path"
    ) as info:
        load_dataset("cifar")
    assert all(name in str(info.value) for name in DATASETS)


def test_each_data_set_goes_by_its_own_name() -> None:
    assert [source.name for source in DATASETS.values()] == list(DATASETS)
    assert len({source.summary for source in DATASETS.values()}) == len(DATASETS)


def test_own_gray_images_become_black_and_white_for_binary_pixels_only(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", images=images)
    as_they_are = load_dataset(str(tmp_path / "own.npz"))
    suited = load_dataset(str(tmp_path / "own.npz"), likelihood=BERNOULLI)
    assert as_they_are.levels == 255
    assert suited.levels == 1
    assert np.array_equal(suited.test, as_they_are.test >= 128)


def test_the_data_directory_is_the_environments_if_it_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAMP_DATA_DIR", "/somewhere")
    assert data_directory() == Path("/somewhere")
    monkeypatch.setenv("VAMP_DATA_DIR", "")
    assert data_directory().name == "data"


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
