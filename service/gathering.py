"""Requests that come together are computed together: an event loop's jobs go out once it has read what had arrived."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Gatherer"]

Item = TypeVar("Item")

MAX_TURNS = 64
"""Of the loop, after which items go out though others keep coming."""


class Gatherer(Generic[Item]):
    """Collects items handed in on an event loop, and passes them on after the first turn that brings no new one.

    There is no timer: on an idle loop that takes two turns, some microseconds. A busy one first reads the requests that
    have arrived already, so that a computing thread gets them in one piece, and does not fight the loop for Python's
    lock with many small ones.
    """

    def __init__(self, pass_on: Callable[[list[Item]], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._pass_on = pass_on
        self._items: list[Item] = []
        self._seen = self._turns = 0

    def add(self, item: Item) -> None:
        """Hand in an item; on the loop."""
        if not self._items:
            self._seen = self._turns = 0
            self._loop.call_soon(self._turn)
        self._items.append(item)

    def _turn(self) -> None:
        self._turns += 1
        if len(self._items) > self._seen and self._turns < MAX_TURNS:
            self._seen = len(self._items)
            self._loop.call_soon(self._turn)
            return
        items, self._items = self._items, []
        self._pass_on(items)
