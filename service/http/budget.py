"""A bound on what all requests of the process hold together."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from service.errors import Overloaded

__all__ = ["Budget"]


class Budget:
    """An amount that the requests of one process share. Safe to use from any thread.

    limit:   the most that may be in use at once
    refusal: what a client is told when it is used up
    """

    def __init__(self, limit: int, refusal: str) -> None:
        self.limit, self.refusal = limit, refusal
        self.used = 0
        self._lock = threading.Lock()

    def take(self, amount: int) -> None:
        """Reserve `amount`. Raises `Overloaded` if that would pass the limit."""
        with self._lock:
            if self.used + amount > self.limit:
                raise Overloaded(self.refusal)
            self.used += amount

    def give_back(self, amount: int) -> None:
        """Release what `take` reserved."""
        with self._lock:
            self.used -= amount

    @contextlib.contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        """Reserve `amount` for the duration of a `with` block. Raises `Overloaded`."""
        self.take(amount)
        try:
            yield
        finally:
            self.give_back(amount)
