"""Charts of the test metrics on checkpoints' cards, as in Figures 2, 3 and 7 of the paper."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter
from numpy.typing import NDArray

from training.plots import TRAIN, VALID, clean
from training.report.components import Sweep
from training.report.results import active_units, number
from vampprior.card import Card

__all__ = ["density", "draw_active_units", "draw_bounds", "draw_densities"]

COLORS = {"MoG": TRAIN, "VampPrior": VALID}
DASHES = (":", "--")
BINS = 50


def draw_bounds(sweep: Sweep, path: Path, *, title: str) -> None:
    """Test ELBO by prior against the number of components (Figure 2)."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    _draw_sweep(axes, sweep, lambda card: number(card.metrics, "elbo"))
    axes.set(xlabel="components", ylabel="test ELBO (nats)", title=title)
    figure.savefig(path, dpi=150, format="png")


def draw_active_units(sweep: Sweep, path: Path, *, title: str) -> None:
    """Active units of every layer against the number of pseudo-inputs (Figure 3)."""
    layers = list(dict.fromkeys(layer for card in sweep.cards for layer in active_units(card)))
    figure = Figure(figsize=(4.8 * len(layers), 3.8), layout="constrained")
    figure.suptitle(title)
    for axes, layer in zip(figure.subplots(1, len(layers), squeeze=False)[0], layers, strict=True):
        _draw_sweep(axes, sweep, _units_of(layer))
        axes.set(xlabel="pseudo-inputs", ylabel=f"active units of {layer}")
        axes.set_ylim(0, 1.06 * axes.get_ylim()[1])
    figure.savefig(path, dpi=150, format="png")


def draw_densities(rows: Sequence[Sequence[Card]], path: Path) -> None:
    """Log-likelihoods of the test images of evaluated checkpoints, with their means, a row a data set (Figure 7).

    The paper counts images; here the density is constant between quantiles, which all cards give.
    """
    width = max(len(row) for row in rows)
    figure = Figure(figsize=(3.2 * width + 0.6, 2.6 * len(rows) + 0.4), layout="constrained")
    figure.supxlabel("log-likelihood of a test image (nats)", fontsize=10)
    figure.supylabel("density, constant between quantiles", fontsize=10)
    grid = figure.subplots(len(rows), width, squeeze=False, sharex="row", sharey="row")
    for line, row in zip(grid, rows, strict=True):
        values = [value for card in row for value in card.quantiles()["values"]]
        edges = np.linspace(min(values), max(values), BINS + 1)
        for axes in line[len(row) :]:
            axes.axis("off")
        for axes, card in zip(line, row, strict=False):
            axes.stairs(density(card, edges), edges, fill=True, color=TRAIN)
            if (mean := number(card.metrics, "log_likelihood")) is not None:
                axes.axvline(mean, color=VALID, linewidth=1.4, label=f"mean {mean:.2f}")
                axes.legend(loc="upper left", frameon=False, fontsize=8)
            axes.set_title(card.name, fontsize=9, wrap=True)
            clean(axes)
    figure.savefig(path, dpi=150, format="png")


def density(card: Card, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the test images per nat in each bin."""
    quantiles = card.quantiles()
    below = np.interp(edges, quantiles["values"], quantiles["probabilities"], left=0.0, right=1.0)
    return np.diff(below) / np.diff(edges)


def _units_of(layer: str) -> Callable[[Card], float | None]:
    return lambda card: active_units(card).get(layer)


def _draw_sweep(axes: Axes, sweep: Sweep, metric: Callable[[Card], float | None]) -> None:
    """A line a prior against K, on a logarithmic axis, and a horizontal one for each prior without K."""

    def value(card: Card) -> float:
        return math.nan if (found := metric(card)) is None else found

    for prior, cards in sweep.varied.items():
        values = [value(card) for card in cards.values()]
        axes.plot(list(cards), values, "o-", color=COLORS.get(prior), label=prior, linewidth=1.4)
    for (prior, card), dashes in zip(sweep.constants.items(), DASHES, strict=False):
        axes.axhline(value(card), color="#333333", linestyle=dashes, label=prior, linewidth=1.2)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sorted({k for cards in sweep.varied.values() for k in cards})))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params("x", rotation=60)
    axes.legend(frameon=False)
    clean(axes)
