"""Charts of the test metrics on cards, as in Figures 2, 3 and 7 of the paper."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter
from numpy.typing import NDArray

from training.plots import TRAIN, VALID, clean
from training.report.results import Cards, active_units, dataset_name, newest, number, reference
from vampprior.card import Card, CheckpointError
from vampprior.config import ModelConfig

__all__ = ["Comparison", "density", "draw_active_units", "draw_bounds", "draw_densities"]

COLORS = {"MoG": TRAIN, "VampPrior": VALID}
DASHES = (":", "--")
BINS = 50


@dataclass(frozen=True)
class Comparison:
    """Evaluated checkpoints of one model on one data set that differ only in the prior and its K.

    varied:    cards by prior and K, ascending
    constants: cards of the standard prior, which has no K, by prior
    """

    varied: Mapping[str, Mapping[int, Card]]
    constants: Mapping[str, Card]

    @property
    def cards(self) -> list[Card]:
        """All cards."""
        return [*(card for line in self.varied.values() for card in line.values()), *self.constants.values()]

    @classmethod
    def of(cls, cards: Cards, dataset: str, model: str, priors: Mapping[str, str]) -> Comparison:
        """Choose among the cards of a store; the newest version of each checkpoint counts.

        priors: priors with a K, and their titles

        Raises `CheckpointError` if no prior was evaluated with two values of K, or if the networks differ otherwise.
        """
        found: dict[tuple[str, int | None], list[Card]] = {}
        for card in cards.cards:
            if (dataset_name(card), card.model.model) == (dataset, model) and (place := _place(card.model, priors)):
                found.setdefault(place, []).append(card)
        chosen = {
            place: card
            for place, equals in found.items()
            if number((card := newest(equals)).metrics, "elbo") is not None
        }
        varied: dict[str, dict[int, Card]] = {}
        for title, num_components in sorted((title, k) for title, k in chosen if k is not None):
            varied.setdefault(title, {})[num_components] = chosen[title, num_components]
        if not any(len(line) > 1 for line in varied.values()):
            there = ", ".join(title if k is None else f"{title} with {k}" for title, k in chosen) or "none"
            raise CheckpointError(
                f"too few evaluated checkpoints of {model} on {dataset}: the figure needs "
                f"{' or '.join(priors.values())} with at least two numbers of components; there are: {there}"
            )
        _check_alike(list(chosen.values()))
        return cls(varied, {title: card for (title, k), card in chosen.items() if k is None})


def _place(config: ModelConfig, priors: Mapping[str, str]) -> tuple[str, int | None] | None:
    """The title of the prior and its K, if it has one; None if the figure does not show the prior."""
    if config.prior == "standard":
        return "standard Gaussian (SG)", None
    return (priors[config.prior], config.num_components) if config.prior in priors else None


def _check_alike(cards: Sequence[Card]) -> None:
    """Raise `CheckpointError` unless the networks differ only in their priors."""
    for card in cards:
        first = cards[0].model
        if replace(card.model, prior=first.prior, num_components=first.num_components) != first:
            raise CheckpointError(
                f"{reference(cards[0])} and {reference(card)} differ in more than their priors and cannot be compared; "
                "give a --store without one of them"
            )


def draw_bounds(comparison: Comparison, path: Path, *, title: str) -> None:
    """Test ELBO by prior against the number of components (Figure 2)."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    _draw_comparison(axes, comparison, lambda card: number(card.metrics, "elbo"))
    axes.set(xlabel="components", ylabel="test ELBO (nats)", title=title)
    figure.savefig(path, dpi=150, format="png")


def draw_active_units(comparison: Comparison, path: Path, *, title: str) -> None:
    """Active units of every layer against the number of pseudo-inputs (Figure 3)."""
    layers = list(dict.fromkeys(layer for card in comparison.cards for layer in active_units(card)))
    figure = Figure(figsize=(4.8 * len(layers), 3.8), layout="constrained")
    figure.suptitle(title)
    for axes, layer in zip(figure.subplots(1, len(layers), squeeze=False)[0], layers, strict=True):
        _draw_comparison(axes, comparison, _units_of(layer))
        axes.set(xlabel="pseudo-inputs", ylabel=f"active units of {layer}")
        axes.set_ylim(0, 1.06 * axes.get_ylim()[1])
    figure.savefig(path, dpi=150, format="png")


def draw_densities(rows: Sequence[Sequence[Card]], path: Path) -> None:
    """Log-likelihoods of the test images with their means, one row per data set (Figure 7).

    These are histograms, as in the paper. For a card without scores, whose quantiles are all that is known, the density
    between two quantiles is assumed to be constant.
    """
    width = max(len(row) for row in rows)
    figure = Figure(figsize=(3.2 * width + 0.6, 2.6 * len(rows) + 0.4), layout="constrained")
    figure.supxlabel("log-likelihood of a test image (nats)", fontsize=10)
    figure.supylabel("density", fontsize=10)
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
    """Fraction of the test images per nat in each bin, from the scores or, without them, from the quantiles."""
    if card.scores is not None:
        counts, _ = np.histogram(card.scores.log_likelihood, edges)
        return counts / len(card.scores.log_likelihood) / np.diff(edges)
    quantiles = card.quantiles()
    below = np.interp(edges, quantiles["values"], quantiles["probabilities"], left=0.0, right=1.0)
    return np.diff(below) / np.diff(edges)


def _units_of(layer: str) -> Callable[[Card], float | None]:
    return lambda card: active_units(card).get(layer)


def _draw_comparison(axes: Axes, comparison: Comparison, metric: Callable[[Card], float | None]) -> None:
    """Draw a line per prior against K, on a logarithmic axis, and a horizontal line per prior without K."""

    def value(card: Card) -> float:
        return math.nan if (found := metric(card)) is None else found

    for prior, cards in comparison.varied.items():
        values = [value(card) for card in cards.values()]
        axes.plot(list(cards), values, "o-", color=COLORS.get(prior), label=prior, linewidth=1.4)
    for (prior, card), dashes in zip(comparison.constants.items(), DASHES, strict=False):
        axes.axhline(value(card), color="#333333", linestyle=dashes, label=prior, linewidth=1.2)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sorted({k for cards in comparison.varied.values() for k in cards})))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params("x", rotation=60)
    axes.legend(frameon=False)
    clean(axes)
