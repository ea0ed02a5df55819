"""Training images of a dynamic set: binarized afresh at every visit, each pixel with its gray level as probability."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.data.splits import Dataset
from training.recipe import Recipe
from training.trainer import Trainer

LEVELS = np.array([[0, 51], [204, 255]], np.uint8)
GRAY = np.broadcast_to(LEVELS, (1000, 1, 2, 2)).copy()
BINARY = (GRAY[:10] > 127).astype(np.uint8)
DATASET = Dataset("dynamic", GRAY, BINARY, BINARY, levels=1, dynamic=True)


class Watched(Trainer):
    """Keeps what the model is shown."""

    def _plain_loss(self, awake, asleep, kl_weight):
        x, _ = awake
        self.shown = [*getattr(self, "shown", []), x]
        return super()._plain_loss(awake, asleep, kl_weight)

    def visit(self) -> torch.Tensor:
        """All images of one epoch, in the order in which they were shown."""
        self.shown = []
        self.run_epoch()
        return torch.cat(self.shown)


@pytest.fixture
def watched(recipe: Recipe, tmp_path: Path) -> Watched:
    recipe = replace(recipe, model=replace(recipe.model, prior="vampprior_data"))
    return Watched(recipe, DATASET, tmp_path / "run", torch.device("cpu"))


def test_a_pixel_is_one_with_its_level_as_probability(watched: Watched) -> None:
    shown = torch.cat([watched.visit() for _ in range(4)])
    assert shown.shape == (4000, 1, 2, 2)
    assert shown.unique().tolist() == [0.0, 1.0]
    expected = torch.from_numpy(LEVELS / 255.0)
    frequency = shown.double().mean(0)[0]
    # five standard errors of 4,000 draws; black and white pixels never err
    assert ((frequency - expected).abs() <= 5 * (expected * (1 - expected) / 4000).sqrt()).all()


def test_every_visit_differs_and_a_resumed_run_sees_the_same(watched: Watched, recipe: Recipe) -> None:
    first, second = watched.visit(), watched.visit()
    assert (first != second).any()
    again = Watched(watched.recipe, DATASET, watched.folder.path.with_name("again"), torch.device("cpu"))
    assert torch.equal(again.visit(), first)
    assert torch.equal(again.visit(), second)


def test_validation_images_stay_as_they_are(watched: Watched) -> None:
    assert torch.equal(watched.valid_images, torch.from_numpy(BINARY * 255))


def test_training_images_that_become_pseudo_inputs_are_binarized(watched: Watched) -> None:
    pseudo_inputs = watched.model.prior.pseudo_inputs
    assert pseudo_inputs is not None
    assert pseudo_inputs.unique().tolist() == [0.0, 1.0]
    assert (pseudo_inputs[:, 0, 0, 0] == 0).all()
    assert (pseudo_inputs[:, 0, 1, 1] == 1).all()
