"""Scores of each test image beside a card: written with its hash, read back, and the source of percentiles."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vampprior.card import CARD_FILE, SCORES_FILE, Card, CardError, Scores, read_card, write_card
from vampprior.config import ModelConfig

VALUES = np.array([-80.0, -100.0, -90.0, -90.0], np.float32)
SCORES = Scores(VALUES, np.array([0.1, 0.9, np.inf, 0.5], np.float32), np.array([99.0, 1.0, 1.5, 40.0], np.float32))
CARD = Card("digits", "1", ModelConfig(), scores=SCORES)


def test_scores_come_back_with_the_card(tmp_path: Path) -> None:
    written = write_card(tmp_path, CARD)
    card = read_card(tmp_path)
    assert card == written
    assert len(card.scores_sha256) == 64
    assert card.scores is not None
    for one, other in zip(card.scores, SCORES, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == np.float32


def test_ten_thousand_scores_take_forty_kilobytes_each(tmp_path: Path) -> None:
    columns = np.zeros((3, 10_000), np.float32)
    write_card(tmp_path, replace(CARD, scores=Scores(*columns)))
    assert (tmp_path / SCORES_FILE).stat().st_size < 3 * 40_000 + 1000


def test_a_percentile_counts_the_images_that_score_lower() -> None:
    found = [CARD.percentile(value) for value in (-math.inf, -100.0, -90.0, -89.0, -80.0, 0.0)]
    assert found == [0.0, 0.0, 25.0, 75.0, 75.0, 100.0]


def test_quantiles_of_scores_make_a_card_of_the_former_kind() -> None:
    quantiles = CARD.quantiles(5)
    assert quantiles["probabilities"] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert (quantiles["values"][0], quantiles["values"][-1]) == (-100.0, -80.0)
    former = replace(CARD, scores=None, log_likelihood_quantiles=CARD.quantiles())
    assert former.percentile(-95.0) == pytest.approx(CARD.percentile(-95.0), abs=10.0)
    assert former.quantiles() == former.log_likelihood_quantiles
    assert Card("digits", "1", ModelConfig()).quantiles() == {}


def test_a_card_alone_is_read_without_scores(tmp_path: Path) -> None:
    write_card(tmp_path, CARD)
    (tmp_path / SCORES_FILE).unlink()
    card = read_card(tmp_path)
    assert card.scores is None
    assert card.percentile(-90.0) is None


def test_scores_of_another_card_are_refused(tmp_path: Path) -> None:
    write_card(tmp_path, CARD)
    text = (tmp_path / CARD_FILE).read_text()
    write_card(tmp_path, replace(CARD, scores=SCORES._replace(log_likelihood=VALUES + 1)))
    (tmp_path / CARD_FILE).write_text(text)
    with pytest.raises(CardError, match="another checkpoint's"):
        read_card(tmp_path)


@pytest.mark.parametrize("column", [np.array([1.0, np.nan, 1.0, 1.0], np.float32), np.zeros(3, np.float32)])
def test_scores_that_are_none_are_refused(tmp_path: Path, column: np.ndarray) -> None:
    write_card(tmp_path, replace(CARD, scores=SCORES._replace(log_likelihood=column)))
    with pytest.raises(CardError, match="columns of one length with finite log-likelihoods"):
        read_card(tmp_path)


def test_a_card_that_json_cannot_hold_leaves_the_old_scores(tmp_path: Path) -> None:
    write_card(tmp_path, CARD)
    other = replace(CARD, metrics={"elbo": math.nan}, scores=SCORES._replace(log_likelihood=VALUES + 1))
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_card(tmp_path, other)
    assert read_card(tmp_path).percentile(-80.0) == 75.0
