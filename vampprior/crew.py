"""Pieces of work side by side, each on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch

__all__ = ["Crew", "crew_of"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Crew:
    """Threads that help whoever calls, `size` of them with the caller.

    Each computes whole pieces with one torch thread. Where every operation is shared out instead, as PyTorch does it,
    the threads wait for one another after each of them, which in networks of this size costs more than it gains. So
    only a piece that comes alone is left to PyTorch.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._helpers = ThreadPoolExecutor(max(1, size - 1), "crew")

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """`function` of every item, in the items' order; items are taken one at a time, by whoever is free.

        The caller starts at once and helpers join when they are free, so any number of callers may share a crew. An
        error is raised when all pieces under way have ended.
        """
        most = min(self.size, len(items)) if isinstance(items, Sized) else self.size
        if most <= 1:
            return [function(item) for item in items]
        inference = torch.is_inference_mode_enabled()
        results: dict[int, Result] = {}
        waiting, taking = enumerate(items), threading.Lock()

        def take() -> tuple[int, Item] | None:
            with taking:
                return next(waiting, None)

        def work() -> None:
            with _one_thread(), torch.inference_mode(inference):
                while piece := take():
                    results[piece[0]] = function(piece[1])

        helpers = [self._helpers.submit(work) for _ in range(most - 1)]
        try:
            work()
        finally:
            under_way = [helper for helper in helpers if not helper.cancel()]
            wait(under_way)
        for helper in under_way:
            helper.result()
        return [results[index] for index in sorted(results)]

    def call(self, function: Callable[[], object]) -> None:
        """Have one helper call the function when it is free; the caller goes on."""

        def help_out() -> None:
            with _one_thread():
                function()

        self._helpers.submit(help_out)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()  # has a new thread take the number that all have, which it else does later
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)  # the last one known is also that of threads to come


@cache
def crew_of(size: int) -> Crew:
    """The one crew of that size, for all who share the machine."""
    return Crew(size)
