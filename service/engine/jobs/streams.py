"""Random numbers from a request's seed: the same on any machine, and whatever a computation is batched with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "COMPONENTS",
    "IMPORTANCE",
    "LATENTS",
    "NOVELTY",
    "PIXELS",
    "REFINEMENT",
    "normal_rows",
    "stream",
    "uniform_rows",
]

LATENTS, PIXELS, COMPONENTS, IMPORTANCE, REFINEMENT, NOVELTY = range(6)
"""What the numbers of a seed are for."""

Array = NDArray[np.float32]


class Streams:
    """Random numbers of a seed, for one purpose and one unit of it (Philox; Salmon et al., 2011).

    There is one generator, since making one takes as long as to draw all numbers of an image; it gives the numbers of
    the latest call.
    """

    def __init__(self) -> None:
        self._bits = np.random.Philox(key=0)
        self._generator = np.random.Generator(self._bits)
        self._start = self._bits.state

    def __call__(self, seed: int, purpose: int, unit: int = 0) -> np.random.Generator:
        """The generator, at the start of a stream."""
        self._start["state"]["key"][:] = seed, unit << 8 | purpose
        self._bits.state = self._start
        return self._generator


stream = Streams()


def normal_rows(seed: int, start: int, count: int, dim: int) -> Array:
    """Standard-normal rows `start` to `start + count` of a seed, (count, dim)."""
    return stream(seed, LATENTS).standard_normal((start + count, dim), dtype=np.float32)[start:]


def uniform_rows(seed: int, start: int, count: int, dim: int) -> Array:
    """Uniform rows `start` to `start + count` of a seed, which draw pixels, (count, dim)."""
    return stream(seed, PIXELS).random((start + count, dim), dtype=np.float32)[start:]
