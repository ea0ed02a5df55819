"""Contestants in turn, round after round, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["AtLeast", "AtMost", "Claim", "Series", "ratio", "seconds_of", "take_turns"]


@dataclass(frozen=True)
class Series:
    """One contestant's measurements, one a round."""

    name: str
    unit: str
    values: list[float]

    @property
    def median(self) -> float:
        """What stands for all rounds."""
        return statistics.median(self.values)

    def __str__(self) -> str:
        spread = f" ({min(self.values):.4g} to {max(self.values):.4g})" if len(self.values) > 1 else ""
        return f"{self.median:.4g}{spread}"


@dataclass(frozen=True)
class AtLeast:
    """A target that a value must reach."""

    limit: float

    def met(self, value: float) -> bool:
        """Whether the value will do."""
        return value >= self.limit

    def __str__(self) -> str:
        return f"at least {self.limit:g}"


@dataclass(frozen=True)
class AtMost:
    """A target that a value must not pass."""

    limit: float

    def met(self, value: float) -> bool:
        """Whether the value will do."""
        return value <= self.limit

    def __str__(self) -> str:
        return f"at most {self.limit:g}"


@dataclass(frozen=True)
class Claim:
    """A value and what it should be; the median of its rounds counts."""

    value: Series
    target: AtLeast | AtMost

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.target.met(self.value.median)


def ratio(name: str, above: Series, below: Series) -> Series:
    """One series over another, round by round."""
    return Series(name, "times", [a / b for a, b in zip(above.values, below.values, strict=True)])


def take_turns(contestants: Mapping[str, Callable[[], float]], *, rounds: int, unit: str) -> dict[str, Series]:
    """Ask each contestant for one measurement a round, after a first one that does not count."""
    for measure in contestants.values():
        measure()
    values: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, measure in contestants.items():
            values[name].append(measure())
    return {name: Series(name, unit, taken) for name, taken in values.items()}


def seconds_of(call: Callable[[], object]) -> Callable[[], float]:
    """A measurement: how long the call takes."""

    def measure() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return measure
