"""Every model, with every prior and with every likelihood, learns real digits; its checkpoint has the same numbers."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from training.data import Dataset, load_dataset
from training.recipe import Recipe
from training.trainer import Trainer
from vampprior import LIKELIHOODS, MODELS, PRIORS
from vampprior.card import Card
from vampprior.checkpoint import load_checkpoint, save_checkpoint

CPU = torch.device("cpu")
KINDS = [
    *product(MODELS, PRIORS, ["bernoulli"]),
    *product(MODELS, ["vampprior"], sorted({*LIKELIHOODS} - {"bernoulli"})),
]


@pytest.fixture(scope="module")
def few_digits() -> dict[bool, Dataset]:
    """Some of scikit-learn's digits, by whether they are binary: black and white, or in gray levels."""
    digits = load_dataset("digits")
    gray = (load_digits().images[:, None] * (255 / 16)).astype(np.uint8)
    return {
        True: Dataset("digits", digits.train[:160], digits.valid[:40], digits.test[:8], levels=1),
        False: Dataset("gray digits", gray[:160], gray[200:240], gray[300:308], levels=255),
    }


@pytest.mark.parametrize(("model", "prior", "likelihood"), KINDS)
def test_training_raises_the_bound_and_the_checkpoint_keeps_it(
    few_digits: dict[bool, Dataset], tmp_path: Path, model: str, prior: str, likelihood: str
) -> None:
    table = {"model": model, "prior": prior, "likelihood": likelihood, "num_components": 4}
    sizes = {"z1_dim": 3, "z2_dim": 3, "hidden_dim": 16}
    settings = {"learning_rate": 2e-3, "batch_size": 40, "warmup_epochs": 0, "max_epochs": 3}
    recipe = Recipe.from_dict({"name": "tiny", "dataset": "digits", "model": table | sizes, "training": settings})
    trainer = Trainer(recipe, few_digits[LIKELIHOODS[likelihood].binary], tmp_path / "run", CPU)
    untrained = trainer.best_model()
    while not trainer.finished:
        trainer.run_epoch()
    save_checkpoint(tmp_path / "checkpoint", trainer.best_model(), Card("tiny", "1", trainer.config))
    trained, _ = load_checkpoint(tmp_path / "checkpoint")

    x = trained.likelihood.from_bytes(trainer.valid_images)
    noise = torch.randn(len(x), trained.noise_dim, generator=torch.Generator().manual_seed(0))
    before, after, kept = (
        m.elbo(x, noise=noise).value.mean().item() for m in (untrained, trained, trainer.best_model())
    )
    assert after > before + 1.0
    assert after == kept
