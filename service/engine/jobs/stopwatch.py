"""The time of a batch that goes into one part of it."""

from __future__ import annotations

import time

__all__ = ["Stopwatch", "rendering"]


class Stopwatch:
    """Adds up the seconds of its `with` blocks."""

    def __init__(self) -> None:
        self._seconds = self._begin = 0.0

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._seconds += time.perf_counter() - self._begin

    def read(self) -> float:
        """The seconds since the last call, which are counted anew."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


rendering = Stopwatch()
"""Runs while images are made into the body of an answer; a worker has one thread."""
