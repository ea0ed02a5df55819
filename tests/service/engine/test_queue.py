"""The queue of a lane: bounds, turns and batches."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

import pytest

from service.engine.protocol import Encode
from service.engine.queue import Lane, Request, Task
from service.errors import Overloaded

pytestmark = pytest.mark.anyio


def request_of(lane: Lane, client: str, *names: str, rows: int = 1, key: Hashable = None) -> Request:
    """A request whose tasks are told apart by their model."""
    request, loop = Request(client), asyncio.get_running_loop()
    for name in names:
        request.tasks.append(Task(lane, request, name, Encode(b"", 1, 1), rows, key, loop.create_future()))
    return request


def admit(lane: Lane, client: str, *names: str, rows: int = 1, key: Hashable = None) -> Request:
    request = request_of(lane, client, *names, rows=rows, key=key)
    lane.admit(request)
    return request


def take_all(lane: Lane, max_rows: int) -> list[str]:
    """Names of the tasks of each batch, until nothing waits."""
    batches = []
    while lane:
        batches.append(" ".join(task.model for task in lane.take(max_rows)))
    return batches


async def test_clients_take_turns_and_then_their_requests() -> None:
    lane = Lane("light", max_tasks=100, max_rows=100)
    admit(lane, "a", "a1", "a2", "a3")
    admit(lane, "a", "a4", "a5")
    admit(lane, "b", "b1")
    admit(lane, "c", "c1", "c2")
    assert take_all(lane, 1) == ["a1", "b1", "c1", "a4", "c2", "a2", "a5", "a3"]


async def test_a_batch_is_every_task_of_a_kind_up_to_the_rows() -> None:
    lane = Lane("light", max_tasks=100, max_rows=100)
    admit(lane, "a", "a1", "a2", key="x")
    admit(lane, "b", "b1", key="y")
    admit(lane, "c", "c1", key="x")
    admit(lane, "a", "a3", key="x")
    assert take_all(lane, 3) == ["a1 c1 a3", "b1", "a2"]


async def test_a_task_larger_than_a_batch_goes_alone() -> None:
    lane = Lane("light", max_tasks=100, max_rows=100)
    admit(lane, "a", "large", rows=50)
    admit(lane, "b", "small")
    assert take_all(lane, 10) == ["large", "small"]


async def test_a_task_that_outlived_a_worker_is_computed_alone() -> None:
    lane = Lane("light", max_tasks=100, max_rows=100)
    admit(lane, "a", "a1")
    admit(lane, "b", "b1")
    batch = lane.take(10)
    for task in batch:
        task.deaths = 1
    lane.repeat(batch)
    admit(lane, "c", "c1")
    assert take_all(lane, 10) == ["a1", "b1", "c1"]


async def test_a_request_is_admitted_whole_or_not_at_all() -> None:
    lane = Lane("heavy", max_tasks=4, max_rows=100)
    admit(lane, "a", "a1", "a2", "a3")
    with pytest.raises(Overloaded) as refusal:
        admit(lane, "b", "b1", "b2")
    assert int(refusal.value.headers["Retry-After"]) >= 1
    assert lane.tasks == 3
    admit(lane, "b", "b1")
    assert take_all(lane, 1) == ["a1", "b1", "a2", "a3"]


async def test_rows_are_bounded_too_until_their_tasks_have_ended() -> None:
    lane = Lane("heavy", max_tasks=100, max_rows=10)
    admit(lane, "a", "a1", rows=6)
    (task,) = lane.take(10)
    with pytest.raises(Overloaded):
        admit(lane, "b", "b1", rows=6)
    lane.release(task, computed=True)
    admit(lane, "b", "b1", rows=6)


async def test_what_nobody_waits_for_leaves_the_queue() -> None:
    lane = Lane("heavy", max_tasks=100, max_rows=100)
    left = admit(lane, "a", "a1", "a2", "a3", rows=2)
    admit(lane, "b", "b1")
    (taken,) = lane.take(1)
    assert lane.withdraw(left) == 2
    assert (lane.tasks, lane.rows) == (2, 3)
    lane.release(taken, computed=True)
    assert take_all(lane, 1) == ["b1"]


async def test_retry_after_follows_the_measured_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("service.engine.queue.time.monotonic", lambda: now)
    lane = Lane("heavy", max_tasks=1000, max_rows=100)
    for _ in range(500):  # 10 rows a second for 500 seconds
        admit(lane, "a", "a1", rows=10)
        (task,) = lane.take(10)
        now += 1.0
        lane.release(task, computed=True)
    admit(lane, "a", "a1", rows=100)
    assert lane.retry_after(50) == 5
