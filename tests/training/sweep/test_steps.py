from __future__ import annotations

from typing import Any

import pytest

from training.recipe import RecipeError
from training.sweep.steps import EVALUATE, TRAIN, Step, steps_left
from vampprior.card import Card
from vampprior.config import ModelConfig

SCORED = {"log_likelihood": -85.0}


@pytest.mark.parametrize(
    ("finished", "metrics", "resumable", "steps"),
    [
        (True, SCORED, True, ()),
        (True, SCORED, False, ()),
        (True, {}, False, (EVALUATE,)),
        (False, {}, True, (TRAIN, EVALUATE)),
        (False, SCORED, True, (TRAIN, EVALUATE)),
    ],
)
def test_what_is_left_to_do(finished: bool, metrics: dict[str, Any], resumable: bool, steps: tuple[Step, ...]) -> None:
    card = Card("tiny", "1", ModelConfig(), training={"finished": finished}, metrics=metrics)
    assert steps_left(card, resumable=resumable) == steps


@pytest.mark.parametrize("resumable", [True, False])
def test_without_a_checkpoint_all_is_left_to_do(resumable: bool) -> None:
    assert steps_left(None, resumable=resumable) == (TRAIN, EVALUATE)


@pytest.mark.parametrize("metrics", [{}, SCORED])
def test_a_checkpoint_that_cannot_go_on_is_not_thrown_away(metrics: dict[str, Any]) -> None:
    card = Card("tiny", "2", ModelConfig(), training={"finished": False}, metrics=metrics)
    with pytest.raises(RecipeError, match="tiny@2 was stopped early, and there is no run to go on with; remove it"):
        steps_left(card, resumable=False)
