from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from training.data.archive import Archive, RemoteFile, StoredArray
from training.data.dataset import SPLITS, DatasetError, Pixels


def convert(paths: Mapping[str, Path]) -> dict[str, Pixels]:
    """Two pixels per image, one image after another."""
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
    downloads={split: RemoteFile(f"http://127.0.0.1:9/{split}.raw", "sha256:") for split in SPLITS},
    convert=convert,
    levels=1,
)


AtHome = Callable[[Archive, Mapping[str, bytes], Mapping[str, Pixels]], Archive]


@pytest.fixture
def toy(at_home: AtHome) -> Archive:
    return at_home(TOY, IMAGES, ARRAYS)


def test_a_missing_set_is_downloaded_converted_and_loaded(toy: Archive, tmp_path: Path) -> None:
    directory = tmp_path / "data"
    assert not toy.is_available(directory)
    toy.fetch(directory)
    assert toy.is_available(directory)
    dataset = toy.load(directory)
    assert (dataset.name, dataset.levels, dataset.dynamic) == ("toy", 1, False)
    for split in SPLITS:
        assert np.array_equal(getattr(dataset, split), ARRAYS[split][:, None])
    assert [path.name for path in directory.glob("[!.]*")] == ["pairs.npz"]


def test_files_put_there_by_hand_need_no_download(toy: Archive, tmp_path: Path) -> None:
    files = {split: replace(file, url=f"http://127.0.0.1:9/{file.name}") for split, file in toy.downloads.items()}
    offline = replace(toy, downloads=files)
    folder = tmp_path / "data" / "pairs"
    with pytest.raises(DatasetError, match=r"cannot download .* put the files by hand into .*pairs and try again"):
        offline.fetch(tmp_path / "data")
    for split in SPLITS:
        (folder / f"{split}.raw").write_bytes(IMAGES[split])
    (folder / "mine.txt").write_text("not yours to delete")
    offline.fetch(tmp_path / "data")
    assert offline.is_available(tmp_path / "data")
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


def test_a_set_without_a_public_home_says_what_its_file_must_hold(tmp_path: Path) -> None:
    private = replace(TOY, downloads={}, arrays=TOY.arrays | {"test": StoredArray((2, 1, 2))})
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
    assert not other.is_available(tmp_path)


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
    with pytest.raises(
        DatasetError, match=r"pairs\.npz.*delete it, and `python -m training data toy` downloads it again"
    ):
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


def git_name(content: bytes) -> str:
    """The checksum by which `git hash-object` knows a file."""
    return f"git:{hashlib.sha1(b'blob %d' % len(content) + bytes(1) + content).hexdigest()}"


def test_a_checksum_is_of_the_bytes_or_the_name_that_git_gives_them(tmp_path: Path) -> None:
    content = b"what Git calls a blob\n"
    (tmp_path / "file").write_bytes(content)
    (tmp_path / "empty").touch()
    checksums = [
        f"sha256:{hashlib.sha256(content).hexdigest()}",
        "git:601ef0856dacf7a14b1628b09f4f8b0cb132d273",
        "git:e69de29bb2d1d6434b8b29ae775ad8c2e48c5391",
    ]
    found = [
        [RemoteFile("", checksum).matches(tmp_path / name) for checksum in checksums] for name in ("file", "empty")
    ]
    assert found == [[True, True, False], [False, False, True]]
    assert not RemoteFile("", checksums[0]).matches(tmp_path / "missing")


@pytest.mark.parametrize("kind", ["sha256", "git"])
def test_a_download_with_another_checksum_is_refused_and_removed(kind: str, toy: Archive, tmp_path: Path) -> None:
    checksum = git_name(IMAGES["test"]) if kind == "git" else toy.downloads["test"].checksum
    right = toy.downloads | {"test": replace(toy.downloads["test"], checksum=checksum)}
    wrong = toy.downloads | {"test": replace(toy.downloads["test"], checksum=f"{kind}:{'0' * 64}")}
    with pytest.raises(DatasetError, match=rf"cannot download .*test\.raw \(.*{'0' * 64}.*\); put the files by hand"):
        replace(toy, downloads=wrong).fetch(tmp_path)
    assert sorted(path.name for path in (tmp_path / "pairs").iterdir()) == ["train.raw", "valid.raw"]
    replace(toy, downloads=right).fetch(tmp_path)
    assert np.array_equal(toy.load(tmp_path).test[:, 0], ARRAYS["test"])


def test_a_wrong_file_in_the_folder_is_replaced(toy: Archive, tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "test.raw").write_bytes(IMAGES["train"])
    toy.fetch(tmp_path)
    assert np.array_equal(toy.load(tmp_path).test[:, 0], ARRAYS["test"])


def test_only_missing_files_need_pooch(toy: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(DatasetError, match="pip install pooch, or put the files by hand"):
        toy.fetch(tmp_path)
    (tmp_path / "pairs").mkdir()
    for split in SPLITS:
        (tmp_path / "pairs" / f"{split}.raw").write_bytes(IMAGES[split])
    toy.fetch(tmp_path)
    assert toy.is_available(tmp_path)


def test_a_process_that_waited_for_another_ones_download_needs_none(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as waiting:
        with FileLock(tmp_path / ".pairs.npz.lock"):
            fetched = waiting.submit(TOY.fetch, tmp_path)  # whose addresses lead nowhere
            np.savez(tmp_path / "pairs.npz", **ARRAYS)
        fetched.result()
