"""The queue of a lane: bounds, turns and batches."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

import pytest

from service.engine.protocol import Encode
from service.engine.queue import Lane, Request, Task
from service.errors import Overloaded

pytestmark = pytest.mark.anyio


def lane_of(max_requests: int = 100, max_rows: int = 100) -> Lane:
    return Lane("light", max_requests=max_requests, max_rows=max_rows)


def tasks_of(request: Request, *names: str, rows: int = 1, key: Hashable = None) -> list[Task]:
    """Tasks that are told apart by their model."""
    loop = asyncio.get_running_loop()
    return [Task(request, name, Encode(b"", 1, 1), rows, key, loop.create_future()) for name in names]


def admit(lane: Lane, client: str, *names: str, rows: int = 1, key: Hashable = None) -> list[Task]:
    """Tasks of a new request, which wait."""
    with lane.admit(client, rows * len(names)) as request:
        tasks = tasks_of(request, *names, rows=rows, key=key)
        request.add(tasks)
    return tasks


def take_all(lane: Lane, max_rows: int) -> list[str]:
    """Names of the tasks of each batch, until nothing waits."""
    batches = []
    while lane:
        batches.append(" ".join(task.model for task in lane.take(lambda _: max_rows)))
    return batches


async def test_clients_take_turns_and_then_their_requests() -> None:
    lane = lane_of()
    admit(lane, "a", "a1", "a2", "a3")
    admit(lane, "a", "a4", "a5")
    admit(lane, "b", "b1")
    admit(lane, "c", "c1", "c2")
    assert take_all(lane, 1) == ["a1", "b1", "c1", "a4", "c2", "a2", "a5", "a3"]


async def test_a_client_gets_no_more_turns_for_more_requests() -> None:
    lane = lane_of()
    for number in range(3):
        admit(lane, "many", f"m{number}a", f"m{number}b")
    admit(lane, "one", "o1", "o2", "o3")
    assert take_all(lane, 1) == ["m0a", "o1", "m1a", "o2", "m2a", "o3", "m0b", "m1b", "m2b"]


async def test_a_batch_is_every_task_of_a_kind_up_to_the_rows() -> None:
    lane = lane_of()
    admit(lane, "a", "a1", "a2", key="x")
    admit(lane, "b", "b1", key="y")
    admit(lane, "c", "c1", key="x")
    admit(lane, "a", "a3", key="x")
    assert take_all(lane, 3) == ["a1 c1 a3", "b1", "a2"]


async def test_a_batch_takes_further_tasks_of_one_request() -> None:
    lane = lane_of()
    admit(lane, "a", "a1", "a2", "a3", "a4", "a5")
    assert take_all(lane, 3) == ["a1 a2 a3", "a4 a5"]


async def test_the_rows_of_a_batch_are_those_of_its_model() -> None:
    lane = lane_of()
    admit(lane, "a", *"vvv", key="v")
    admit(lane, "b", *"www", key="w")
    batches = []
    while lane:
        batches.append("".join(task.model for task in lane.take({"v": 1, "w": 3}.__getitem__)))
    assert batches == ["v", "www", "v", "v"]


async def test_a_task_larger_than_a_batch_goes_alone() -> None:
    lane = lane_of()
    admit(lane, "a", "large", rows=50)
    admit(lane, "b", "small")
    assert take_all(lane, 10) == ["large", "small"]


async def test_a_task_that_outlived_a_worker_is_computed_alone_and_before_others() -> None:
    lane = lane_of()
    admit(lane, "a", "a1")
    admit(lane, "b", "b1")
    batch = lane.take(lambda _: 10)
    admit(lane, "c", "c1")
    admit(lane, "d", "d1")
    for task in batch:
        task.deaths = 1
    lane.put_first(batch)
    assert take_all(lane, 10) == ["a1", "b1", "c1 d1"]


async def test_a_request_is_admitted_whole_or_not_at_all() -> None:
    lane = lane_of(max_rows=4)
    admit(lane, "a", "a1", "a2", "a3")
    with pytest.raises(Overloaded) as refusal:
        admit(lane, "b", "b1", "b2")
    assert int(refusal.value.headers["Retry-After"]) >= 1
    assert (lane.requests, lane.rows) == (1, 3)
    admit(lane, "b", "b1")
    assert take_all(lane, 1) == ["a1", "b1", "a2", "a3"]


async def test_requests_are_bounded_until_their_last_task_has_ended() -> None:
    lane = lane_of(max_requests=1)
    first, second = admit(lane, "a", "a1", "a2")
    take_all(lane, 10)
    first.release(computed=True)
    with pytest.raises(Overloaded):
        admit(lane, "b", "b1")
    second.release(computed=False)
    assert (lane.requests, lane.rows) == (0, 0)
    admit(lane, "b", "b1")


async def test_rows_are_bounded_until_their_task_has_ended() -> None:
    lane = lane_of(max_rows=10)
    (task,) = admit(lane, "a", "a1", rows=6)
    take_all(lane, 10)
    with pytest.raises(Overloaded):
        admit(lane, "b", "b1", rows=6)
    task.release(computed=True)
    admit(lane, "b", "b1", rows=6)


async def test_room_that_no_task_has_taken_is_given_back() -> None:
    lane = lane_of()
    with lane.admit("a", 10) as request:
        (task,) = tasks_of(request, "a1", rows=4)
        request.add([task])
        assert (lane.requests, lane.rows) == (1, 10)
    assert (lane.requests, lane.rows) == (1, 4)
    task.release(computed=True)
    assert (lane.requests, lane.rows) == (0, 0)


async def test_a_request_whose_client_has_left_takes_room_for_what_others_still_want() -> None:
    lane = lane_of()
    with lane.admit("a", 5) as request:
        pass
    tasks = tasks_of(request, "a1", "a2", rows=2)
    request.add(tasks)
    assert (lane.requests, lane.rows) == (1, 4)
    for task in tasks:
        task.release(computed=True)
    assert (lane.requests, lane.rows) == (0, 0)


async def test_what_nobody_wants_leaves_the_queue() -> None:
    lane = lane_of()
    unwanted = admit(lane, "a", "a1", "a2", "a3", rows=2)
    admit(lane, "b", "b1")
    (taken,) = lane.take(lambda _: 1)
    unwanted[0].request.withdraw(unwanted)
    assert (lane.requests, lane.rows) == (2, 3)
    taken.release(computed=True)
    assert (lane.requests, lane.rows) == (1, 1)
    assert take_all(lane, 1) == ["b1"]


async def test_a_part_of_a_request_can_be_withdrawn() -> None:
    lane = lane_of()
    tasks = admit(lane, "a", "a1", "a2", "a3")
    tasks[0].request.withdraw(tasks[1:2])
    assert take_all(lane, 1) == ["a1", "a3"]


async def test_draining_takes_out_everything() -> None:
    lane = lane_of()
    tasks = [*admit(lane, "a", "a1", "a2"), *admit(lane, "b", "b1")]
    assert {task.model for task in lane.drain()} == {"a1", "a2", "b1"}
    assert not lane
    for task in tasks:
        task.release(computed=False)
    assert (lane.requests, lane.rows) == (0, 0)


class Clock:
    """Time that passes when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("service.engine.queue.time.monotonic", lambda: self.now)


