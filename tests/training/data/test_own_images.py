from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from training.data.dataset import SPLITS, DatasetError
from training.data.own_images import Wanted, heldout_sizes, load_own_images
from vampprior.pixels import pixels_of
from vampprior.preparation import Preparation


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


def pixel_of(folder: Path, image: Image.Image, kind: str) -> int:
    """What the pixels of an image of one level become, in a folder with other images."""
    image.save(folder / f"image.{kind}")
    for index, pixels in enumerate(random_images(30, 2, 2)):
        Image.fromarray(pixels).save(folder / f"other-{index}.png")
    dataset = load_own_images(folder)
    together = np.concatenate([getattr(dataset, split) for split in SPLITS])
    (uniform,) = [image for image in together if image.min() == image.max()]
    return int(uniform.max())


@pytest.mark.parametrize(
    ("image", "kind", "gray"),
    [
        (Image.new("RGB", (2, 2), (255, 0, 0)), "png", 76),  # ITU-R 601: 0.299 red
        (Image.new("RGB", (2, 2), (0, 255, 0)), "bmp", 150),
        (Image.new("L", (2, 2), 200), "jpg", 200),
        (Image.new("1", (2, 2), 1), "png", 255),
        (Image.new("L", (2, 2), 200), "gif", 200),
        (Image.fromarray(np.full((2, 2), 0xABCD, np.uint16)), "png", 171),  # 43,981 / 257, rounded
        (Image.fromarray(np.full((2, 2), 0xABCD, np.uint16)), "tif", 171),
        (Image.new("RGBA", (2, 2), (255, 255, 255, 0)), "png", 0),
        (Image.new("LA", (2, 2), (200, 255)), "png", 200),
    ],
)
def test_colors_depths_and_transparency_become_gray(image: Image.Image, kind: str, gray: int, tmp_path: Path) -> None:
    assert pixel_of(tmp_path, image, kind) == gray


def test_folders_in_it_are_read_and_other_and_hidden_files_left_alone(folder: Path) -> None:
    (folder / "notes.txt").write_text("hello")
    (folder / "more.png").mkdir()
    (folder / "deep" / "er").mkdir(parents=True)
    Image.fromarray(random_images(31, 5, 6)[-1]).save(folder / "deep" / "er" / "one.JPG", quality=100)
    (folder / ".trash").mkdir()
    Image.new("L", (6, 5)).save(folder / ".trash" / "old.png")
    Image.new("L", (6, 5)).save(folder / ".hidden.png")
    dataset = load_own_images(folder)
    assert sum(len(getattr(dataset, split)) for split in SPLITS) == 31


def test_the_first_file_of_another_size_is_named(folder: Path) -> None:
    for name in ("10.png", "20.png"):
        Image.new("L", (7, 5)).save(folder / name)
    with pytest.raises(DatasetError, match=r"10\.png is 7x5 and 00\.png is 6x5; set a size in \[images\]"):
        load_own_images(folder)


@pytest.mark.parametrize(("mode", "channels", "levels"), [("rgb", 3, 255), ("gray", 1, 255), ("binary", 1, 1)])
def test_mixed_sizes_and_modes_are_prepared(mode: Any, channels: int, levels: int, folder: Path) -> None:
    for index, size in enumerate([(30, 20), (9, 50), (200, 100)]):
        pixels = random_images(size[1], size[0], 3)
        Image.fromarray(pixels).save(folder / f"colour-{index}.jpg")
    dataset = load_own_images(folder, Wanted((8, 10), mode, "pad"))
    assert (dataset.image_shape, dataset.levels) == ((channels, 8, 10), levels)
    assert dataset.preparation == Preparation((8, 10), mode, "pad")
    together = np.concatenate([dataset.gray(split) for split in SPLITS])
    expected = dataset.preparation.prepare(pixels_of(Image.open(folder / "colour-0.jpg")))
    assert any(np.array_equal(image, expected) for image in together)


def test_colours_that_are_lost_are_told(folder: Path) -> None:
    assert load_own_images(folder).notices == ()
    Image.fromarray(random_images(5, 6, 3)).save(folder / "colour.png")
    (notice,) = load_own_images(folder).notices
    assert notice == 'the images lose their colours; set mode = "rgb" in [images] to keep them'
    assert load_own_images(folder, Wanted(mode="gray")).notices == ()


def test_files_that_cannot_be_read_are_skipped_and_named(folder: Path) -> None:
    (folder / "05.png").write_bytes(b"not a picture")
    (folder / "07.png").write_bytes((folder / "06.png").read_bytes()[:60])
    Image.fromarray(np.zeros((5, 6), np.float32)).save(folder / "float.tif")
    dataset = load_own_images(folder)
    assert sum(len(getattr(dataset, split)) for split in SPLITS) == 28
    (notice,) = dataset.notices
    assert notice.startswith("skipped 3 files that cannot be read: 05.png: it is not an image, or ")
    assert "; 07.png: " in notice
    assert "float.tif: its pixels are floating-point numbers" in notice


