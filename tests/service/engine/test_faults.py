"""Processes that are killed, that stop, or that fail: nothing is lost, no answer is wrong, nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.errors import Internal, NotReady

pytestmark = pytest.mark.anyio

POISON = bytes(64)


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)


# Workers that end.


async def test_killed_heavy_workers_lose_no_log_likelihood(run_engine: Any, stop: Any) -> None:
    async with run_engine() as running:
        expected = [await running.score(seed, 5000) for seed in range(4)]
        processes = running.processes_of("heavy")
        for process in processes:
            stop(process)  # so that it has batches in its hands when it is killed
        tasks = [asyncio.create_task(running.score(seed, 5000)) for seed in range(4)]
        await running.until(lambda: all(len(worker.in_flight) == 2 for worker in running.workers_of("heavy")))
        for process in processes:
            kill(process)
        assert await asyncio.gather(*tasks) == expected
        assert running.deaths("heavy") == 2
        await running.all_there()
        assert running.queued == (0, 0)


async def test_a_killed_light_worker_loses_no_sample(run_engine: Any, stop: Any) -> None:
    async with run_engine() as running:
        expected = [await running.sample(seed) for seed in range(200)]
        (process,) = running.processes_of("light")
        stop(process)  # so that it has a batch in its hands when it is killed
        tasks = [asyncio.create_task(running.sample(seed)) for seed in range(200)]
        await running.until(lambda: running.workers_of("light")[0].in_flight)
        kill(process)
        assert await asyncio.gather(*tasks) == expected
        assert running.deaths("light") == 1
        await running.all_there()
        assert running.queued == (0, 0)


@pytest.mark.parametrize("lane", ["light", "heavy"])
async def test_a_stopped_worker_is_killed_and_its_work_done_again(
    run_engine: Any, stop: Any, state: Any, lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_engine() as running:
        expected = await running.sample(1), await running.score(1)
        stopped = running.processes_of(lane)
        for process in stopped:
            stop(process)
        tasks = [asyncio.create_task(running.sample(1)), asyncio.create_task(running.score(1))]
        await running.until(lambda: all(worker.in_flight for worker in running.workers_of(lane)))
        monkeypatch.setattr("service.engine.supervisor.SILENT_SECONDS", 0.0)
        monkeypatch.setattr("service.engine.supervisor.SILENT_UNITS", 0)
        await running.until(lambda: running.deaths(lane) >= len(stopped))
        monkeypatch.undo()
        assert tuple(await asyncio.gather(*tasks)) == expected
        await running.until(lambda: all(state(process) is None for process in stopped))


@pytest.mark.parametrize("lane", ["light", "heavy"])
async def test_a_task_that_ends_two_workers_fails_alone_and_is_not_tried_again(
    run_engine: Any, faults: Any, stop: Any, lane: str
) -> None:
    faults.poison = POISON.hex()

    def ask(running: Any, levels: bytes) -> Any:
        if lane == "heavy":
            return running.score(0, 512, levels)
        return running.model.encode([levels], top=1, client="a")

    async with run_engine() as running:
        images = [bytes([level] * 64) for level in range(1, 9)]
        expected = [await ask(running, image) for image in images]
        processes = running.processes_of(lane)
        for process in processes:
            stop(process)  # so that all wait, and the task is in one batch with others
        tasks = [asyncio.create_task(ask(running, image)) for image in [*images[:4], POISON, *images[4:]]]
        await running.until(lambda: running.queued[0] == len(tasks))
        for process in processes:
            os.kill(process, signal.SIGCONT)
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        failed = answers.pop(4)
        assert isinstance(failed, Internal)
        assert "twice" in failed.detail
        assert answers == expected
        assert running.deaths(lane) == 2
        assert not running.engine.supervisor.failing
        assert running.queued == (0, 0)


async def test_three_deaths_without_a_suspect_make_the_engine_failing(run_engine: Any) -> None:
    async with run_engine() as running:
        for deaths in range(1, 4):
            await running.all_there()
            assert not running.engine.supervisor.failing
            kill(running.processes_of("light")[0])
            await running.until(lambda: running.deaths("light") == deaths)  # noqa: B023
        assert running.engine.supervisor.failing
        assert len(await running.sample(1)) > 0


async def test_deaths_are_forgotten_after_a_while(run_engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with run_engine() as running:
        for deaths in range(1, 4):
            await running.all_there()
            kill(running.processes_of("light")[0])
            await running.until(lambda: running.deaths("light") == deaths)  # noqa: B023
        assert running.engine.supervisor.failing
        monkeypatch.setattr("service.engine.supervisor.DEATH_SECONDS", 0.0)
        assert not running.engine.supervisor.failing


async def test_a_worker_without_memory_ends_and_another_one_computes_its_work(
    run_engine: Any, faults: Any, tmp_path: Path
) -> None:
    full = tmp_path / "full"
    faults.out_of_memory = str(full)
    async with run_engine() as running:
        expected = await running.score(1), await running.sample(1)
        full.touch()
        assert await running.score(1) == expected[0]
        assert running.deaths("heavy") == 1
        full.touch()
        assert await running.sample(1) == expected[1]
        assert running.deaths("light") == 1


async def test_a_worker_that_the_system_gives_no_memory_loses_no_work(run_engine: Any) -> None:
    many = 20_000  # images, which need more memory than the process has kept
    async with run_engine(heavy=1) as running:
        (expected,) = set(await running.encode(1))
        (process,) = running.processes_of("heavy")
        resource.prlimit(process, resource.RLIMIT_AS, (0, 0))
        answer = await running.encode(many)
        assert (len(answer), set(answer)) == (many, {expected})
        assert running.deaths("heavy") == 1


async def test_a_payload_that_is_no_message_fails_and_keeps_no_worker(run_engine: Any) -> None:
    async with run_engine() as running:
        with pytest.raises(Internal):
            await running.sample(10**30)  # a seed of more than 64 bits
        assert running.queued == (0, 0)
        assert len(await running.sample(1)) > 0
        assert running.deaths("light") == 0


async def test_workers_that_cannot_be_forked_are_forked_later(run_engine: Any, faults: Any, tmp_path: Path) -> None:
    none_left = tmp_path / "none left"
    faults.fork = str(none_left)
    async with run_engine() as running:
        expected = await running.sample(1)
        none_left.touch()
        kill(running.processes_of("light")[0])
        await running.until(lambda: running.deaths("light") >= 3)  # it was killed, and could not be forked twice
        assert running.engine.supervisor.failing
        waiting = asyncio.create_task(running.sample(1))
        assert len(await running.score(1)) > 0  # the other lane goes on
        none_left.unlink()
        assert await waiting == expected
        await running.all_there()


# A worker that takes nothing from its socket.


@pytest.mark.parametrize("ending", [signal.SIGCONT, signal.SIGKILL])
async def test_a_full_socket_keeps_nobody_else_waiting(run_engine: Any, stop: Any, ending: signal.Signals) -> None:
    many = 20_000  # images, which have more bytes than a socket's buffers
    async with run_engine(heavy=1) as running:
        (expected,) = set(await running.encode(1))
        (process,) = running.processes_of("heavy")
        stop(process)
        tasks = [asyncio.create_task(running.encode(many)) for _ in range(2)]
        await running.until(lambda: len(running.workers_of("heavy")[0].in_flight) == 2)
        assert len(await running.sample(1)) > 0
        assert not any(task.done() for task in tasks)
        os.kill(process, ending)
        for answer in await asyncio.gather(*tasks):
            assert (len(answer), set(answer)) == (many, {expected})
        assert running.deaths("heavy") == (ending == signal.SIGKILL)


# The loader.


async def test_a_killed_loader_takes_its_workers_with_it_and_all_comes_back(
    run_engine: Any, own_loaders: Any, state: Any, stop: Any
) -> None:
    async with run_engine() as running:
        expected = [await running.score(seed, 5000) for seed in range(3)]
        old = running.engine.supervisor.processes()
        for process in running.processes_of("heavy"):
            stop(process)
        tasks = [asyncio.create_task(running.score(seed, 5000)) for seed in range(3)]
        await running.until(lambda: all(worker.in_flight for worker in running.workers_of("heavy")))
        kill(old[0])
        assert await asyncio.gather(*tasks) == expected
        await running.until(lambda: not any(state(process) for process in old))
        await running.all_there()
        assert (running.deaths("loader"), running.deaths("heavy")) == (1, 0)
        assert len(own_loaders) == 2
        assert not running.engine.supervisor.failing


async def test_a_stopped_loader_is_replaced_when_a_worker_is_needed(
    run_engine: Any, stop: Any, state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_engine() as running:
        expected = await running.sample(1)
        old = running.engine.supervisor.processes()
        stop(old[0])
        assert await running.sample(1) == expected  # the workers go on
        kill(running.processes_of("light")[0])
        await running.until(lambda: running.deaths("light") == 1)
        waiting = asyncio.create_task(running.sample(1))
        monkeypatch.setattr("service.engine.supervisor.START_SECONDS", 0.0)
        await running.until(lambda: running.deaths("loader") == 1)
        monkeypatch.undo()
        assert await waiting == expected
        await running.all_there()
        await running.until(lambda: not any(state(process) for process in old))


async def test_a_loader_that_cannot_be_started_is_started_later(
    run_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    async with run_engine() as running:
        expected = await running.sample(1)
        with monkeypatch.context() as patch:
            patch.setattr("service.engine.supervisor.launch_loader", fail)
            kill(running.engine.supervisor.processes()[0])
            await running.until(lambda: running.deaths("loader") >= 3)  # it was killed, and could not be started twice
            assert running.engine.supervisor.failing
            waiting = asyncio.create_task(running.sample(1))
        assert await waiting == expected


async def test_a_checkpoint_whose_loading_ends_the_loader_twice_is_refused(
    run_engine: Any, faults: Any, model_store: Path, save_model: Any, tmp_path: Path
) -> None:
    faults.crash["bad"] = str(save_model(tmp_path, "bad", "1", seed=1))
    async with run_engine(tmp_path / "bad" / "1", model_store / "tiny-vamp" / "10") as running:
        assert list(running.loaded) == ["tiny-vamp@10"]
        assert "twice" in running.refused["bad@1"]
        assert running.deaths("loader") == 2
        assert len(await running.sample(1)) > 0


async def test_a_checkpoint_whose_loading_ends_the_loader_once_is_loaded_again(
    run_engine: Any, faults: Any, model_store: Path, hold_loading: Any, tmp_path: Path
) -> None:
    gate, crash = hold_loading("tiny-vamp"), tmp_path / "crash"
    crash.touch()
    faults.crash["tiny-vamp"] = str(crash)
    gate.set()

    async def mend(running: Any) -> None:
        await running.until(lambda: running.deaths("loader") == 1)
        crash.unlink()

    async with run_engine(on_start=mend) as running:
        assert list(running.loaded) == ["tiny-vamp@10"]
        assert running.refused == {}
        assert len(await running.sample(1)) > 0


async def test_a_checkpoint_that_never_loads_is_refused_and_others_answer(
    run_engine: Any, hold_loading: Any, model_store: Path, save_model: Any, tmp_path: Path
) -> None:
    hold_loading("slow")

    async def wait_no_longer(running: Any) -> None:
        loader = running.engine.supervisor
        await running.until(lambda: loader._loader is not None and loader._loader.loading is not None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("service.engine.supervisor.STALL_SECONDS", 0.0)
            await running.until(lambda: running.refused)

    folders = [save_model(tmp_path, "slow", "1", seed=1), model_store / "tiny-vamp" / "10"]
    async with run_engine(*folders, on_start=wait_no_longer) as running:
        assert "has not loaded within" in running.refused["slow@1"]
        assert list(running.loaded) == ["tiny-vamp@10"]
        assert len(await running.sample(1)) > 0


async def test_a_checkpoint_that_cannot_be_used_is_refused_and_others_answer(
    run_engine: Any, model_store: Path
) -> None:
    async with run_engine(model_store / "damaged" / "1", model_store / "tiny-vamp" / "10") as running:
        assert list(running.loaded) == ["tiny-vamp@10"]
        assert "sha256" in running.refused["damaged@1"]
        assert len(await running.sample(1)) > 0


# The end.


async def test_cancelled_work_leaves_the_queue(run_engine: Any) -> None:
    async with run_engine() as running:
        task = asyncio.create_task(running.score(0, 10**6))
        await running.until(lambda: running.batches)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await running.until(lambda: running.queued == (0, 0))
        assert running.batches < 1000
        assert len(await running.score(1)) > 0


async def test_closing_fails_what_waits_and_leaves_no_process_and_no_zombie(
    run_engine: Any, own_loaders: Any, state: Any
) -> None:
    async with run_engine() as running:
        processes = running.engine.supervisor.processes()
        assert processes[0] == own_loaders[0].pid
        assert len(processes) == 4
        tasks = [asyncio.create_task(running.score(seed, 10**6)) for seed in range(2)]
        await running.until(lambda: running.batches)
        running.engine.close()
        for task in tasks:
            with pytest.raises(NotReady):
                await task
        with pytest.raises(NotReady):
            await running.sample(1)
        assert running.queued == (0, 0)
        await running.until(lambda: not any(state(process) for process in processes))


async def test_closing_ends_processes_that_have_stopped(run_engine: Any, stop: Any, state: Any) -> None:
    async with run_engine() as running:
        processes = running.engine.supervisor.processes()
        for process in processes:
            stop(process)
        running.engine.close()
        await running.until(lambda: not any(state(process) for process in processes))


async def test_closing_while_a_checkpoint_loads_leaves_no_process(
    run_engine: Any, hold_loading: Any, state: Any
) -> None:
    hold_loading("tiny-vamp")
    processes = []

    async def close(running: Any) -> None:
        await running.until(lambda: running.engine.supervisor._loader.loading is not None)
        processes.extend(running.engine.supervisor.processes())
        running.engine.close()
        await running.until(lambda: not any(state(process) for process in processes))
        running.engine.supervisor.loaded.set()
        running.engine.supervisor.ready.set()

    with pytest.raises(ConnectionAbortedError):
        async with run_engine(on_start=close):
            raise ConnectionAbortedError
    assert len(processes) == 1


async def test_draining_finishes_what_waits(run_engine: Any) -> None:
    async with run_engine() as running:
        task = asyncio.create_task(running.score(0, 5000))
        await running.until(lambda: running.queued[0])
        await running.engine.drain()
        assert b"log_likelihood" in await task
        assert running.queued == (0, 0)


FRONT_END = """
import asyncio, sys
from pathlib import Path
from service.engine.engine import Engine
from service.metrics import Metrics

