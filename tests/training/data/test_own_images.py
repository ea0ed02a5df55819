from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from training.data.dataset import SPLITS, DatasetError
from training.data.own_images import load_own_images


def random_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Thirty gray PNG files of 6x5 pixels."""
    path = tmp_path / "pictures"
    path.mkdir()
    for index, pixels in enumerate(random_images(30, 5, 6)):
        Image.fromarray(pixels).save(path / f"{index:02}.png")
    return path


def test_a_folder_is_split_80_10_10_and_no_image_is_lost(folder: Path) -> None:
    dataset = load_own_images(folder)
    assert (dataset.name, dataset.levels, dataset.image_shape) == ("pictures", 255, (1, 5, 6))
    assert [len(getattr(dataset, split)) for split in SPLITS] == [24, 3, 3]
    together = np.concatenate([getattr(dataset, split) for split in SPLITS])
    assert sorted(image.tobytes() for image in together) == sorted(image.tobytes() for image in random_images(30, 5, 6))
    assert not np.array_equal(together[:, 0], random_images(30, 5, 6))
    assert load_own_images(folder).describe() == dataset.describe()


def pixel_of(folder: Path, image: Image.Image, name: str) -> int:
    """What one pixel of that file becomes, in a folder full of it."""
    for index in range(20):
        image.save(folder / f"{name}-{index}.{name}")
    return int(load_own_images(folder).train[0, 0, 0, 0])


@pytest.mark.parametrize(
    ("image", "kind", "gray"),
    [
        (Image.new("RGB", (2, 2), (255, 0, 0)), "png", 76),  # ITU-R 601: 0.299 red
        (Image.new("RGB", (2, 2), (0, 255, 0)), "bmp", 150),
        (Image.new("L", (2, 2), 200), "jpg", 200),
        (Image.new("1", (2, 2), 1), "png", 255),
        (Image.fromarray(np.full((2, 2), 0xABCD, np.uint16)), "png", 0xAB),
        (Image.new("RGBA", (2, 2), (255, 255, 255, 0)), "png", 0),
        (Image.new("LA", (2, 2), (200, 255)), "png", 200),
    ],
)
def test_colors_depths_and_transparency_become_gray(image: Image.Image, kind: str, gray: int, tmp_path: Path) -> None:
    assert pixel_of(tmp_path, image, kind) == gray


def test_other_files_and_folders_are_left_alone(folder: Path) -> None:
    (folder / "notes.txt").write_text("hello")
    (folder / "more.png").mkdir()
    assert len(load_own_images(folder).train) == 24


def test_the_first_file_of_another_size_is_named(folder: Path) -> None:
    for name in ("10.png", "20.png"):
        Image.new("L", (7, 5)).save(folder / name)
    with pytest.raises(DatasetError, match=r"10\.png is 7x5 and 00\.png is 6x5; all must be of one size"):
        load_own_images(folder)


def test_a_file_that_is_no_image_is_named(folder: Path) -> None:
    (folder / "05.png").write_bytes(b"not a picture")
    with pytest.raises(DatasetError, match=r"05\.png cannot be read as an image"):
        load_own_images(folder)
    (folder / "05.png").write_bytes((folder / "06.png").read_bytes()[:60])
    with pytest.raises(DatasetError, match=r"05\.png cannot be read as an image"):
        load_own_images(folder)


def test_a_huge_image_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    Image.new("1", (5000, 5000)).save(tmp_path / "huge.png")
    with pytest.raises(DatasetError, match=r"huge\.png is 5000x5000 pixels; make the images smaller"):
        load_own_images(tmp_path)


def test_too_few_images_or_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="has no image files directly in it"):
        load_own_images(tmp_path)
    for index in range(19):
        Image.new("L", (4, 4)).save(tmp_path / f"{index}.png")
    with pytest.raises(DatasetError, match="holds 19 images; at least 20 are needed"):
        load_own_images(tmp_path)


def test_what_is_neither_a_folder_nor_an_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"missing\.npz is neither a folder of images nor an \.npz file"):
        load_own_images(tmp_path / "missing.npz")


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path / "own.npz", allow_pickle=True, **arrays)
    return path / "own.npz"


@pytest.mark.parametrize("shape", [(30, 4, 5), (30, 1, 4, 5), (30, 3, 4, 5)])
def test_one_array_is_split(shape: tuple[int, ...], tmp_path: Path) -> None:
    dataset = load_own_images(save(tmp_path, images=random_images(*shape)))
    channels = shape[1] if len(shape) == 4 else 1
    assert dataset.train.shape == (24, channels, 4, 5)
    assert dataset.levels == 255


def test_three_arrays_stay_as_they_are(tmp_path: Path) -> None:
    arrays = {split: random_images(size, 4, 5) for split, size in zip(SPLITS, (7, 3, 2), strict=True)}
    dataset = load_own_images(save(tmp_path, **arrays, labels=np.arange(7)))
    for split in SPLITS:
        assert np.array_equal(getattr(dataset, split)[:, 0], arrays[split])


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.bool_])
def test_zeros_and_ones_are_black_and_white(dtype: type, tmp_path: Path) -> None:
    ones = (random_images(20, 4, 4) > 127).astype(dtype)
    dataset = load_own_images(save(tmp_path, images=ones))
    assert dataset.levels == 1
    assert dataset.train.max() == 1


def test_fractions_are_scaled_to_255(tmp_path: Path) -> None:
    fractions = random_images(20, 4, 4) / 255.0
    dataset = load_own_images(save(tmp_path, images=fractions.astype(np.float32)))
    together = np.concatenate([getattr(dataset, split) for split in SPLITS])
    assert sorted(together.ravel()) == sorted(random_images(20, 4, 4).ravel())


GOOD = random_images(20, 4, 4)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.array([{}] * 20, dtype=object)}, "cannot be read as .npz: Object arrays cannot be loaded"),
        ({"images": np.full((20, 4, 4), 1.5)}, "has values outside 0 to 1: from 1.5 to 1.5"),
        ({"images": np.full((20, 4, 4), np.nan)}, "has values outside 0 to 1: from nan to nan"),
        ({"images": np.full((20, 4, 4), 256)}, "has values outside 0 to 255"),
        ({"images": np.full((20, 4, 4), -1)}, "has values outside 0 to 255"),
        ({"images": np.full((20, 4, 4), "x")}, "holds <U1 values, not numbers"),
        ({"images": GOOD[:19]}, "holds 19 images; at least 20 are needed"),
        ({"images": GOOD[0]}, "has shape (4, 4), not (N, H, W) or (N, C, H, W)"),
        ({"images": np.zeros((20, 0, 4))}, "has shape (20, 1, 0, 4), not"),
        ({"images": random_images(20, 8, 8, 3)}, "after N come 1 or 3 channels"),
        ({"images": random_images(20, 300, 300)}, "have over 65536 values; make them smaller"),
        ({"pictures": GOOD}, "must hold arrays train, valid and test, or one array images; it holds pictures"),
        ({"train": GOOD, "valid": GOOD, "test": GOOD[:, :3]}, "train, valid and test differ in the size"),
        ({"train": GOOD, "valid": GOOD, "test": GOOD[:1]}, "test holds 1 images; at least 2 are needed"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_with_the_reason(
    arrays: dict[str, np.ndarray], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError) as error:
        load_own_images(save(tmp_path, **arrays))
    assert message in str(error.value)
    assert "own.npz" in str(error.value)


def test_a_bare_array_under_the_name_of_an_archive_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "own.npz", "wb") as file:
        np.save(file, GOOD)
    with pytest.raises(DatasetError, match="is a single array; save it with numpy"):
        load_own_images(tmp_path / "own.npz")