def test_too_few_readable_files_are_refused_with_the_reason(folder: Path) -> None:
    for index in range(15):
        (folder / f"{index:02}.png").write_bytes(b"not a picture")
    with pytest.raises(DatasetError, match=r"15 images; at least 20 are needed; skipped 15 files .*; and 10 more"):
        load_own_images(folder)
    for path in folder.iterdir():
        path.write_bytes(b"not a picture")
    with pytest.raises(
        DatasetError, match=r"none of the 30 image files in .* can be read; 00\.png: it is not an image"
    ):
        load_own_images(folder)


def test_a_huge_image_is_skipped_before_it_is_decoded(folder: Path) -> None:
    Image.new("1", (10_000, 5_001)).save(folder / "huge.png")
    (notice,) = load_own_images(folder, Wanted((5, 6), "gray")).notices
    assert notice.endswith("huge.png: it has 10000x5001 pixels, more than the 50,000,000 that are decoded")


@pytest.mark.filterwarnings("ignore")
def test_a_decompression_bomb_is_skipped(folder: Path) -> None:
    Image.new("1", (20_000, 10_000)).save(folder / "bomb.png")
    (notice,) = load_own_images(folder, Wanted((5, 6), "gray")).notices
    assert notice.endswith("bomb.png: it has more than the 50,000,000 pixels that are decoded")


def test_equal_images_are_left_out_so_that_no_test_image_is_a_training_image(folder: Path) -> None:
    for index in range(20):
        Image.open(folder / f"{index:02}.png").save(folder / f"copy-{index}.bmp")
    dataset = load_own_images(folder)
    together = [image.tobytes() for split in SPLITS for image in getattr(dataset, split)]
    assert len(together) == len(set(together)) == 30
    assert dataset.notices == ("left out 20 images equal to another one, as prepared",)


@pytest.mark.parametrize(
    ("number", "sizes"),
    [
        (20, (2, 2)),
        (99, (9, 9)),
        (100, (20, 10)),
        (494, (49, 49)),
        (495, (99, 49)),
        (989, (99, 98)),
        (5000, (500, 500)),
    ],
)
def test_enough_images_are_held_out_for_a_calibration_where_it_can_be(number: int, sizes: tuple[int, int]) -> None:
    assert heldout_sizes(number) == sizes


def test_too_few_images_or_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="has no image files, also not in its folders"):
        load_own_images(tmp_path)
    for index, pixels in enumerate(random_images(19, 4, 4)):
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    with pytest.raises(DatasetError, match="holds 19 images; at least 20 are needed"):
        load_own_images(tmp_path)


def test_what_is_neither_a_folder_nor_an_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"missing\.npz is neither a folder of images nor an \.npz or \.npy file"):
        load_own_images(tmp_path / "missing.npz")


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path / "own.npz", allow_pickle=True, **arrays)
    return path / "own.npz"


@pytest.mark.parametrize("shape", [(30, 4, 5), (30, 1, 4, 5), (30, 3, 4, 5), (30, 4, 5, 3), (30, 4, 5, 1)])
@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_one_array_is_split(shape: tuple[int, ...], kind: str, tmp_path: Path) -> None:
    array = random_images(*shape)
    path = tmp_path / "own.npy"
    np.save(path, array)
    dataset = load_own_images(save(tmp_path, images=array) if kind == "npz" else path)
    channels = 3 if 3 in shape else 1
    assert dataset.train.shape == (24, channels, 4, 5)
    assert dataset.levels == 255
    assert dataset.preparation == Preparation((4, 5), "rgb" if channels == 3 else "gray")
    images = array.transpose(0, 3, 1, 2) if shape[-1] in (1, 3) else array.reshape(30, channels, 4, 5)
    together = np.concatenate([getattr(dataset, split) for split in SPLITS])
    assert sorted(image.tobytes() for image in together) == sorted(image.tobytes() for image in images)


def test_arrays_are_prepared_as_files_are(folder: Path, tmp_path: Path) -> None:
    wanted = Wanted((8, 9), "rgb", "crop")
    dataset = load_own_images(save(tmp_path, images=random_images(30, 5, 6)), wanted)
    assert dataset.describe()["sha256"] == load_own_images(folder, wanted).describe()["sha256"]


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
        ({"images": GOOD[0]}, "has shape (4, 4), not (N, H, W), (N, H, W, C) or (N, C, H, W)"),
        ({"images": np.zeros((20, 0, 4))}, "has shape (20, 0, 4), not"),
        ({"images": random_images(20, 8, 8, 4)}, "its second or its last dimension must be the channels"),
        ({"images": random_images(20, 3, 8, 3)}, "could be (N, C, H, W) or (N, H, W, C); gray images can be saved as"),
        ({"images": random_images(20, 1, 8, 1)}, "could be (N, C, H, W) or (N, H, W, C)"),
        ({"images": random_images(20, 300, 300)}, "have over 65536 values; set a smaller size"),
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
    with pytest.raises(DatasetError, match=r"is a single array; rename it to \.npy"):
        load_own_images(tmp_path / "own.npz")
