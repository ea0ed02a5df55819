"""What the processes compute: answers depend on their arguments alone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from service.engine.protocol import Layout
from service.errors import Overloaded

pytestmark = pytest.mark.anyio

SCORES = ((0, 3), (1, 700), (2, 5000))


async def test_answers_do_not_depend_on_batches_or_on_the_number_of_workers(run_engine: Any) -> None:
    async with run_engine(heavy=1) as running:
        alone = [await running.sample(seed) for seed in range(50)]
        scores = [await running.score(seed, samples) for seed, samples in SCORES]
        assert set(running.metrics.batches) == {1}
    async with run_engine(light=2, heavy=3) as running:
        assert await asyncio.gather(*(running.sample(seed) for seed in range(50))) == alone
        assert max(running.metrics.batches) > 1
        mixed = [running.score(seed, samples) for seed, samples in SCORES]
        others = [running.score(9, 700, bytes([level] * 64)) for level in range(20)]  # in batches with the first ones
        assert (await asyncio.gather(*mixed, *others))[:3] == scores
        assert await asyncio.gather(*(running.score(seed, samples) for seed, samples in SCORES)) == scores


async def test_images_of_a_seed_do_not_depend_on_their_number(run_engine: Any) -> None:
    async with run_engine() as running:
        some, many = await running.sample(1, n=3), await running.sample(1, n=40)
        assert many[128 : 128 + 3 * 256] == some[128:]


async def test_heavy_work_comes_in_units_and_gives_the_same_images(
    run_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_engine() as running:
        light = await running.sample(1, n=40)
        assert running.batches == 1
        monkeypatch.setattr("service.engine.client.MAX_LIGHT_PIXELS", 1)
        assert await running.sample(1, n=40) == light
        assert sum(running.metrics.batches) == 1 + 3 + 1  # three units, and one that renders


async def test_a_score_has_what_the_estimate_has(run_engine: Any) -> None:
    async with run_engine() as running:
        score = json.loads(await running.score(0, 5000))
        assert score["elbo"] <= score["log_likelihood"]
        assert 1 <= score["effective_sample_size"] <= 5000


async def test_a_full_heavy_lane_refuses_no_light_work(run_engine: Any) -> None:
    async with run_engine(max_rows=400_000) as running:
        scores = [asyncio.create_task(running.score(seed, 200_000)) for seed in range(2)]
        await running.until(lambda: running.batches)
        with pytest.raises(Overloaded) as refusal:
            await running.score(2, 200_000)
        assert int(refusal.value.headers["Retry-After"]) >= 1
        assert len(await running.sample(1)) > 0
        await asyncio.gather(*scores)
        assert running.queued == (0, 0)
        assert len(await running.score(2)) > 0


async def test_clients_share_the_heavy_lane(run_engine: Any) -> None:
    """A short request of one client is answered long before the many long ones that came before it."""
    async with run_engine(heavy=1) as running:
        many = [asyncio.create_task(running.score(seed, 500_000, client="many")) for seed in range(3)]
        await running.until(lambda: running.batches)
        assert b"log_likelihood" in await running.score(0, 2000, client="one")
        assert not any(task.done() for task in many)
        for task in many:
            task.cancel()
        await asyncio.gather(*many, return_exceptions=True)


def test_the_front_end_imports_no_torch() -> None:
    code = "import sys, service.http.app, service.__main__; assert 'torch' not in sys.modules"
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


async def test_galleries_of_one_client_do_not_go_before_another_client(run_engine: Any, stop: Any) -> None:
    async with run_engine() as running:
        (process,) = running.processes_of("light")
        stop(process)
        done: list[str] = []

        async def gallery() -> None:
            await running.model.gallery(
                range(6), view="input", offset=0, stretch=False, layout=Layout("npy", 1, 1), client="many"
            )
            done.append("gallery")

        async def sample() -> None:
            await running.sample(1, client="one")
            done.append("sample")

        tasks = [asyncio.create_task(gallery()) for _ in range(60)]
        await running.until(lambda: running.engine.light.requests == 60)
        tasks.append(asyncio.create_task(sample()))
        await running.until(lambda: running.engine.light.requests == 61)
        assert running.queued == (61, 361)
        os.kill(process, signal.SIGCONT)
        await asyncio.gather(*tasks)
        assert done.index("sample") < 20
        assert running.queued == (0, 0)
