"""How a contestant answered its loads."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.load import Answers
from benchmarks.measure import Series

__all__ = ["Loads"]


@dataclass(frozen=True)
class Loads:
    """A contestant's loads, one per round."""

    name: str
    answers: list[Answers] = field(default_factory=list)

    @property
    def series(self) -> list[Series]:
        """Throughput and both latencies."""
        return [self.throughput, self.p50, self.p99]

    @property
    def throughput(self) -> Series:
        """Requests answered per second."""
        return Series(f"{self.name}, throughput", "requests/s", [one.per_second for one in self.answers])

    @property
    def p50(self) -> Series:
        """Median latency."""
        return Series(f"{self.name}, p50", "ms", [1e3 * one.p50 for one in self.answers])

    @property
    def p99(self) -> Series:
        """Latency that one request in a hundred exceeds."""
        return Series(f"{self.name}, p99", "ms", [1e3 * one.p99 for one in self.answers])
