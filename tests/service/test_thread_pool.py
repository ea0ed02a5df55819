"""Functions run on other threads than the caller's, with one torch thread each, whatever goes wrong."""

from __future__ import annotations

import threading

import torch

from service.thread_pool import ThreadPool, thread_pool


def test_there_is_one_pool_of_a_size() -> None:
    assert thread_pool(2) is thread_pool(2)
    assert thread_pool(2).size == 2


def test_a_function_runs_beside_the_caller_and_survives_the_error_of_another() -> None:
    pool, called, seen = ThreadPool(2), threading.Event(), []

    def note() -> None:
        seen.append((threading.current_thread() is threading.main_thread(), torch.get_num_threads()))
        called.set()

    def fail() -> None:
        raise RuntimeError("nobody hears this")

    pool.call(fail)
    pool.call(note)
    assert called.wait(60)
    assert seen == [(False, 1)]


def test_the_caller_keeps_its_torch_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        together = threading.Barrier(2)
        ThreadPool(2).call(lambda: together.wait(timeout=60))
        together.wait(timeout=60)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_functions_run_side_by_side() -> None:
    pool, together = ThreadPool(3), threading.Barrier(3)  # passes only when three wait at once
    for _ in range(2):
        pool.call(lambda: together.wait(timeout=60))
    together.wait(timeout=60)
