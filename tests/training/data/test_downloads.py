from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from training.data.archives import Archive
from training.data.checksums import Checksum, GitBlob, Sha256
from training.data.downloads import RemoteFile, download
from training.data.splits import DatasetError, Pixels
from training.data.static_mnist import STATIC_MNIST

CONTENT = b"what Git calls a blob\n"
BLOB = "601ef0856dacf7a14b1628b09f4f8b0cb132d273"


@pytest.fixture
def remote(at_home: Callable[[Archive, Mapping[str, bytes], Mapping[str, Pixels]], Archive]) -> RemoteFile:
    """A file that holds `CONTENT`."""
    origin = at_home(STATIC_MNIST, {"train": CONTENT}, {}).origin
    assert origin
    return origin.files["train"]


def test_a_sha256_is_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    assert Sha256.of(tmp_path / "file") == Sha256(hashlib.sha256(CONTENT).hexdigest())


def test_a_git_blob_is_called_as_git_calls_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    (tmp_path / "empty").touch()
    assert GitBlob.of(tmp_path / "file") == GitBlob(BLOB)
    assert GitBlob.of(tmp_path / "empty") == GitBlob("e69de29bb2d1d6434b8b29ae775ad8c2e48c5391")


def test_checksums_of_two_kinds_are_never_equal() -> None:
    assert Sha256("00") != GitBlob("00")


@pytest.mark.parametrize("kind", [Sha256, GitBlob])
def test_a_file_is_downloaded_if_its_checksum_is_right(
    kind: type[Checksum], remote: RemoteFile, tmp_path: Path
) -> None:
    (tmp_path / "original").write_bytes(CONTENT)
    right = replace(remote, checksum=kind.of(tmp_path / "original"))
    wrong = replace(remote, checksum=kind("0" * 64))
    with pytest.raises(DatasetError, match=rf"train\.amat \(what came has {kind.kind} \w+, not 0+\); put .* by hand"):
        download({"it": wrong}, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
    path = download({"it": right}, tmp_path / "new")["it"]
    assert path == tmp_path / "new" / "binarized_mnist_train.amat"
    assert path.read_bytes() == CONTENT
    assert list((tmp_path / "new").iterdir()) == [path]


def test_a_wrong_file_that_lies_there_is_replaced(remote: RemoteFile, tmp_path: Path) -> None:
    (tmp_path / remote.name).write_bytes(CONTENT[:5])
    assert download({"it": remote}, tmp_path)["it"].read_bytes() == CONTENT


def test_only_a_missing_file_needs_pooch(remote: RemoteFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(DatasetError, match="pip install pooch, or put the files by hand"):
        download({"it": remote}, tmp_path)
    (tmp_path / remote.name).write_bytes(CONTENT)
    assert download({"it": remote}, tmp_path)["it"].read_bytes() == CONTENT
