"""Where pseudo-inputs start: at noise, near training images, or for a prior of data at training images themselves."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from training.data.dataset import Dataset
from training.pseudo_inputs import look_like_noise, roughness
from training.recipe import Recipe, RecipeError
from training.trainer import Trainer
from vampprior import ModelConfig, build_model

IMAGES = (np.random.default_rng(0).random((60, 1, 4, 4)) < 0.5).astype(np.uint8)
DATASET = Dataset("random", IMAGES[:40], IMAGES[40:50], IMAGES[50:], levels=1)


def pseudo_inputs(tmp_path: Path, prior: str, components: int = 30, **start: object) -> torch.Tensor | None:
    recipe = Recipe.from_dict({"name": "tiny", "dataset": "random", "pseudo_inputs": start})
    config = ModelConfig(prior=prior, z1_dim=2, z2_dim=2, hidden_dim=3, num_components=components)
    trainer = Trainer(replace(recipe, model=config), DATASET, tmp_path, torch.device("cpu"))
    found = trainer.model.prior.pseudo_inputs
    return None if found is None else found.detach()


def distance_to_training_images(images: torch.Tensor) -> torch.Tensor:
    train = torch.from_numpy(DATASET.train).float().flatten(1)
    return torch.cdist(images.flatten(1), train).amin(1)


@pytest.mark.parametrize("prior", ["vampprior", "weighted_vampprior"])
def test_noise_has_the_recipes_mean_and_standard_deviation(tmp_path, prior):
    images = pseudo_inputs(tmp_path, prior, mean=0.4, std=0.05)
    # 30 x 16 values: five standard errors of the mean and of the standard deviation
    assert images.mean().item() == pytest.approx(0.4, abs=5 * 0.05 / 480**0.5)
    assert images.std().item() == pytest.approx(0.05, abs=5 * 0.05 / 960**0.5)


def test_images_gives_distinct_training_images_near_which_they_start(tmp_path):
    images = pseudo_inputs(tmp_path, "vampprior", start="images", std=0.01)
    distances = distance_to_training_images(images)
    assert (distances > 0).all()
    assert (distances < 0.1).all()  # 16 pixels of noise 0.01: 0.04 on average


def test_a_prior_of_data_keeps_training_images_as_they_are(tmp_path):
    images = pseudo_inputs(tmp_path, "vampprior_data", std=0.1)
    assert (distance_to_training_images(images) == 0).all()


@pytest.mark.parametrize("prior", ["standard", "mog"])
def test_other_priors_have_none(tmp_path, prior):
    assert pseudo_inputs(tmp_path, prior) is None


def test_more_components_than_training_images_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="41 pseudo-inputs need as many training images; there are 40"):
        pseudo_inputs(tmp_path, "vampprior_data", components=41)


def test_kmeans_gives_distinct_training_images_that_are_far_apart(tmp_path):
    clusters = np.repeat(np.eye(4, dtype=np.uint8), 10, axis=0)  # ten images each of four kinds
    images = np.repeat(clusters, 4, axis=1).reshape(40, 1, 4, 4)
    images[::10, 0, 3, 3] ^= 1
    dataset = Dataset("clusters", images, images, images, levels=1)
    recipe = Recipe.from_dict({"name": "t", "dataset": "random", "pseudo_inputs": {"start": "kmeans", "std": 0.0}})
    config = ModelConfig(z1_dim=2, z2_dim=2, hidden_dim=3, num_components=4)
    trainers = [Trainer(replace(recipe, model=config), dataset, tmp_path, torch.device("cpu")) for _ in range(2)]
    first, second = (trainer.model.prior.pseudo_inputs.detach() for trainer in trainers)
    assert torch.equal(first, second)
    kinds = first.reshape(4, 4, 4)[:, :, 0].argmax(1)
    assert sorted(kinds.tolist()) == [0, 1, 2, 3]


def smooth_images(n: int) -> torch.Tensor:
    """Black squares on white, 16x16."""
    images = torch.ones(n, 1, 16, 16)
    for index in range(n):
        row, column = divmod(index % 64, 8)
        images[index, :, row : row + 8, column : column + 8] = 0
    return images


@pytest.mark.parametrize("scale", [0.01, 0.3])
def test_white_noise_of_any_strength_has_the_same_roughness(scale):
    noise = 0.5 + scale * torch.randn(200, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert roughness(noise) == pytest.approx(2 / math.pi**0.5, rel=0.02)
    assert roughness(smooth_images(10)) < 0.5


@pytest.mark.parametrize(("prior", "noisy"), [("vampprior", True), ("vampprior_data", False), ("standard", False)])
def test_learned_pseudo_inputs_of_noise_look_like_noise(prior, noisy):
    torch.manual_seed(0)
    model = build_model(ModelConfig(prior=prior, image_shape=(1, 16, 16), num_components=10)).eval()
    model.prior.init_pseudo_inputs(0.5 + 0.1 * torch.randn(10, 1, 16, 16))
    assert look_like_noise(model, smooth_images(64)) is noisy


def test_pseudo_inputs_like_training_images_do_not_look_like_noise():
    model = build_model(ModelConfig(image_shape=(1, 16, 16), num_components=10)).eval()
    model.prior.init_pseudo_inputs(smooth_images(10))
    assert not look_like_noise(model, smooth_images(64))
