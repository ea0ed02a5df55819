"""Functions that may block forever, each in a thread that no exit of the process waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

__all__ = ["start_thread"]

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def start_thread(
    function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Future[Result]:
    """Call `function` in a new daemon thread; the future holds what it returns or raises.

    `asyncio.to_thread` uses an executor whose threads are joined at exit. A thread that reads from a hung network mount
    would keep the process alive.
    """
    future: Future[Result] = Future()
    future.set_running_or_notify_cancel()  # a thread cannot be cancelled, so neither can its future

    def run() -> None:
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=getattr(function, "__name__", "thread"), daemon=True).start()
    return future
