from __future__ import annotations

from pathlib import Path

import pytest

from training.checkpoints import find_checkpoint, list_checkpoints, new_checkpoint
from training.recipe import RecipeError
from vampprior.card import CheckpointError


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for place in ("a/1", "a/9", "a/10", "b/1.2"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "card.json").touch()
    (tmp_path / "a" / "11").mkdir()  # no card: not a checkpoint yet
    return tmp_path


def test_versions_are_in_the_order_of_their_numbers(store: Path) -> None:
    assert list_checkpoints(store) == [store / "a/1", store / "a/9", store / "a/10", store / "b/1.2"]


def test_a_checkpoint_is_found_by_name_version_and_path(store: Path) -> None:
    assert find_checkpoint("a", store) == store / "a" / "10"
    assert find_checkpoint("a@9", store) == store / "a" / "9"
    assert find_checkpoint(str(store / "b" / "1.2"), Path("nowhere")) == store / "b" / "1.2"


@pytest.mark.parametrize("reference", ["c", "a@2", "a@11", "", "@1", "a/11"])
def test_a_missing_one_is_answered_with_those_there_are(reference: str, store: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there are: a@1, a@9, a@10, b@1\.2"):
        find_checkpoint(reference, store)


@pytest.mark.parametrize("version", ["", "../1", "1 2", "V1"])
def test_a_version_that_no_checkpoint_can_have_is_refused(version: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="must be lower-case letters"):
        new_checkpoint(tmp_path, "a", version)
