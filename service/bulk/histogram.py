"""Histograms as SVG coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bar", "Histogram", "Tick", "histogram"]

WIDTH, HEIGHT = 560.0, 150.0
NUM_BINS = 40
GAP = 2.0


@dataclass(frozen=True)
class Bar:
    """A bar: its rectangle, and the text that a pointer shows."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True)
class Tick:
    """A label of an axis, and its place along it."""

    place: float
    label: str


@dataclass(frozen=True)
class Histogram:
    """A histogram.

    Args:
        title: What is counted.
        note: A sentence that says how to read it.
        bars: Bars, left to right.
        x_ticks, y_ticks: Labels of the axes.
        level: Height of a horizontal line of reference, if there is one.
    """

    title: str
    note: str
    bars: Sequence[Bar]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    level: float | None
    width: float = WIDTH
    height: float = HEIGHT


def histogram(
    values: NDArray[np.floating],
    *,
    title: str,
    note: str,
    bounds: tuple[float, float] | None = None,
    bins: int = NUM_BINS,
    expected: float | None = None,
) -> Histogram:
    """A histogram of at least one value.

    Args:
        values: Shape (N,).
        title: What is counted.
        note: How to read it.
        bounds: Range of the horizontal axis; that of the values for None.
        bins: Number of bars.
        expected: Count per bar at which a line is drawn.
    """
    counts, edges = np.histogram(values, bins=bins, range=bounds or _padded(values))
    top = max(float(counts.max()), expected or 0.0)
    y_values = [value for value in _steps(0.0, top, 3) if value == int(value)]
    step = WIDTH / bins
    bars = [
        Bar(
            x=index * step + GAP / 2,
            y=HEIGHT - HEIGHT * count / top,
            width=step - GAP,
            height=HEIGHT * count / top,
            text=f"{left:.4g} to {right:.4g}: {count:,} {'image' if count == 1 else 'images'}",
        )
        for index, (count, left, right) in enumerate(zip(counts.tolist(), edges[:-1], edges[1:], strict=True))
        if count
    ]
    low, high = float(edges[0]), float(edges[-1])
    return Histogram(
        title=title,
        note=note,
        bars=bars,
        x_ticks=[Tick(WIDTH * (value - low) / (high - low), f"{value:g}") for value in _steps(low, high, 4)],
        y_ticks=[Tick(HEIGHT - HEIGHT * value / top, f"{value:,.0f}") for value in y_values],
        level=None if expected is None else HEIGHT - HEIGHT * expected / top,
    )


def _padded(values: NDArray[np.floating]) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _steps(low: float, high: float, least: int) -> list[float]:
    """Round numbers between two bounds, with at least `least` steps."""
    raw = (high - low) / least
    magnitude = 10.0 ** np.floor(np.log10(raw))
    step = max(float(factor * magnitude) for factor in (1, 2, 5) if factor * magnitude <= raw * (1 + 1e-9))
    first, last = int(np.ceil(low / step - 1e-9)), int(np.floor(high / step + 1e-9))
    return [round(index * step, 10) for index in range(first, last + 1)]
