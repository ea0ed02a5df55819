"""Results of the checkpoints in a store, read from their cards: the cell of the paper and the numbers of each."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.checkpoints import list_checkpoints
from training.recipe import with_new_names
from training.report.paper import Cell, Unit
from vampprior.card import Card, CheckpointError, read_card
from vampprior.priors import PRIORS

__all__ = [
    "Cards",
    "Result",
    "active_units",
    "beyond_the_paper",
    "dataset_name",
    "newest",
    "number",
    "reference",
    "score",
]

BEYOND = {"weight_decay": "weight decay", "ema_decay": "EMA"}
"""Settings of a recipe that are 0 in the paper, with their names in the tables."""


@dataclass(frozen=True)
class Cards:
    """The cards of a store, by name, older versions first.

    problems: reasons why the other cards cannot be read
    """

    cards: tuple[Card, ...]
    problems: tuple[str, ...] = ()

    @classmethod
    def read(cls, store: Path) -> Cards:
        """All cards of a store; raises `CheckpointError` if there is none."""
        cards, problems = [], []
        for folder in list_checkpoints(store):
            try:
                cards.append(read_card(folder))
            except CheckpointError as error:
                problems.append(str(error))
        if not cards and not problems:
            raise CheckpointError(f"there is no checkpoint in {store}; `python -m training train` makes one")
        return cls(tuple(cards), tuple(problems))

    def from_scratch(self) -> Cards:
        """The cards of training from random weights; the steps of refining a checkpoint may take longer."""
        return Cards(tuple(card for card in self.cards if not _recipe(card).get("init_checkpoint")), self.problems)

    def of_cell(self, cell: Cell) -> Result:
        """The result for a cell of the paper."""
        return self._result(cell, cell.data.names)

    def of_substitute(self, cell: Cell) -> Result:
        """The result for the cell's model on the data set that is the substitute for the cell's."""
        return self._result(cell, () if cell.data.substitute is None else (cell.data.substitute,))

    def _result(self, cell: Cell, names: Sequence[str]) -> Result:
        fitting = [card for card in self.cards if cell.fits(card.model)]
        splits = [[card for card in fitting if dataset_name(card) == name] for name in names]
        return Result(cell.data.unit, tuple(newest(split) for split in splits if split), len(splits))


@dataclass(frozen=True)
class Result:
    """The checkpoints of a cell, one for each split of the data that was run.

    num_splits: number of splits of the data set
    """

    unit: Unit
    cards: tuple[Card, ...]
    num_splits: int = 1

    @property
    def scores(self) -> list[tuple[float, float | None]]:
        """Mean over the test images and its standard error for each evaluated checkpoint."""
        return [found for card in self.cards if (found := score(card, self.unit)) is not None]

    @property
    def mean(self) -> float | None:
        """Mean over the evaluated splits."""
        return statistics.fmean(value for value, _ in self.scores) if self.scores else None

    @property
    def seconds_per_epoch(self) -> float | None:
        """Wall-clock time of training per epoch, as a mean over the splits that were run."""
        times = [_seconds_per_epoch(card) for card in self.cards]
        known = [seconds for seconds in times if seconds is not None]
        return statistics.fmean(known) if known else None

    @property
    def conditions(self) -> set[tuple[str, ...]]:
        """What the wall-clock time depends on besides the model: device, precision, compilation and batch size."""
        return {_conditions(card) for card in self.cards}

    def __str__(self) -> str:
        if self.mean is None:
            return "not evaluated" if self.cards else "not run"
        text = self.unit.show(self.mean, self._spread())
        return text if self.num_splits == 1 else f"{text} ({len(self.scores)} of {self.num_splits} splits)"

    def _spread(self) -> float | None:
        """Standard error over the test images or, with several splits, standard deviation between the splits."""
        if self.num_splits == 1:
            return self.scores[0][1]
        return statistics.stdev(value for value, _ in self.scores) if len(self.scores) > 1 else None


def newest(cards: Sequence[Card]) -> Card:
    """The newest version of the checkpoint whose name comes first, so that variants do not replace it."""
    return next(card for card in reversed(cards) if card.name == cards[0].name)


def score(card: Card, unit: Unit) -> tuple[float, float | None] | None:
    """Mean log-likelihood of the test images and its standard error, if known; None before evaluation."""
    value, error = number(card.metrics, "log_likelihood"), number(card.metrics, "log_likelihood_standard_error")
    if value is None:
        return None
    pixels = card.model.num_pixels
    return unit.from_nats(value, pixels), None if error is None else abs(unit.from_nats(error, pixels))


def number(values: Mapping[str, Any], key: str) -> float | None:
    """A number in the free-form part of a card, which may be written by hand; None if there is none."""
    value = values.get(key)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def active_units(card: Card) -> dict[str, float]:
    """Active units by layer, top layer first; empty before evaluation."""
    units = card.metrics.get("active_units")
    layers = units if isinstance(units, Mapping) else {}
    return {layer: count for layer in layers if (count := number(layers, layer)) is not None}


def dataset_name(card: Card) -> str:
    """The name of the data set on a card; empty if it has none."""
    return str(card.dataset.get("name", ""))


def reference(card: Card) -> str:
    """`name@version`."""
    return f"{card.name}@{card.version}"


def beyond_the_paper(card: Card) -> str:
    """The settings of the training that the paper's training lacks; empty if there are none."""
    known, pseudo_inputs = _settings(card), _settings(card, "pseudo_inputs")
    start, draws = _recipe(card).get("init_checkpoint"), number(known, "importance_samples") or 1
    learns = card.model.prior in PRIORS and PRIORS[card.model.prior].learns_pseudo_inputs
    settings = {
        f"weights of {start}": bool(start),
        f"{draws:.0f}-sample bound": draws > 1,
        f"{known.get('phase')} phase": known.get("phase") in ("sleep", "wake-sleep"),
        "gradients not normalized": known.get("normalize_gradients") is False,
        "annealing": known.get("annealing") is True,
        "last weights": known.get("keep") == "last",
        **{f"{words} {known.get(key)}": bool(number(known, key)) for key, words in BEYOND.items()},
        "bfloat16": known.get("precision") == "bfloat16",
        "pseudo-inputs from images": learns and not start and pseudo_inputs.get("start") in ("images", "kmeans"),
    }
    return ", ".join(words for words, used in settings.items() if used)


def _recipe(card: Card) -> Mapping[str, Any]:
    recipe = card.training.get("recipe")
    return with_new_names(recipe) if isinstance(recipe, Mapping) else {}


def _settings(card: Card, table: str = "training") -> Mapping[str, Any]:
    """A table of the recipe; empty if the card has none."""
    settings = _recipe(card).get(table)
    return settings if isinstance(settings, Mapping) else {}


def _conditions(card: Card) -> tuple[str, ...]:
    known = _settings(card)
    return (str(card.training.get("device")), *(str(known.get(key)) for key in ("precision", "compile", "batch_size")))


def _seconds_per_epoch(card: Card) -> float | None:
    seconds, epochs = number(card.training, "wall_clock_seconds"), number(card.training, "epochs")
    return seconds / epochs if seconds is not None and epochs else None
