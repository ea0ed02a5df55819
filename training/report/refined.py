"""Columns of the tables for refined log-likelihoods, which stand beside the plain ones of the paper's protocol."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from training.report.results import Result, number
from vampprior.card import Card

__all__ = ["NONE", "REFINED_COLUMNS", "refined_columns"]

REFINED_COLUMNS = ("refined", "gain (nats)", "k-hat < 0.7", "refinement")
NONE = "–"
"""Shown in a cell without a number."""


def refined_columns(result: Result) -> tuple[str, ...]:
    """`REFINED_COLUMNS` of a result, with dashes for what its checkpoints were not evaluated for."""
    cards = [card for card in result.cards if _refined(card)]
    refined = Result(result.unit, tuple(replace(card, metrics=_refined(card)) for card in cards), result.num_splits)
    plain = _reliable(cards or result.cards)
    if refined.mean is None:
        return (NONE, NONE, plain if plain == NONE else f"{plain} / {NONE}", NONE)
    counts = [
        f"{_joined(refined.cards, key)} {name}"
        for key, name in (("num_images", "images"), ("refine", "steps"), ("num_samples", "samples"))
    ]
    return str(refined), _gain(refined.cards), f"{plain} / {_reliable(refined.cards)}", ", ".join(counts)


def _refined(card: Card) -> dict[str, Any]:
    """The refined metrics on a card; empty if there are none."""
    metrics = card.metrics.get("refined")
    return dict(metrics) if isinstance(metrics, Mapping) else {}


def _gain(cards: Sequence[Card]) -> str:
    """Gain over the plain estimate of the same images with its standard error; a mean over the splits."""
    gains = _known(cards, "gain_over_plain")
    errors = _known(cards, "gain_over_plain_standard_error")
    if not gains:
        return NONE
    text = f"{statistics.fmean(gains):+.2f}"
    if len(errors) != len(gains):
        return text
    return f"{text} ± {math.sqrt(sum(error * error for error in errors)) / len(errors):.2f}"


def _reliable(cards: Sequence[Card]) -> str:
    """Share of the images whose k-hat is below 0.7; a mean over the splits."""
    shares = _known(cards, "reliable_share")
    return f"{statistics.fmean(shares):.0%}" if shares else NONE


def _joined(cards: Sequence[Card], key: str) -> str:
    """The values of all cards, each once."""
    return " or ".join(dict.fromkeys(f"{value:,.0f}" for value in _known(cards, key))) or "?"


def _known(cards: Sequence[Card], key: str) -> list[float]:
    return [value for card in cards if (value := number(card.metrics, key)) is not None]
