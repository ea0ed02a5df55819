"""The engine: what goes first, what is refused, what is dropped, and that nothing stops it."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import pytest
import torch

from service.engine import Engine
from service.errors import Overloaded
from service.jobs import Compute, Job, Runtime
from service.metrics import Metrics
from service.thread_pool import ThreadPool
from vampprior import ModelConfig, build_model

pytestmark = pytest.mark.anyio


class Counting(Job[int]):
    """A job of `rows` steps that notes each of them in `log`, and does not begin before `gate` is open."""

    operation: ClassVar[str] = "counting"
    light: ClassVar[bool] = False
    log: ClassVar[list[tuple[str, ...]]] = []
    gate: ClassVar[threading.Event] = threading.Event()

    def __init__(self, name: str, rows: int, key: str = "", owner: str | None = None) -> None:
        self.name, self.rows, self.all_rows, self.key, self.owner = name, rows, rows, key, owner
        self.steps = 0

    @classmethod
    def take(cls, runtime: Runtime, jobs: Sequence[Counting], max_rows: int) -> Compute:
        for job in jobs:
            job.rows -= 1
        return lambda: cls.step(jobs)

    @classmethod
    def step(cls, jobs: Sequence[Counting]) -> None:
        assert cls.gate.wait(60)
        cls.log.append(tuple(job.name for job in jobs))
        for job in jobs:
            if job.name == "bad":
                raise RuntimeError("a job went wrong")
            job.steps += 1

    def result(self) -> int:
        return self.steps


class Light(Counting):
    operation = "light"
    light = True


class Plug(Light):
    """Keeps the thread busy until the gate opens, so that what waits behind it is known."""


def together(kind: type[Counting], threads: int) -> type[Counting]:
    """Jobs of a kind whose steps fail unless so many threads compute one at once."""
    barrier = threading.Barrier(threads)

    class Together(kind):  # type: ignore[valid-type, misc]
        @classmethod
        def step(cls, jobs: Sequence[Counting]) -> None:
            barrier.wait(60)
            super().step(jobs)

    return Together


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Engine]]:
    """Starts an engine with so many threads, whose longest steps have 512 rows."""
    Counting.log.clear()
    Counting.gate.clear()
    model = build_model(ModelConfig(image_shape=(1, 2, 2), z1_dim=1, z2_dim=1, hidden_dim=2, num_components=1))
    monkeypatch.setattr("service.jobs.STEP_BYTES", 512 * model.bytes_per_row)
    engines: list[Engine] = []

    def start(threads: int) -> Engine:
        def load() -> Runtime:
            return Runtime(model, model.prior_mixture(), torch.device("cpu"), ThreadPool(threads))

        engines.append(Engine("tiny@1", load, queue_length=6, queued_rows=100, metrics=Metrics()))
        return engines[-1]

    yield start
    Counting.gate.set()
    for engine in engines:
        engine.close(timeout=60)


@pytest.fixture
def engine(start: Callable[[int], Engine]) -> Engine:
    return start(1)


def queued(engine: Engine) -> tuple[float | None, ...]:
    """Jobs and rows in the engine, as the metrics have them."""
    names = ("vampprior_queue_jobs", "vampprior_queue_rows")
    return tuple(engine.metrics.registry.get_sample_value(name, {"model": "tiny@1"}) for name in names)


async def waiting(engine: Engine, *jobs: Counting) -> list[asyncio.Task[int]]:
    """Submit jobs behind a plug, so that all of them wait when the gate opens."""
    tasks = [asyncio.create_task(engine.run(Plug("plug", 1)))]
    while not (started := queued(engine)[0]):
        await asyncio.sleep(0)
    assert started == 1
    while engine._light:  # until the thread has taken the plug
        await asyncio.sleep(0.001)
    for job in jobs:
        tasks.append(asyncio.create_task(engine.run(job, owner=job.owner)))
        await asyncio.sleep(0)
    return tasks


async def test_equal_light_jobs_advance_together_and_others_apart(engine):
    tasks = await waiting(engine, Light("a", 1), Light("b", 1, key="other"), Light("c", 1))
    Counting.gate.set()
    assert await asyncio.gather(*tasks) == [1, 1, 1, 1]
    assert Counting.log == [("plug",), ("a", "c"), ("b",)]


async def test_light_jobs_go_between_the_chunks_of_heavy_ones(engine):
    tasks = await waiting(engine, Counting("heavy", 3), Light("a", 1, key="a"), Light("b", 1, key="b"))
    Counting.gate.set()
    await asyncio.gather(*tasks)
    assert Counting.log == [("plug",), ("heavy",), ("a",), ("heavy",), ("b",), ("heavy",)]


async def test_heavy_jobs_share_the_machine_in_turn(engine):
    tasks = await waiting(engine, Counting("x", 3, key="x"), Counting("y", 2, key="y"))
    Counting.gate.set()
    await asyncio.gather(*tasks)
    assert Counting.log == [("plug",), ("x",), ("y",), ("x",), ("y",), ("x",)]


async def test_owners_share_the_machine_however_many_jobs_they_have(engine):
    jobs = [Counting(f"many {i}", 2, key=str(i), owner="x") for i in range(3)]
    tasks = await waiting(engine, *jobs, Counting("one", 3, key="one"))
    Counting.gate.set()
    await asyncio.gather(*tasks)
    order = ["plug", "many 0", "one", "many 1", "one", "many 2", "one", "many 0", "many 1", "many 2"]
    assert Counting.log == [(name,) for name in order]


async def test_light_jobs_share_the_machine_in_turn(engine):
    tasks = await waiting(engine, Light("long", 2, key="long"), Light("late", 1, key="late"))
    Counting.gate.set()
    await asyncio.gather(*tasks)
    assert Counting.log == [("plug",), ("long",), ("late",), ("long",)]


async def test_jobs_that_a_step_had_no_room_for_keep_their_place(engine):
    class OneAtATime(Counting):
        @classmethod
        def take(cls, runtime: Runtime, jobs: Sequence[Counting], max_rows: int) -> Compute:
            return super().take(runtime, jobs[:1], max_rows)

    tasks = await waiting(engine, OneAtATime("a", 2), OneAtATime("b", 2), OneAtATime("c", 1))
    Counting.gate.set()
    await asyncio.gather(*tasks)
    assert Counting.log == [("plug",), ("a",), ("b",), ("c",), ("a",), ("b",)]


async def test_a_job_takes_a_place_until_its_result_is_rendered(engine):
    rendering, go_on = threading.Event(), threading.Event()

    def render(steps: int) -> int:
        rendering.set()
        assert go_on.wait(60)
        return 10 * steps

    Counting.gate.set()
    tasks = [asyncio.create_task(engine.run(Light(str(i), 1), render)) for i in range(5)]
    tasks.append(asyncio.create_task(engine.render(lambda: render(2))))
    assert await asyncio.to_thread(rendering.wait, 60)
    while queued(engine) != (6, 0):  # the rows are computed
        await asyncio.sleep(0.001)
    with pytest.raises(Overloaded):
        await engine.run(Light("one more", 1))
    with pytest.raises(Overloaded):
        await engine.render(lambda: 1)
    go_on.set()
    assert await asyncio.gather(*tasks) == [10] * 5 + [20]
    assert queued(engine) == (0, 0)


async def test_a_small_answer_does_not_wait_for_a_large_one_of_its_batch(engine):
    go_on = threading.Event()

    class AtOnce(Light):
        @classmethod
        def take(cls, runtime: Runtime, jobs: Sequence[Counting], max_rows: int) -> Compute:
            for job in jobs:
                job.rows = 0
            return lambda: cls.step(jobs)

    large, small = AtOnce("large", 50), AtOnce("small", 1)
    tasks = [asyncio.create_task(engine.run(large, lambda steps: go_on.wait(60)))]
    tasks.append(asyncio.create_task(engine.run(small)))
    Counting.gate.set()
    assert await asyncio.wait_for(tasks[1], 60) == 1
    assert Counting.log == [("large", "small")]
    assert not tasks[0].done()
    go_on.set()
    assert await tasks[0] is True


async def test_a_full_queue_refuses_one_more_and_admits_again_later(engine):
    tasks = await waiting(engine, *(Counting(str(i), 1, key=str(i)) for i in range(5)))
    with pytest.raises(Overloaded) as refusal:
        await engine.run(Counting("one more", 1))
    assert int(refusal.value.headers["Retry-After"]) >= 1
    Counting.gate.set()
    await asyncio.gather(*tasks)
    assert await engine.run(Counting("now", 1)) == 1


async def test_queued_rows_are_bounded(engine):
    tasks = await waiting(engine, Counting("large", 90))
    with pytest.raises(Overloaded):
        await engine.run(Counting("ten more", 10))
    Counting.gate.set()
    assert await asyncio.gather(*tasks) == [1, 90]


async def test_a_cancelled_job_is_dropped_in_the_queue_and_under_way(engine):
    tasks = await waiting(engine, Counting("gone", 50), Counting("stays", 1, key="stays"))
    tasks[1].cancel()
    await asyncio.gather(tasks[1], return_exceptions=True)
    Counting.gate.set()
    assert await asyncio.gather(tasks[0], tasks[2]) == [1, 1]
    assert ("gone",) not in Counting.log
    assert queued(engine) == (0, 0)


async def test_a_failing_job_fails_alone_and_the_engine_goes_on(engine, caplog):
    tasks = await waiting(engine, Counting("bad", 1, key="bad"), Counting("good", 1, key="good"))
    Counting.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes[1], RuntimeError)
    assert outcomes[2] == 1
    assert queued(engine) == (0, 0)
    assert "counting of model tiny@1 failed" in caplog.text


async def test_closing_cancels_what_waits(engine):
    tasks = await waiting(engine, Counting("long", 90))
    closing = asyncio.create_task(asyncio.to_thread(engine.close, 60))
    while not engine._closed:
        await asyncio.sleep(0.001)
    Counting.gate.set()
    await closing
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]
    assert len(Counting.log) < 10
    with pytest.raises(Overloaded):
        await engine.run(Light("late", 1))


async def test_a_model_that_cannot_be_loaded_says_why():
    def load() -> Runtime:
        raise ValueError("no such weights")

    engine = Engine("tiny@1", load, queue_length=1, queued_rows=1, metrics=Metrics())
    with pytest.raises(ValueError, match="no such weights"):
        await asyncio.wrap_future(engine.runtime)
    engine.close(timeout=60)


async def test_steps_are_short_after_a_light_job(engine: Engine) -> None:
    seen: list[int] = []

    class Heavy(Counting):
        @classmethod
        def take(cls, runtime: Runtime, jobs: Sequence[Counting], max_rows: int) -> Compute:
            seen.append(max_rows)
            return super().take(runtime, jobs, max_rows)

    Counting.gate.set()
    await engine.run(Heavy("heavy", 90))
    assert seen[:2] == [96, 96]
    seen.clear()
    await engine.run(Light("light", 1))
    await engine.run(Heavy("heavy", 90))
    assert seen[:10] == [64] * 8 + [96] * 2


async def test_steps_of_one_job_are_computed_side_by_side(start: Callable[[int], Engine]) -> None:
    Counting.gate.set()
    engine = start(3)
    assert await engine.run(together(Counting, 3)("a", 6)) == 6
    assert queued(engine) == (0, 0)


async def test_a_light_job_goes_beside_a_heavy_step(start: Callable[[int], Engine]) -> None:
    class Free(Light):
        gate = threading.Event()

    Free.gate.set()
    engine = start(2)
    job = Counting("heavy", 1)
    heavy = asyncio.create_task(engine.run(job))
    while job.rows:  # until a thread has taken it
        await asyncio.sleep(0.001)
    assert await asyncio.wait_for(engine.run(Free("light", 1)), 60) == 1
    assert not heavy.done()
    Counting.gate.set()
    assert await heavy == 1


async def test_light_jobs_beside_a_light_step_wait_to_be_one_batch(start: Callable[[int], Engine]) -> None:
    tasks = await waiting(start(3), Light("a", 1), Light("b", 1), Light("c", 1))
    Counting.gate.set()
    await asyncio.gather(*tasks)
    assert Counting.log == [("plug",), ("a", "b", "c")]


async def test_light_jobs_that_a_step_leaves_are_computed_beside_it(start: Callable[[int], Engine]) -> None:
    kind = together(Light, 2)
    tasks = await waiting(start(2), kind("a", 1, key="a"), kind("b", 1, key="b"))
    Counting.gate.set()
    assert await asyncio.gather(*tasks) == [1, 1, 1]


@pytest.mark.parametrize("where", ["compute", "take"])
async def test_a_step_that_fails_beside_another_fails_the_job_once(start: Callable[[int], Engine], where: str) -> None:
    under_way, failed = threading.Event(), threading.Event()

    class Failing(Counting):
        @classmethod
        def take(cls, runtime: Runtime, jobs: Sequence[Counting], max_rows: int) -> Compute:
            first = jobs[0].rows == jobs[0].all_rows
            if where == "take" and not first:
                assert under_way.wait(60)
                raise RuntimeError("nothing to take")
            compute = super().take(runtime, jobs, max_rows)
            return cls.hold if first else (lambda: cls.fail(compute))

        @classmethod
        def hold(cls) -> None:
            under_way.set()
            assert failed.wait(60)

        @classmethod
        def fail(cls, compute: Compute) -> None:
            assert under_way.wait(60)
            raise RuntimeError("a step went wrong")

    engine = start(2)
    task = asyncio.create_task(engine.run(Failing("two", 30)))
    while queued(engine)[1] not in {1, 2}:  # rows that nobody takes any more are counted off
        await asyncio.sleep(0.001)
    assert not task.done()
    failed.set()
    with pytest.raises(RuntimeError, match="went wrong" if where == "compute" else "nothing to take"):
        await task
    assert queued(engine) == (0, 0)
    Counting.gate.set()
    assert await engine.run(Counting("next", 2)) == 2


async def test_a_job_that_cannot_be_taken_fails_alone(start: Callable[[int], Engine]) -> None:
    class Choosy(Counting):
        @classmethod
        def take(cls, runtime: Runtime, jobs: Sequence[Counting], max_rows: int) -> Compute:
            if jobs[0].name == "huge":
                raise MemoryError("no room for its rows")
            return super().take(runtime, jobs, max_rows)

    engine = start(1)
    tasks = await waiting(engine, Choosy("huge", 1), Choosy("small", 1))
    Counting.gate.set()
    plug, huge, small = await asyncio.gather(*tasks, return_exceptions=True)
    assert (plug, small) == (1, 1)
    assert isinstance(huge, MemoryError)
    assert queued(engine) == (0, 0)


@pytest.mark.parametrize("threads", [1, 2])
async def test_a_job_cancelled_during_a_step_is_computed_no_further(
    start: Callable[[int], Engine], threads: int
) -> None:
    engine = start(threads)
    job = Counting("gone", 50)
    task = asyncio.create_task(engine.run(job))
    while job.rows != 50 - threads:
        await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    Counting.gate.set()
    assert await engine.run(Counting("next", 1)) == 1
    while queued(engine) != (0, 0):
        await asyncio.sleep(0.001)
    assert Counting.log.count(("gone",)) == threads
    cancelled = engine.metrics.registry.get_sample_value(
        "vampprior_jobs_total", {"model": "tiny@1", "operation": "counting", "outcome": "cancelled"}
    )
    assert cancelled == 1


async def test_a_job_is_freed_with_its_answer_and_not_by_the_collector(engine: Engine) -> None:
    """Its images would otherwise stay until Python looks for cycles, which it seldom does."""
    Counting.gate.set()
    gc.disable()
    try:
        job = Light("light", 1)
        kept = weakref.ref(job)
        assert await engine.run(job) == 1
        del job
        await engine.run(Light("next", 1))  # the threads let go of what they had
        give_up = time.monotonic() + 60
        while kept() is not None and time.monotonic() < give_up:
            await asyncio.sleep(0.01)
        assert kept() is None
    finally:
        gc.enable()
