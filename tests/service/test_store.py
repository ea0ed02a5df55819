from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from service.errors import ModelNotFound, NotReady
from service.metrics import Metrics
from service.settings import Settings
from service.store import ModelStore

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def opened(folder: Path, **settings: Any) -> AsyncIterator[ModelStore]:
    """A store that is closed in the end; nothing is loaded yet."""
    others = set(threading.enumerate())
    store = ModelStore(Settings(model_store=folder, default_model="tiny", threads=1, **settings), Metrics())
    try:
        yield store
    finally:
        store.close(60)
        assert not [thread for thread in set(threading.enumerate()) - others if thread.name.startswith("engine-")]


@pytest.mark.parametrize(
    "versions",
    [
        ["1", "2", "10"],
        ["9", "10", "100"],
        ["1", "1.1", "2"],
        ["1.0", "1.0.1", "1.1"],
        ["0.9", "0.10", "1.0"],
        ["2023.12", "2024.1", "2024.1.1"],
        ["v1", "v2", "v12"],
    ],
)
async def test_versions_are_ordered_as_numbers(save_model: Any, tmp_path: Path, versions: list[str]) -> None:
    for version in sorted(versions):
        save_model(tmp_path, "tiny", version, seed=1)
    async with opened(tmp_path) as store:
        await store.load()
        assert [model.card.version for model in store.models] == versions[::-1]
        assert store.resolve(None).card.version == store.resolve("tiny").card.version == versions[-1]
        for version in versions:
            assert store.resolve(f"tiny@{version}").card.version == version


async def test_a_default_model_that_is_not_there_is_logged(
    save_model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_model(tmp_path, "other", "1", seed=1)
    async with opened(tmp_path) as store:
        await store.load()
        assert not store.ready
    assert "the default model tiny is not there, only other@1" in caplog.text


def rename(folder: Path) -> None:
    folder.rename(folder.with_name("3"))


def renumber(folder: Path) -> None:
    card = json.loads((folder / "card.json").read_text())
    card["model"]["hidden_dim"] += 1
    (folder / "card.json").write_text(json.dumps(card))


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "card_of_another_version": rename,
    "card_of_another_network": renumber,
    "card_is_empty": lambda folder: (folder / "card.json").write_text(""),
    "card_is_a_folder": lambda folder: ((folder / "card.json").unlink(), (folder / "card.json").mkdir()),
    "weights_are_missing": lambda folder: (folder / "model.safetensors").unlink(),
    "weights_are_empty": lambda folder: (folder / "model.safetensors").write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_a_damaged_checkpoint_is_refused_and_the_others_load(
    save_model: Any, tmp_path: Path, damage: Callable[[Path], Any]
) -> None:
    save_model(tmp_path, "tiny", "1", seed=1)
    damage(save_model(tmp_path, "tiny", "2", seed=2))
    save_model(tmp_path, "zebra", "1", seed=3)
    async with opened(tmp_path) as store:
        await store.load()
        assert [model.reference for model in store.models] == ["tiny@1", "zebra@1"]
        assert store.ready
        (refusal,) = store.refusals
        assert refusal.reference in ("tiny@2", "tiny@3")
        assert refusal.reason
        with pytest.raises(ModelNotFound, match=refusal.reference):
            store.resolve(refusal.reference)
        assert store.resolve("tiny").card.version == "1"


async def test_what_is_no_checkpoint_is_passed_over(save_model: Any, tmp_path: Path) -> None:
    save_model(tmp_path, "tiny", "1", seed=1)
    (tmp_path / "README.md").write_text("Models.")
    (tmp_path / "empty" / "1").mkdir(parents=True)
    (tmp_path / "notes" / "1").mkdir(parents=True)
    (tmp_path / "notes" / "1" / "notes.txt").write_text("None yet.")
    async with opened(tmp_path) as store:
        await store.load()
        assert [model.reference for model in store.models] == ["tiny@1"]
        assert store.refusals == []


async def test_the_default_model_answers_while_others_load(save_model: Any, tmp_path: Path) -> None:
    save_model(tmp_path, "tiny", "1", seed=1)
    async with blocked(save_model, tmp_path, "alpha") as (store, unblock):
        loading = asyncio.create_task(store.load())
        while not (store.models and computes("alpha@1")):
            await asyncio.sleep(0.01)
        assert store.resolve(None).reference == "tiny@1"
        assert not store.ready
        with pytest.raises(NotReady):
            store.resolve("alpha")
        await unblock()
        await loading
        assert store.ready
        assert store.resolve("alpha").reference == "alpha@1"


async def test_a_stop_while_a_model_loads_is_quiet(save_model: Any, tmp_path: Path) -> None:
    """An exception in the compute thread would fail this test."""
    async with blocked(save_model, tmp_path, "tiny") as (store, unblock):
        loading = asyncio.create_task(store.load())
        while not computes("tiny@1"):
            await asyncio.sleep(0.01)
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        await unblock()


def computes(reference: str) -> bool:
    """Whether the model's compute thread is there, where it loads the weights."""
    return any(thread.name == f"engine-{reference}" for thread in threading.enumerate())


def blocked(
    save_model: Any, folder: Path, name: str
) -> AbstractAsyncContextManager[tuple[ModelStore, Callable[[], Awaitable[int]]]]:
    """A store with a model that loads only once the function is called."""
    weights = save_model(folder, name, "1", seed=1) / "model.safetensors"
    payload = weights.read_bytes()
    weights.unlink()
    os.mkfifo(weights)  # whoever reads it waits for whoever writes it

    @asynccontextmanager
    async def store() -> AsyncIterator[tuple[ModelStore, Callable[[], Awaitable[int]]]]:
        async with opened(folder) as opened_store:
            yield opened_store, lambda: asyncio.to_thread(weights.write_bytes, payload)

    return store()
