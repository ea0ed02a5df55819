"""A file is replaced as a whole, and an error leaves neither a part of it nor a temporary file."""

from __future__ import annotations

from pathlib import Path

import pytest

from vampprior import Card, ModelConfig, build_model, write_card
from vampprior.checkpoint import WeightsError, save_checkpoint
from vampprior.files import atomic_write


def test_a_file_is_replaced_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    for content in ("first", "second"):
        with atomic_write(path) as partial:
            before = path.read_text() if path.exists() else None
            partial.write_text(content)
            assert (path.read_text() if path.exists() else None) == before
        assert path.read_text() == content
    assert list(path.parent.iterdir()) == [path]


def test_an_error_keeps_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write_half() -> None:
        with atomic_write(path) as partial:
            partial.write_text("half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_card_that_cannot_be_written_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "card.json").mkdir()
    with pytest.raises(OSError):  # noqa: PT011
        write_card(tmp_path, Card("digits", "1", ModelConfig()))
    assert [path.name for path in tmp_path.iterdir()] == ["card.json"]


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    model = build_model(ModelConfig("vae", "mog", image_shape=(1, 2, 2), num_components=2))
    model.prior.mean.data[1, 0] = float("nan")
    with pytest.raises(WeightsError, match=r"prior\.mean holds a value that is not finite"):
        save_checkpoint(tmp_path / "folder", model, Card("digits", "1", model.config))
    assert list(tmp_path.iterdir()) == []
