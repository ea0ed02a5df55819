"""Stores that lie elsewhere: what is copied and when, and a service whose models come from an object store."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from service.models.catalog import StoreError
from service.models.mirror import Mirror

NAMES = ["card.json", "model.safetensors"]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Any]:
    """A file system in memory with one checkpoint of two files."""
    system = fsspec.filesystem("memory")
    for name in NAMES:
        system.pipe(f"/bucket/models/vamp/1/{name}", name.encode())
    yield system
    system.rm("/bucket", recursive=True)


@pytest.fixture
def mirror(elsewhere: Any, tmp_path: Path) -> Mirror:
    return Mirror("memory://bucket/models", tmp_path)


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def test_checkpoints_are_copied_and_nothing_else(mirror: Mirror, elsewhere: Any) -> None:
    for stranger in ("readme.txt", "vamp/notes.json", "vamp/1/.hidden.json", "vamp/1/run.py", "vamp/1/deep/card.json"):
        elsewhere.pipe(f"/bucket/models/{stranger}", b"")
    folder = mirror.update()
    assert contents(folder) == {f"vamp/1/{name}": name for name in NAMES}


def test_only_what_changed_is_copied_again(mirror: Mirror, elsewhere: Any) -> None:
    folder, listing = mirror.update(), mirror.listing()
    before = {path: (folder / path).stat().st_ino for path in listing}
    elsewhere.pipe("/bucket/models/vamp/1/card.json", b"another card")
    assert mirror.listing() != listing
    mirror.update()
    after = {path: (folder / path).stat().st_ino for path in listing}
    assert contents(folder)["vamp/1/card.json"] == "another card"
    assert [path for path in before if before[path] != after[path]] == ["vamp/1/card.json"]


def test_what_is_gone_is_removed(mirror: Mirror, elsewhere: Any) -> None:
    elsewhere.pipe("/bucket/models/old/1/card.json", b"old")
    folder = mirror.update()
    assert (folder / "old" / "1" / "card.json").exists()
    elsewhere.rm("/bucket/models/old", recursive=True)
    mirror.update()
    assert not (folder / "old").exists()
    assert (folder / "vamp").exists()


def test_a_copy_that_was_interrupted_is_no_checkpoint(
    mirror: Mirror, elsewhere: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = type(elsewhere).open

    def fail(self: Any, path: str, *arguments: Any, **options: Any) -> Any:
        if path.endswith("card.json"):
            raise ConnectionError("the line is down")
        return opened(self, path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(elsewhere), "open", fail)
        with pytest.raises(StoreError, match=r"card.json cannot be copied.*the line is down"):
            mirror.update()
    assert set(contents(mirror.folder)) == {"vamp/1/model.safetensors"}
    assert set(contents(mirror.update())) == {f"vamp/1/{name}" for name in NAMES}


def test_a_copy_that_was_lost_or_damaged_with_its_index_is_made_again(mirror: Mirror) -> None:
    folder = mirror.update()
    shutil.rmtree(folder / "vamp")
    assert len(contents(mirror.update())) == 2
    for damaged in ("", "[]", '{"../../card.json": "x"}'):
        (folder / ".index.json").write_text(damaged)
        assert len(contents(mirror.update())) == 2


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("memory://nothing", "has no checkpoints"),
        ("nonsense://bucket", "which cannot be read: ValueError: Protocol not known: nonsense"),
    ],
)
def test_a_store_that_cannot_be_used_is_named(tmp_path: Path, address: str, words: str) -> None:
    with pytest.raises(StoreError) as caught:
        Mirror(address, tmp_path).update()
    assert address in str(caught.value)
    assert words in str(caught.value)


def test_a_store_that_is_too_large_is_refused(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.models.mirror.MAX_FILES", 1)
    with pytest.raises(StoreError, match="2 files"):
        mirror.update()


@pytest.fixture
def bucket(model_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket of a fake S3 that holds two versions of a tiny model."""
    import boto3
    from moto.server import ThreadedMotoServer

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    try:
        bucket = boto3.resource("s3").create_bucket(Bucket="checkpoints")
        for file in sorted((model_store / "tiny-vamp" / "1").iterdir()):
            bucket.upload_file(str(file), f"models/tiny-vamp/1/{file.name}")
        yield bucket
    finally:
        server.stop()


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_a_service_answers_from_an_object_store_and_follows_it(
    serve: Any, bucket: Any, model_store: Path, tmp_path: Path
) -> None:
    settings = {"model_store": "s3://checkpoints/models", "model_cache": tmp_path, "admin_keys": "admin"}
    headers = {"X-API-Key": "admin"}

    def versions(service: Any) -> list[str]:
        models = service.client.get("/models").json()["models"]
        return [model["version"] for model in models if model["status"] == "ready"]

    with serve(**settings) as service:
        assert versions(service) == ["1"]
        for file in sorted((model_store / "tiny-vamp" / "2").iterdir()):
            bucket.upload_file(str(file), f"models/tiny-vamp/2/{file.name}")
        assert service.client.post("/models/reload", headers=headers).status_code == 200
        assert versions(service) == ["2", "1"]
        # a damaged copy in the bucket is found by its hash, and nothing changes
        bucket.put_object(Key="models/tiny-vamp/2/model.safetensors", Body=b"damaged")
        response = service.client.post("/models/reload", headers=headers)
        assert response.status_code == 409
        assert "sha256" in response.json()["detail"]
        assert service.client.post("/sample?seed=1").status_code == 200


def test_copies_answer_while_the_store_cannot_be_reached(
    serve: Any, elsewhere: Any, model_store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for file in (model_store / "tiny-vamp" / "1").iterdir():
        elsewhere.pipe(f"/bucket/models/tiny-vamp/1/{file.name}", file.read_bytes())
    elsewhere.rm("/bucket/models/vamp", recursive=True)
    settings = {"model_store": "memory://bucket/models", "model_cache": tmp_path}
    with serve(**settings) as service:
        first = service.client.post("/sample?seed=1").content
    card = json.loads(elsewhere.cat("/bucket/models/tiny-vamp/1/card.json"))
    elsewhere.rm("/bucket/models", recursive=True)
    with serve(**settings) as service:
        assert service.client.post("/sample?seed=1").content == first
        assert service.client.get("/models/tiny-vamp").json()["weights_sha256"] == card["weights_sha256"]
    assert "the models are those that were copied before" in caplog.text
    elsewhere.pipe("/bucket/models/tiny-vamp/1/card.json", b"")