async def test_retry_after_follows_the_measured_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    lane = lane_of()
    clock.now += 3600  # idle time does not count
    with lane.admit("a", 100, seconds_per_row=0.2) as request:
        for _ in range(10):
            (task,) = tasks_of(request, "a", rows=1)
            request.add([task])
            take_all(lane, 1)
            clock.now += 1.0
            task.release(computed=True)  # a row in a second
        with pytest.raises(Overloaded) as refusal:
            lane.admit("a", 30, seconds_per_row=0.2)
    assert refusal.value.headers["Retry-After"] == "20"  # the time of the 20 rows that have to go first


async def test_what_could_not_be_computed_in_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    lane = Lane("heavy", max_requests=100, max_rows=10**9, max_seconds=60.0)
    with lane.admit("a", 10**6, seconds_per_row=0.1):  # a day, but nobody knows how fast the machine is
        clock.now += 1.0
        lane.measure(2.0)  # two workers
        with lane.admit("b", 550, seconds_per_row=0.1):  # 55 seconds of work in turns with as much of the other
            pass
        with pytest.raises(Overloaded) as refusal:
            lane.admit("b", 650, seconds_per_row=0.1)
        assert refusal.value.headers["Retry-After"] == "5"
        with lane.admit("b", 550, seconds_per_row=0.1), pytest.raises(Overloaded):
            lane.admit("c", 550, seconds_per_row=0.1)
    with lane.admit("b", 10**6, seconds_per_row=0.1):  # alone, whatever it takes: the deadline decides
        pass
    assert (lane.rows, lane.requests) == (0, 0)
