"""A crew: pieces in order, each on one torch thread, whoever calls and whatever goes wrong."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from vampprior.crew import Crew, crew_of


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("pieces", [0, 1, 2, 9])
def test_results_come_in_the_order_of_the_items(size, pieces):
    assert Crew(size).map(lambda item: item * item, range(pieces)) == [item * item for item in range(pieces)]


def test_items_are_taken_one_at_a_time_when_a_thread_is_free():
    crew, counting, taken, finished = Crew(2), threading.Lock(), 0, 0

    def items():
        nonlocal taken
        for item in range(20):
            assert taken - finished < crew.size
            taken += 1
            yield item

    def piece(item: int) -> int:
        nonlocal finished
        with counting:
            finished += 1
        return item

    assert crew.map(piece, items()) == list(range(20))


def test_pieces_are_computed_side_by_side():
    together = threading.Barrier(3)  # breaks unless three wait at once
    ranks = Crew(3).map(lambda _: together.wait(timeout=60), range(3))
    assert sorted(ranks) == [0, 1, 2]


def test_every_piece_has_one_torch_thread_and_the_caller_keeps_its_own():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        together = threading.Barrier(2)

        def threads(_: int) -> int:
            together.wait(timeout=60)
            return torch.get_num_threads()

        assert Crew(2).map(threads, range(2)) == [1, 1]
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("size", "pieces"), [(3, 1), (1, 2)])
def test_what_is_not_shared_out_keeps_the_callers_torch_threads(size, pieces):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert Crew(size).map(lambda _: torch.get_num_threads(), range(pieces)) == [3] * pieces
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("inference", [False, True])
def test_helpers_are_in_the_callers_inference_mode(inference):
    together = threading.Barrier(2)

    def mode(_: int) -> bool:
        together.wait(timeout=60)
        return torch.is_inference_mode_enabled()

    with torch.inference_mode(inference):
        assert Crew(2).map(mode, range(2)) == [inference, inference]


def test_a_caller_whose_helpers_are_busy_does_all_itself():
    crew, busy, release = Crew(2), threading.Event(), threading.Event()

    def hold(item: int) -> None:
        if item:
            busy.set()
        else:
            busy.wait(60)
        release.wait(60)

    with ThreadPoolExecutor(1) as other:
        held = other.submit(crew.map, hold, [0, 1])
        assert busy.wait(60)
        callers = set(crew.map(lambda _: threading.get_ident(), range(4)))
        assert callers == {threading.get_ident()}
        release.set()
        held.result()


@pytest.mark.parametrize("culprit", [0, 1])
def test_an_error_is_raised_when_all_under_way_have_ended(culprit):
    together, ended = threading.Barrier(2), []

    def piece(item: int) -> None:
        together.wait(timeout=60)
        if item == culprit:
            raise ValueError("a bad piece")
        ended.append(item)

    with pytest.raises(ValueError, match="a bad piece"):
        Crew(2).map(piece, [0, 1])
    assert ended == [1 - culprit]


def test_there_is_one_crew_of_a_size():
    assert crew_of(2) is crew_of(2)
    assert crew_of(2).size == 2


def test_a_helper_that_is_called_works_beside_the_caller_and_survives_an_error():
    crew, called, seen = Crew(2), threading.Event(), []

    def note() -> None:
        seen.append((threading.current_thread() is threading.main_thread(), torch.get_num_threads()))
        called.set()

    def fail() -> None:
        raise RuntimeError("nobody hears this")

    crew.call(fail)
    crew.call(note)
    assert called.wait(60)
    assert seen == [(False, 1)]
