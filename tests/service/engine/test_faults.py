"""Processes that are killed, that stop, or that fail: nothing is lost, no answer is wrong, nothing is left behind."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.errors import Internal, NotReady

pytestmark = pytest.mark.anyio


async def test_a_killed_worker_loses_no_log_likelihood(run_pool: Any) -> None:
    async with run_pool() as running:
        await running.all_there()
        expected = [await running.score(seed, 20_000) for seed in range(4)]
        tasks = [asyncio.create_task(running.score(seed, 20_000)) for seed in range(4)]
        for _ in range(3):
            before = len(running.batches)
            await running.until(lambda: len(running.batches) > before + 3 or all(task.done() for task in tasks))  # noqa: B023
            for process in running.workers(running.heavy)[:1]:
                running.kill(process)
        assert await asyncio.gather(*tasks) == expected
        assert running.deaths["heavy"] >= 1
        await running.all_there()
        assert (running.heavy.tasks, running.heavy.rows) == (0, 0)


async def test_a_killed_light_worker_loses_no_sample(run_pool: Any) -> None:
    async with run_pool() as running:
        await running.all_there()
        expected = [await running.sample(seed) for seed in range(200)]
        tasks = [asyncio.create_task(running.sample(seed)) for seed in range(200)]
        await asyncio.sleep(0)
        running.kill(running.workers(running.light)[0])
        assert await asyncio.gather(*tasks) == expected
        await running.all_there()
        assert (running.light.tasks, running.light.rows) == (0, 0)


@pytest.mark.parametrize("lane", ["light", "heavy"])
async def test_a_stopped_worker_is_killed_and_its_work_done_again(
    run_pool: Any, lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.engine.pool.SILENT_SECONDS", 1.0)
    async with run_pool() as running:
        await running.all_there()
        expected = await running.sample(1), await running.score(1)
        for process in running.workers(getattr(running, lane)):
            running.kill(process, signal.SIGSTOP)
        assert (await running.sample(1), await running.score(1)) == expected
        assert running.deaths[lane] >= 1


async def test_a_killed_loader_takes_its_workers_with_it_and_all_comes_back(run_pool: Any) -> None:
    async with run_pool() as running:
        await running.all_there()
        expected = [await running.score(seed, 20_000) for seed in range(3)]
        old = running.pool.processes()
        tasks = [asyncio.create_task(running.score(seed, 20_000)) for seed in range(3)]
        await asyncio.sleep(0)
        running.kill(running.pool._loader.pid)
        assert await asyncio.gather(*tasks) == expected
        await running.until(lambda: not any(running.alive(process) for process in old))
        assert running.deaths["loader"] == 1
        assert running.loaded == ["tiny-vamp@10"]


async def test_work_that_ends_two_workers_fails_and_is_not_tried_again(run_pool: Any) -> None:
    async with run_pool() as running:
        await running.all_there()
        others = [asyncio.create_task(running.score(seed, 20_000)) for seed in range(3)]
        poison = asyncio.create_task(running.model.score(bytes(64), num_samples=10**9, seed=0, client="b"))
        for _ in range(2):
            await running.until(lambda: _holder(running, bytes(64)))
            deaths = running.deaths["heavy"]
            running.kill(_holder(running, bytes(64)))
            await running.until(lambda: running.deaths["heavy"] > deaths)  # noqa: B023
        with pytest.raises(Internal):
            await poison
        assert len(await asyncio.gather(*others)) == 3
        assert not running.pool.failing


def _holder(running: Any, gray: bytes) -> int | None:
    """The worker that computes on that image, if one does."""
    for worker in running.pool._workers.values():
        for tasks, _ in list(worker.in_flight.values())[:1]:
            if tasks[0].payload.gray == gray and worker.process is not None:
                return int(worker.process)
    return None


async def test_several_deaths_without_a_suspect_make_the_pool_failing(run_pool: Any) -> None:
    async with run_pool() as running:
        for deaths in range(1, 4):
            await running.all_there()
            assert not running.pool.failing
            running.kill(running.workers(running.light)[0])
            await running.until(lambda: running.deaths["light"] == deaths)  # noqa: B023
        assert running.pool.failing
        assert len(await running.sample(1)) > 0


async def test_cancelled_work_leaves_the_queue(run_pool: Any) -> None:
    async with run_pool() as running:
        task = asyncio.create_task(running.score(0, 10**8))
        await running.until(lambda: running.batches)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await running.until(lambda: running.heavy.tasks == 0)
        assert running.heavy.rows == 0
        assert len(await running.score(1)) > 0


async def test_closing_fails_what_waits_and_leaves_no_process(run_pool: Any) -> None:
    async with run_pool() as running:
        await running.all_there()
        processes = running.pool.processes()
        assert len(processes) == 4
        task = asyncio.create_task(running.score(0, 10**8))
        await running.until(lambda: running.batches)
        running.pool.close()
        with pytest.raises(NotReady):
            await task
        await running.until(lambda: not any(running.alive(process) for process in processes))


async def test_draining_finishes_what_waits(run_pool: Any) -> None:
    async with run_pool() as running:
        task = asyncio.create_task(running.score(0, 20_000))
        await asyncio.sleep(0)
        processes = running.pool.processes()
        await running.pool.drain()
        assert b"log_likelihood" in await task
        await running.until(lambda: not any(running.alive(process) for process in processes))


FRONT_END = """
import asyncio, sys
from pathlib import Path
from service.engine.pool import Pool, PoolEvents
from service.engine.queue import Lane

async def main():
    nothing = lambda *_: None
    lanes = [(Lane(name, max_tasks=9, max_rows=9**9), 1) for name in ("light", "heavy")]
    events = PoolEvents(loaded=nothing, refused=nothing, computed=nothing, died=nothing)
    pool = Pool([Path(sys.argv[1])], device="cpu", lanes=lanes, events=events)
    pool.start()
    await pool.loaded.wait()
    while len(pool.processes()) < 3:
        await asyncio.sleep(0.01)
    print(*pool.processes(), flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


async def test_a_killed_front_end_leaves_no_process(model_store: Path, run_pool: Any) -> None:
    command = [sys.executable, "-c", FRONT_END, str(model_store / "tiny-vamp" / "10")]
    async with run_pool() as running:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as front_end:
            assert front_end.stdout is not None
            processes = [int(number) for number in front_end.stdout.readline().split()]
            assert len(processes) == 3
            assert all(running.alive(process) for process in processes)
            front_end.kill()
        await running.until(lambda: not any(running.alive(process) for process in processes))


async def test_a_checkpoint_that_cannot_be_used_is_refused_and_others_answer(run_pool: Any, model_store: Path) -> None:
    async with run_pool(model_store / "damaged" / "1", model_store / "tiny-vamp" / "10") as running:
        assert running.loaded == ["tiny-vamp@10"]
        assert "sha256" in running.refused["damaged@1"]
        assert len(await running.sample(1)) > 0
