from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from training.archives import Archive
from training.downloads import RemoteFile
from training.splits import SPLITS, DatasetError, Pixels
from training.static_mnist import STATIC_MNIST, parse_amat


def amat(images: Pixels) -> bytes:
    """The text that the canonical files hold."""
    rows = images.reshape(len(images), -1)
    return b"".join(b" ".join(str(pixel).encode() for pixel in row) + b"\n" for row in rows)


@pytest.fixture
def images() -> dict[str, Pixels]:
    rng = np.random.default_rng(0)
    return {split: rng.integers(0, 2, (3, 28, 28), dtype=np.uint8) for split in SPLITS}


def test_an_amat_file_gives_its_images(images: dict[str, Pixels]) -> None:
    text = amat(images["train"])
    assert len(text) == 3 * 1568
    parsed = parse_amat(text)
    assert parsed.dtype == np.uint8
    assert np.array_equal(parsed, images["train"])


def test_rows_of_another_size_are_read_row_by_row() -> None:
    assert parse_amat(b"0 1 1 0 0 0\n1 1 1 1 0 1\n", height=2, width=3).tolist() == [
        [[0, 1, 1], [0, 0, 0]],
        [[1, 1, 1], [1, 0, 1]],
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "rows of 8 bytes"),
        (b"0 1 1 0\n0 1", "rows of 8 bytes"),
        (b"0 1 2 0\n", "no other pixels than 0 and 1"),
        (b"0,1,1,0\n", "one space between pixels"),
        (b"0 1 1 0 ", "a line feed after each image"),
        (b"MATLAB 5", "one space between pixels"),
    ],
)
def test_anything_else_is_no_amat_file(text: bytes, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        parse_amat(text, height=2, width=2)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def home(images: dict[str, Pixels], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    """Static MNIST with three images a split, at home on a server of its own."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "home"
    folder.mkdir()
    for split in SPLITS:
        (folder / f"{split}.amat").write_bytes(amat(images[split]))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        yield replace(
            STATIC_MNIST,
            files={
                split: RemoteFile(f"{address}/{split}.amat", hashlib.sha256(amat(images[split])).hexdigest())
                for split in SPLITS
            },
            sha256={split: hashlib.sha256(images[split].tobytes()).hexdigest() for split in SPLITS},
        )
        server.shutdown()
        thread.join()


def test_a_missing_set_is_downloaded_converted_and_loaded(
    home: Archive, images: dict[str, Pixels], tmp_path: Path
) -> None:
    directory = tmp_path / "data"
    assert not home.is_there(directory)
    home.fetch(directory)
    assert home.is_there(directory)
    dataset = home.load(directory)
    assert (dataset.name, dataset.levels) == ("static_mnist", 1)
    for split in SPLITS:
        assert np.array_equal(getattr(dataset, split), images[split][:, None])
    assert [path.name for path in directory.iterdir()] == ["static_mnist.npz"]


def test_files_put_there_by_hand_need_no_download(home: Archive, images: dict[str, Pixels], tmp_path: Path) -> None:
    offline = replace(
        home, files={split: replace(file, url=f"http://127.0.0.1:9/{file.name}") for split, file in home.files.items()}
    )
    folder = tmp_path / "data" / "static_mnist"
    with pytest.raises(
        DatasetError, match=r"cannot download .* put the files by hand into .*static_mnist and try again"
    ):
        offline.fetch(tmp_path / "data")
    for split in SPLITS:
        (folder / f"{split}.amat").write_bytes(amat(images[split]))
    (folder / "mine.txt").write_text("not yours to delete")
    offline.fetch(tmp_path / "data")
    assert offline.is_there(tmp_path / "data")
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


def test_a_download_with_another_checksum_is_refused(home: Archive, tmp_path: Path) -> None:
    wrong = replace(home, files=home.files | {"valid": replace(home.files["valid"], sha256="0" * 64)})
    with pytest.raises(DatasetError, match=r"valid\.amat \(SHA256 hash of downloaded file"):
        wrong.fetch(tmp_path)
    assert not wrong.is_there(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "other pixels", "other type", "lacks test", "pickled", "not a zip"])
def test_a_damaged_file_is_refused_with_the_remedy(
    damage: str, home: Archive, images: dict[str, Pixels], tmp_path: Path
) -> None:
    path = tmp_path / "static_mnist.npz"
    arrays: dict[str, np.ndarray] = dict(images)
    if damage == "other pixels":
        arrays["test"] = 1 - images["test"]
    elif damage == "other type":
        arrays["valid"] = images["valid"].astype(np.int64)
    elif damage == "lacks test":
        del arrays["test"]
    elif damage == "pickled":
        arrays["train"] = np.array([{"a": 1}], dtype=object)
    np.savez(path, allow_pickle=True, **arrays)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:3000])
    elif damage == "not a zip":
        path.write_bytes(b"<html>404</html>")
    with pytest.raises(DatasetError, match=r"static_mnist\.npz.*delete it, and `python -m training data static_mnist`"):
        home.load(tmp_path)
