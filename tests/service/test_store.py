from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from service.errors import ModelNotFound, NotReady
from service.metrics import Metrics
from service.models.store import ModelStore
from service.settings import Settings

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def opened(folder: Path, **settings: Any) -> AsyncIterator[ModelStore]:
    """A store that is closed in the end, after which its processes are gone; nothing is loaded yet."""
    store = ModelStore(Settings(model_store=folder, default_model="tiny", workers=1, **settings), Metrics())
    processes: set[int] = set()
    try:
        yield store
    finally:
        processes.update(processes_of(store))
        await store.close(0)
        await until(lambda: not any(Path(f"/proc/{process}").exists() for process in processes))


def processes_of(store: ModelStore) -> list[int]:
    """Processes of all generations."""
    generations = [generation for generation in (store._present, *store._old) if generation is not None]
    return [process for generation in generations for process in generation.engine.supervisor.processes()]


async def until(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up, "what the test waits for did not happen"
        await asyncio.sleep(0.01)


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
    assert "the default model tiny is not there; there are: other@1" in caplog.text


def rename(folder: Path) -> None:
    folder.rename(folder.with_name("3"))


def renumber(folder: Path) -> None:
    card = json.loads((folder / "card.json").read_text())
    card["model"]["hidden_dim"] += 1
    (folder / "card.json").write_text(json.dumps(card))


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(path: Path, target: Path) -> None:
    path.unlink()
    path.symlink_to(target)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "card_of_another_version": rename,
    "card_of_another_network": renumber,
    "card_is_empty": lambda folder: (folder / "card.json").write_text(""),
    "card_is_a_folder": lambda folder: ((folder / "card.json").unlink(), (folder / "card.json").mkdir()),
    "weights_are_missing": lambda folder: (folder / "model.safetensors").unlink(),
    "card_is_a_pipe": lambda folder: pipe(folder / "card.json"),
    "weights_are_a_pipe": lambda folder: pipe(folder / "model.safetensors"),
    "weights_are_a_device": lambda folder: link(folder / "model.safetensors", Path("/dev/zero")),
    "card_is_a_device": lambda folder: link(folder / "card.json", Path("/dev/zero")),
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


async def test_checkpoints_may_be_links(save_model: Any, tmp_path: Path) -> None:
    """As Kubernetes mounts a ConfigMap."""
    folder = save_model(tmp_path / "elsewhere", "tiny", "1", seed=1)
    for name in ("card.json", "model.safetensors"):
        (folder / name).rename(folder / f"..{name}")
        (folder / name).symlink_to(f"..{name}")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "tiny").symlink_to(tmp_path / "elsewhere" / "tiny")
    async with opened(tmp_path / "store") as store:
        await store.load()
        assert store.ready


async def test_the_default_model_is_loaded_first_and_all_answer_together(
    save_model: Any, hold_loading: Any, tmp_path: Path
) -> None:
    for name in ("alpha", "tiny"):
        save_model(tmp_path, name, "1", seed=1)
    gate = hold_loading("alpha")
    async with opened(tmp_path) as store:
        loading = asyncio.create_task(store.load())
        await until(lambda: store.models)
        assert [model.reference for model in store.models] == ["tiny@1"]
        assert store.loading
        assert not store.ready
        for name in (None, "tiny", "alpha"):
            with pytest.raises(NotReady):
                store.resolve(name)
        gate.set()
        await loading
        assert store.ready
        assert not store.loading
        assert (store.resolve(None).reference, store.resolve("alpha").reference) == ("tiny@1", "alpha@1")


async def test_a_model_that_never_loads_is_refused_and_the_others_answer(
    save_model: Any, hold_loading: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("alpha", "tiny", "zebra"):
        save_model(tmp_path, name, "1", seed=1)
    hold_loading("alpha")
    async with opened(tmp_path) as store:
        loading = asyncio.create_task(store.load())
        await until(lambda: store.models)
        with monkeypatch.context() as patch:
            patch.setattr("service.engine.supervisor.STALL_SECONDS", 0.0)
            await until(lambda: store.refusals)
        await loading
        assert [model.reference for model in store.models] == ["tiny@1", "zebra@1"]
        assert store.ready
        with pytest.raises(ModelNotFound, match="has not loaded within"):
            store.resolve("alpha")


async def test_a_store_that_never_answers_does_not_keep_a_stop_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung, never = threading.Event(), threading.Event()

    def hang(_: Path) -> list[Path]:
        hung.set()
        never.wait(120)
        return []

    monkeypatch.setattr("service.models.store.find_names", hang)
    async with opened(tmp_path) as store:
        loading = asyncio.create_task(store.load())
        await until(hung.is_set)
        assert "models are loading" in store.unready_reason
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        assert loading.cancelled()
        async with asyncio.timeout(30):
            await asyncio.get_running_loop().shutdown_default_executor()  # which joins the threads of `to_thread`
    never.set()


async def test_closing_while_a_model_loads_ends_its_processes_at_once(
    save_model: Any, hold_loading: Any, tmp_path: Path
) -> None:
    save_model(tmp_path, "tiny", "1", seed=1)
    hold_loading("tiny")
    async with opened(tmp_path) as store:
        loading = asyncio.create_task(store.load())
        await until(lambda: processes_of(store))
        (process,) = processes_of(store)
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        await store.close(10**6)  # seconds
        await until(lambda: not Path(f"/proc/{process}").exists())


async def test_closing_waits_for_what_is_computed(save_model: Any, tmp_path: Path) -> None:
    save_model(tmp_path, "tiny", "1", seed=1)
    async with opened(tmp_path) as store:
        await store.load()
        engine = store.resolve(None).engine

        async def score() -> bytes:
            with engine.admit_scores(1, 5000, "a") as room:
                return await engine.score(room, bytes(64), num_samples=5000, seed=0)

        scoring = asyncio.create_task(score())
        await until(lambda: engine.engine.heavy.requests)
        await store.close(60)
        assert b"log_likelihood" in await scoring


async def test_what_may_not_be_read_is_refused_with_the_reason(
    save_model: Any, unprivileged: Any, shared_folder: Path, faults: Any
) -> None:
    faults.user = 65534 if os.geteuid() == 0 else None
    save_model(shared_folder, "tiny", "1", seed=1)
    save_model(shared_folder, "tiny", "2", seed=2)
    for name in ("alpha", "beta", "gamma"):
        save_model(shared_folder, name, "1", seed=3)
    (shared_folder / "alpha").chmod(0)
    (shared_folder / "beta" / "1").chmod(0)
    (shared_folder / "gamma" / "1" / "model.safetensors").chmod(0)
    (shared_folder / "tiny" / "2" / "card.json").chmod(0)
    with unprivileged():
        async with opened(shared_folder) as store:
            await store.load()
            assert store.ready
            assert [model.reference for model in store.models] == ["tiny@1"]
            reasons = {refusal.reference: refusal.reason.lower() for refusal in store.refusals}
    assert set(reasons) == {"alpha", "beta@1", "gamma@1", "tiny@2"}
    assert all("permission denied" in reason for reason in reasons.values()), reasons
