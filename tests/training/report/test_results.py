"""What is committed of our results is what the checkpoints' cards say."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.report.results import Cards
from training.report.table import markdown, sections

ROOT = Path(__file__).parents[3]
CARDS = ROOT / "docs" / "cards"


@pytest.mark.parametrize("card", sorted((ROOT / "model_store").glob("*/*/card.json")), ids=lambda card: card.parts[-3])
def test_every_shipped_checkpoint_has_its_card_among_the_results(card: Path) -> None:
    assert (CARDS / card.relative_to(ROOT / "model_store")).read_bytes() == card.read_bytes()


def test_the_results_page_is_made_of_the_cards() -> None:
    page = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    command = "python -m training table --markdown --store docs/cards --output RESULTS.md"
    assert page == markdown(sections(Cards.read(CARDS)), command)
