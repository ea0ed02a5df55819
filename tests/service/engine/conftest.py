"""A pool of real processes with tiny models."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from service.engine.client import EngineModel
from service.engine.pool import Pool, PoolEvents
from service.engine.protocol import Layout
from service.engine.queue import Lane, Task

PATIENCE = 120.0
NPY = Layout("npy", 1, 1)
REFERENCE = "tiny-vamp@10"


class RunningPool:
    """A pool, what it told, and calls on a tiny model."""

    def __init__(self, folders: Sequence[Path], *, light: int = 1, heavy: int = 2, max_tasks: int = 10_000) -> None:
        self.light = Lane("light", max_tasks=max_tasks, max_rows=10**9)
        self.heavy = Lane("heavy", max_tasks=max_tasks, max_rows=10**9)
        self.loaded: list[str] = []
        self.refused: dict[str, str] = {}
        self.deaths: Counter[str] = Counter()
        self.batches: list[int] = []
        events = PoolEvents(
            loaded=lambda message: self.loaded.append(message.reference),
            refused=lambda message: self.refused.update({message.reference: message.reason}),
            computed=self._computed,
            died=lambda kind: self.deaths.update([kind]),
        )
        self.pool = Pool(folders, device="cpu", lanes=[(self.light, light), (self.heavy, heavy)], events=events)
        self.model = self.model_of(REFERENCE)

    def model_of(self, reference: str, *, autoregressive: bool = False) -> EngineModel:
        return EngineModel(
            reference,
            self.pool,
            light=self.light,
            heavy=self.heavy,
            num_pixels=64,
            autoregressive=autoregressive,
        )

    def _computed(self, tasks: Sequence[Task], seconds: float) -> None:
        assert seconds >= 0
        self.batches.append(len(tasks))

    async def sample(self, seed: int, n: int = 1, client: str = "a") -> bytes:
        return await self.model.sample(
            n=n, seed=seed, component=None, temperature=1.0, draw=False, layout=NPY, client=client
        )

    async def score(self, seed: int, num_samples: int = 2000, client: str = "a") -> bytes:
        return await self.model.score(bytes(range(64)), num_samples=num_samples, seed=seed, client=client)

    async def until(self, condition: Callable[[], Any]) -> None:
        give_up = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < give_up, "what the test waits for did not happen"
            await asyncio.sleep(0.01)

    def workers(self, lane: Lane) -> list[int]:
        """Processes of a lane."""
        return [w.process for w in self.pool._workers.values() if w.lane is lane and w.process is not None]

    @staticmethod
    def alive(process: int) -> bool:
        """True if the process runs, and is not a zombie."""
        try:
            return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    @staticmethod
    def kill(process: int, number: signal.Signals = signal.SIGKILL) -> None:
        os.kill(process, number)

    async def all_there(self) -> None:
        await self.until(lambda: len(self.workers(self.light)) + len(self.workers(self.heavy)) == 3)


@pytest.fixture
def run_pool(model_store: Path) -> Callable[..., Any]:
    """Runs a pool: `async with run_pool() as running:`."""

    @asynccontextmanager
    async def run(*folders: Path, **options: Any) -> AsyncIterator[RunningPool]:
        running = RunningPool(list(folders) or [model_store / "tiny-vamp" / "10"], **options)
        running.pool.start()
        try:
            async with asyncio.timeout(PATIENCE):
                await running.pool.loaded.wait()
            yield running
        finally:
            running.pool.close()

    return run
