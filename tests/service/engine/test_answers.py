"""What the processes compute: answers depend on their arguments alone."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.anyio


async def test_answers_do_not_depend_on_batches_or_on_the_number_of_workers(run_pool: Any) -> None:
    async with run_pool(heavy=1) as running:
        alone = [await running.sample(seed) for seed in range(50)]
        scores = [await running.score(seed, samples) for seed, samples in ((0, 3), (1, 700), (2, 5000))]
    async with run_pool(light=2, heavy=3) as running:
        assert await asyncio.gather(*(running.sample(seed) for seed in range(50))) == alone
        assert max(running.batches) > 1
        mixed = [running.score(seed, samples) for seed, samples in ((0, 3), (1, 700), (2, 5000))]
        assert await asyncio.gather(*mixed, *(running.score(9, 700) for _ in range(5)))  # in batches with others
        again = [running.score(seed, samples) for seed, samples in ((0, 3), (1, 700), (2, 5000))]
        assert await asyncio.gather(*again) == scores


async def test_images_of_a_seed_do_not_depend_on_their_number(run_pool: Any) -> None:
    async with run_pool() as running:
        some, many = await running.sample(1, n=3), await running.sample(1, n=40)
        assert many[128 : 128 + 3 * 256] == some[128:]


async def test_heavy_samples_come_in_units_and_give_the_same_images(
    run_pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_pool() as running:
        light = await running.sample(1, n=40)
        monkeypatch.setattr("service.engine.client.UNIT_PIXELS", 1)
        assert await running.sample(1, n=40) == light


async def test_a_score_has_what_the_estimate_has(run_pool: Any) -> None:
    async with run_pool() as running:
        score = json.loads(await running.score(0, 5000))
        assert set(score) == {"log_likelihood", "standard_error", "elbo", "effective_sample_size", "pareto_k"}
        assert score["elbo"] <= score["log_likelihood"]
        assert 1 <= score["effective_sample_size"] <= 5000


def test_the_front_end_side_imports_no_torch() -> None:
    code = "import sys, service.engine.client, service.engine.pool; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
