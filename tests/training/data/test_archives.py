from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from training.data.archives import Archive, Origin, StoredArray
from training.data.checksums import Sha256
from training.data.downloads import RemoteFile
from training.data.splits import SPLITS, DatasetError, Pixels


def convert(paths: Mapping[str, Path]) -> dict[str, Pixels]:
    """Two pixels an image, as they lie in the file."""
    return {split: np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 1, 2) for split, path in paths.items()}


IMAGES = {"train": bytes([0, 1, 1, 1, 1, 0]), "valid": bytes([1, 0]), "test": bytes([0, 0, 0, 1])}
ARRAYS = {split: np.frombuffer(content, np.uint8).reshape(-1, 1, 2) for split, content in IMAGES.items()}
TOY = Archive(
    name="toy",
    summary="pairs of pixels",
    file="pairs.npz",
    arrays={
        split: StoredArray(array.shape, hashlib.sha256(array.tobytes()).hexdigest()) for split, array in ARRAYS.items()
    },
    origin=Origin({split: RemoteFile(f"http://127.0.0.1:9/{split}.raw", Sha256("")) for split in SPLITS}, convert),
    levels=1,
)


@pytest.fixture
def toy(at_home: Callable[[Archive, Mapping[str, bytes], Mapping[str, Pixels]], Archive]) -> Archive:
    return at_home(TOY, IMAGES, ARRAYS)


def test_a_missing_set_is_downloaded_converted_and_loaded(toy: Archive, tmp_path: Path) -> None:
    directory = tmp_path / "data"
    assert not toy.is_there(directory)
    toy.fetch(directory)
    assert toy.is_there(directory)
    dataset = toy.load(directory)
    assert (dataset.name, dataset.levels, dataset.dynamic) == ("toy", 1, False)
    for split in SPLITS:
        assert np.array_equal(getattr(dataset, split), ARRAYS[split][:, None])
    assert [path.name for path in directory.iterdir()] == ["pairs.npz"]


def test_files_put_there_by_hand_need_no_download(toy: Archive, tmp_path: Path) -> None:
    assert toy.origin
    files = {split: replace(file, url=f"http://127.0.0.1:9/{file.name}") for split, file in toy.origin.files.items()}
    offline = replace(toy, origin=replace(toy.origin, files=files))
    folder = tmp_path / "data" / "pairs"
    with pytest.raises(DatasetError, match=r"cannot download .* put the files by hand into .*pairs and try again"):
        offline.fetch(tmp_path / "data")
    for split in SPLITS:
        (folder / f"{split}.raw").write_bytes(IMAGES[split])
    (folder / "mine.txt").write_text("not yours to delete")
    offline.fetch(tmp_path / "data")
    assert offline.is_there(tmp_path / "data")
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


def test_a_set_without_a_public_home_says_what_its_file_must_hold(tmp_path: Path) -> None:
    private = replace(TOY, origin=None, arrays=TOY.arrays | {"test": StoredArray((2, 1, 2))})
    wanted = (
        r"put it by hand into .*pairs\.npz, as uint8 arrays train \(3, 1, 2\) with sha256 \w{64}, .* test \(2, 1, 2\)$"
    )
    with pytest.raises(DatasetError, match=wanted):
        private.fetch(tmp_path)
    np.savez(tmp_path / "pairs.npz", **ARRAYS)
    assert len(private.load(tmp_path).train) == 3
    np.savez(tmp_path / "pairs.npz", train=ARRAYS["train"])
    with pytest.raises(DatasetError, match=r"lacks the array valid; delete it, .* toy` says what it must hold"):
        private.load(tmp_path)


def test_a_file_may_hold_more_than_the_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "pairs.npz", **ARRAYS, train_labels=np.array([7, 8, 9]), names=np.array(["a", "b"]))
    assert np.array_equal(TOY.load(tmp_path).train[:, 0], ARRAYS["train"])


def test_a_set_is_prepared_whenever_it_is_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "pairs.npz", **ARRAYS)
    inverse = replace(TOY, prepare=lambda arrays: {split: 1 - arrays[split] for split in SPLITS}, dynamic=True)
    dataset = inverse.load(tmp_path)
    assert dataset.dynamic
    assert np.array_equal(dataset.test[:, 0], 1 - ARRAYS["test"])


def test_conversion_to_other_images_than_are_known_is_refused(toy: Archive, tmp_path: Path) -> None:
    other = replace(toy, arrays=toy.arrays | {"valid": StoredArray((1, 1, 2), "0" * 64)})
    with pytest.raises(DatasetError, match="toy: valid is damaged: it has sha256"):
        other.fetch(tmp_path)
    assert not other.is_there(tmp_path)


DAMAGES = ["truncated", "other pixels", "other type", "other shape", "lacks test", "pickled", "not a zip"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_with_the_remedy(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.npz"
    arrays: dict[str, np.ndarray] = dict(ARRAYS)
    match damage:
        case "other pixels":
            arrays["test"] = 1 - ARRAYS["test"]
        case "other type":
            arrays["valid"] = ARRAYS["valid"].astype(np.int64)
        case "other shape":
            arrays["train"] = ARRAYS["train"].reshape(3, 2, 1)
        case "lacks test":
            del arrays["test"]
        case "pickled":
            arrays["train"] = np.array([{"a": 1}], dtype=object)
    np.savez(path, allow_pickle=True, **arrays)
    match damage:
        case "truncated":
            path.write_bytes(path.read_bytes()[:300])
        case "not a zip":
            path.write_bytes(b"<html>404</html>")
    with pytest.raises(DatasetError, match=r"pairs\.npz.*delete it, and `python -m training data toy` gets it again"):
        TOY.load(tmp_path)


def test_a_changed_byte_is_noticed_where_no_sha256_is_known(tmp_path: Path) -> None:
    unknown = replace(TOY, arrays={split: StoredArray(array.shape) for split, array in ARRAYS.items()})
    path = tmp_path / "pairs.npz"
    np.savez(path, **ARRAYS)
    assert len(unknown.load(tmp_path).train) == 3
    content = bytearray(path.read_bytes())
    content[content.index(IMAGES["train"])] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"pairs\.npz cannot be read as \.npz: Bad CRC-32"):
        unknown.load(tmp_path)
