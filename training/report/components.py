"""Checkpoints that differ in the prior and its number of components K alone, from the cards of a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from training.report.results import Cards, dataset_name, newest, number, reference
from vampprior.card import Card, CheckpointError
from vampprior.config import ModelConfig

__all__ = ["Sweep"]


@dataclass(frozen=True)
class Sweep:
    """Evaluated checkpoints of a model on a data set, by prior and K.

    varied:    prior -> K, ascending -> card
    constants: cards of the prior that has no K to choose, N(0, I)
    """

    varied: Mapping[str, Mapping[int, Card]]
    constants: Mapping[str, Card]

    @property
    def cards(self) -> list[Card]:
        """All of them."""
        return [*(card for line in self.varied.values() for card in line.values()), *self.constants.values()]

    @classmethod
    def of(cls, cards: Cards, dataset: str, model: str, priors: Mapping[str, str]) -> Sweep:
        """Those of a store; of equal ones the newest version counts.

        priors: those whose K is varied, and what to call them

        Raises `CheckpointError` if no prior was evaluated with two K, or if the networks differ in anything else.
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
                f"{' or '.join(priors.values())} with two numbers of components at least; there are: {there}"
            )
        _check_alike(list(chosen.values()))
        return cls(varied, {title: card for (title, k), card in chosen.items() if k is None})


def _place(config: ModelConfig, priors: Mapping[str, str]) -> tuple[str, int | None] | None:
    """What to call the prior, and its K if it is one to vary; None if the figure does not show it."""
    if config.prior == "standard":
        return "standard Gaussian (SG)", None
    return (priors[config.prior], config.num_components) if config.prior in priors else None


def _check_alike(cards: Sequence[Card]) -> None:
    """Raise `CheckpointError` unless the networks differ in their priors alone."""
    for card in cards:
        first = cards[0].model
        if replace(card.model, prior=first.prior, num_components=first.num_components) != first:
            raise CheckpointError(
                f"{reference(cards[0])} and {reference(card)} differ in more than their priors and do not compare; "
                "give a --store without one of them"
            )
