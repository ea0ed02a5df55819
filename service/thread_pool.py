"""Thread pool whose threads each run torch operations on one thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch

__all__ = ["ThreadPool", "thread_pool"]


class ThreadPool:
    """Threads that compute beside the engine's own; `size` counts both.

    Each runs a torch operation on one thread. PyTorch's own parallelism splits every operation instead and makes the
    threads wait for one another after each, which costs more than it gains in networks of this size.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._threads = ThreadPoolExecutor(max(1, size - 1), "thread-pool")

    def call(self, function: Callable[[], object]) -> None:
        """Call the function on one of the pool's threads, without waiting for it."""

        def on_one_thread() -> None:
            threads = torch.get_num_threads()  # a new thread adopts the process-wide number here rather than later
            torch.set_num_threads(1)
            try:
                function()
            finally:
                torch.set_num_threads(threads)  # threads started later take the last number that was set

        self._threads.submit(on_one_thread)


@cache
def thread_pool(size: int) -> ThreadPool:
    """The process's pool of that size, shared by all models."""
    return ThreadPool(size)