async def main():
    nothing = lambda *_: None
    workers = {"light": 1, "heavy": 1}
    engine = Engine([Path(sys.argv[1])], device="cpu", workers=workers, max_requests=9, max_rows=9,
                    max_seconds=9, metrics=Metrics(),
                    on_loaded=nothing, on_refused=nothing)
    await engine.start()
    while len(engine.supervisor.processes()) < 3:
        await asyncio.sleep(0.01)
    print(*engine.supervisor.processes(), flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


async def test_a_killed_front_end_leaves_no_process(model_store: Path, run_engine: Any, state: Any, stop: Any) -> None:
    command = [sys.executable, "-c", FRONT_END, str(model_store / "tiny-vamp" / "10")]
    async with run_engine() as running:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as front_end:
            assert front_end.stdout is not None
            processes = [int(number) for number in front_end.stdout.readline().split()]
            assert len(processes) == 3
            assert all(state(process) not in ("Z", None) for process in processes)
            stop(processes[1])  # one that would notice nothing
            front_end.kill()
        await running.until(lambda: all(state(process) in ("Z", None) for process in processes))


async def test_where_nothing_is_forked_one_process_does_all_work(
    run_engine: Any, faults: Any, stop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_engine(heavy=1) as running:
        expected = [await running.sample(1), await running.score(1)]
    faults.spawn = True
    async with run_engine(heavy=1) as running:
        supervisor = running.engine.supervisor

        async def alone() -> int:
            await running.until(lambda: len(running.processes_of("light")) == 1)
            (process,) = set(supervisor.processes())
            return int(process)

        process = await alone()
        assert await asyncio.gather(running.sample(1), running.score(1)) == expected
        many = asyncio.gather(*(running.sample(1) for _ in range(40)), *(running.score(1) for _ in range(10)))
        await running.until(lambda: running.batches > 4)
        os.kill(process, signal.SIGKILL)
        assert await many == [expected[0]] * 40 + [expected[1]] * 10
        second = await alone()
        assert second != process
        monkeypatch.setattr("service.engine.supervisor.SILENT_SECONDS", 0.5)
        stop(second)
        answers = asyncio.gather(running.sample(1), running.score(1))
        await running.until(lambda: running.deaths("loader") >= 2)
        monkeypatch.setattr("service.engine.supervisor.SILENT_SECONDS", 600.0)
        assert await answers == expected
        assert await alone() != second


async def test_a_checkpoint_that_changed_has_no_part_in_old_answers(
    run_engine: Any, save_model: Any, tmp_path: Path
) -> None:
    folder = save_model(tmp_path, "tiny-vamp", "10", seed=1)
    async with run_engine(folder) as running:
        task = asyncio.create_task(running.score(0, 10**7))
        await running.until(lambda: running.batches > 2)
        save_model(tmp_path, "tiny-vamp", "10", seed=2)
        os.kill(running.engine.supervisor.processes()[0], signal.SIGKILL)
        with pytest.raises(NotReady, match="have changed"):
            await task
        with pytest.raises(NotReady, match="cannot be used any more"):
            await running.sample(1)
        assert "have changed" in running.refused["tiny-vamp@10"]
        assert running.queued == (0, 0)


async def test_a_loader_that_is_killed_again_and_again_costs_no_answer(run_engine: Any) -> None:
    async with run_engine() as running:
        expected = await running.score(0, 200_000)
        task = asyncio.create_task(running.score(0, 200_000))
        for deaths in range(1, 4):
            await running.all_there()
            await running.until(lambda: any(worker.in_flight for worker in running.workers_of("heavy")))
            os.kill(running.engine.supervisor.processes()[0], signal.SIGKILL)
            await running.until(lambda: running.deaths("loader") == deaths)  # noqa: B023
        assert await task == expected


async def test_a_worker_that_waits_for_the_processor_is_not_silent(
    run_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that gets a little of it now and then, as at a low priority beside other programs."""
    seconds = iter(range(10**6))
    monkeypatch.setattr("service.engine.supervisor._processor_seconds", lambda _: next(seconds) / 1000)
    monkeypatch.setattr("service.engine.supervisor.SILENT_SECONDS", 0.6)
    monkeypatch.setattr("service.engine.supervisor.CHECK_SECONDS", 0.05)
    async with run_engine(heavy=1) as running:
        (process,) = running.processes_of("heavy")
        os.kill(process, signal.SIGSTOP)
        task = asyncio.create_task(running.score(0))
        await running.until(lambda: any(worker.in_flight for worker in running.workers_of("heavy")))
        await asyncio.sleep(2.0)
        assert running.deaths("heavy") == 0
        os.kill(process, signal.SIGCONT)
        assert b"log_likelihood" in await task
