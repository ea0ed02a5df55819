"""An engine of real processes with tiny models."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from service.engine.client import EngineModel
from service.engine.engine import Engine, EngineState
from service.engine.protocol import Layout, Loaded, Refused
from service.engine.queue import Task
from service.engine.supervisor import Worker
from service.metrics import Metrics

PATIENCE = 120.0
NPY = Layout("npy", 1, 1)
LEVELS = bytes(range(64))
REFERENCE = "tiny-vamp@10"


class RecordingMetrics(Metrics):
    """Metrics that also list the batches that were computed, each as the number of its tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def observe_batch(self, tasks: Sequence[Task], outcome: str, seconds: float) -> None:
        super().observe_batch(tasks, outcome, seconds)
        if outcome == "ok":
            self.batches.append(len(tasks))


class RunningEngine:
    """An engine, what it told, and calls on a tiny model."""

    def __init__(self, folders: Sequence[Path], *, light: int, heavy: int, **bounds: int) -> None:
        self.loaded: dict[str, Loaded] = {}
        self.refused: dict[str, str] = {}
        self.metrics = RecordingMetrics()
        self.engine = Engine(
            folders,
            device="cpu",
            workers={"light": light, "heavy": heavy},
            max_seconds=1e9,
            metrics=self.metrics,
            on_loaded=lambda message: self.loaded.update({message.reference: message}),
            on_refused=self._refuse,
            **({"max_requests": 10_000, "max_rows": 10**9} | bounds),
        )
        self.count = light + heavy

    def _refuse(self, message: Refused) -> None:
        self.refused[message.reference] = message.reason

    @property
    def batches(self) -> int:
        """Batches that were computed."""
        return len(self.metrics.batches)

    @property
    def model(self) -> EngineModel:
        return self.model_of(REFERENCE)

    def model_of(self, reference: str) -> EngineModel:
        message = self.loaded[reference]
        return EngineModel(
            self.engine,
            reference,
            num_pixels=64,
            max_rows=message.max_rows,
            seconds_per_row=message.unit_seconds / 512,
            autoregressive=message.autoregressive,
        )

    async def sample(self, seed: int, n: int = 1, client: str = "a") -> bytes:
        return await self.model.sample(
            n=n, seed=seed, component=None, temperature=1.0, draw=False, layout=NPY, client=client
        )

    async def encode(self, n: int = 1, client: str = "a") -> list[bytes]:
        return await self.model.encode([LEVELS] * n, top=1, client=client)

    async def score(
        self, seed: int, num_samples: int = 2000, levels: bytes = LEVELS, client: str = "a", reference: str = REFERENCE
    ) -> bytes:
        model = self.model_of(reference)
        with model.admit_scores(1, num_samples, client) as request:
            return await model.score(request, levels, num_samples=num_samples, seed=seed)

    async def until(self, condition: Callable[[], Any]) -> None:
        give_up = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < give_up, "what the test waits for did not happen"
            await asyncio.sleep(0.01)

    def workers_of(self, lane: str) -> list[Worker]:
        """Workers of a lane that have been forked."""
        workers = self.engine.supervisor.workers.values()
        return [worker for worker in workers if lane in worker.lanes and worker.process is not None]

    def processes_of(self, lane: str) -> list[int]:
        return [worker.process for worker in self.workers_of(lane) if worker.process is not None]

    def worker_computing(self, levels: bytes) -> int | None:
        """Process of the worker that computes the log-likelihood of that image, if one does."""
        for worker in self.workers_of("heavy"):
            for assignment in list(worker.in_flight.values())[:1]:
                if getattr(assignment.tasks[0].payload, "levels", None) == levels:
                    return worker.process
        return None

    def deaths(self, kind: str) -> int:
        """Processes of a kind that died, as the metrics have them."""
        return int(self.metrics.registry.get_sample_value("vampprior_process_deaths_total", {"kind": kind}) or 0)

    @property
    def queued(self) -> tuple[int, int]:
        """Requests and rows in both lanes."""
        lanes = self.engine.lanes.values()
        return sum(lane.requests for lane in lanes), sum(lane.rows for lane in lanes)

    async def all_there(self) -> None:
        """Wait until every worker has been forked and is connected."""
        supervisor = self.engine.supervisor
        await self.until(
            lambda: (
                len(self.workers_of("light") + self.workers_of("heavy")) >= self.count
                and all(worker.stream is not None for worker in supervisor.workers.values())
            )
        )


@pytest.fixture
def stop(state: Callable[[int], str | None]) -> Any:
    """`stop(process)` stops a process as `SIGSTOP` does and waits until it has stopped; the test's end continues it."""
    stopped: list[int] = []

    def run(process: int) -> None:
        os.kill(process, signal.SIGSTOP)
        stopped.append(process)
        give_up = time.monotonic() + PATIENCE
        while state(process) not in ("T", "Z", None):
            assert time.monotonic() < give_up
            time.sleep(0.001)

    yield run
    for process in stopped:
        if state(process) == "T":
            os.kill(process, signal.SIGCONT)


@pytest.fixture
def run_engine(model_store: Path) -> Callable[..., Any]:
    """Runs an engine: `async with run_engine() as running:`; `on_start` runs while it starts."""

    @asynccontextmanager
    async def run(
        *folders: Path,
        light: int = 1,
        heavy: int = 2,
        on_start: Callable[[RunningEngine], Awaitable[None]] | None = None,
        **bounds: int,
    ) -> AsyncIterator[RunningEngine]:
        chosen = list(folders) or [model_store / "tiny-vamp" / "10"]
        running = RunningEngine(chosen, light=light, heavy=heavy, **bounds)
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(running.engine.start(), *([] if on_start is None else [on_start(running)]))
                if running.engine.state is EngineState.READY:
                    await running.all_there()
                yield running
        finally:
            running.engine.close()

    return run
