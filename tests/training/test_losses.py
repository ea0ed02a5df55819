"""The phases of training: what the model is shown, and which parameters learn from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from training import losses
from training.data import Dataset
from training.losses import Sleep
from training.recipe import Optimization, Recipe, RecipeError
from training.trainer import Trainer
from vampprior import LIKELIHOODS, MODELS, PRIORS, LatentModel, ModelConfig, build_model, log_likelihood
from vampprior.distributions import Mixture
from vampprior.priors import Encoder, Prior

CPU, ONE = torch.device("cpu"), torch.tensor(1.0)
ASLEEP = Optimization(phase="sleep", learning_rate=2e-3, batch_size=40, warmup_epochs=0, max_epochs=4)


def model_of(kind: str = "hvae", prior: str = "vampprior", likelihood: str = "bernoulli") -> LatentModel:
    torch.manual_seed(0)
    config = ModelConfig(
        kind, prior, likelihood, image_shape=(1, 8, 8), z1_dim=3, z2_dim=3, hidden_dim=16, num_components=4
    )
    return build_model(config)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


@pytest.fixture
def binary_digits(digits: Dataset) -> Dataset:
    return replace(digits, train=digits.train[:400], valid=digits.valid[:40])


def trainer_of(start: LatentModel, digits: Dataset, folder: Path, settings: Optimization = ASLEEP) -> Trainer:
    recipe = Recipe("tiny", digits.name, init_checkpoint="tiny@1", model=start.config, training=settings)
    model = build_model(start.config)
    model.load_state_dict(start.state_dict())
    return Trainer(recipe, digits, folder, CPU, model)


@pytest.mark.parametrize(("kind", "prior", "likelihood"), [*product(MODELS, PRIORS, LIKELIHOODS)])
def test_nothing_but_the_posterior_and_pseudo_inputs_learns(kind: str, prior: str, likelihood: str) -> None:
    model = model_of(kind, prior, likelihood)
    phase = Sleep(model_of(kind, prior, likelihood))
    phase.freeze(model)
    x, latents = phase.batch(torch.arange(6), generator())
    assert x.shape == (6, 1, 8, 8)
    assert [z.shape for z in latents] == [(6, 3)] * len(model.latent_dims)
    phase.bound(model, (x, latents), ONE).value.mean().backward()
    learns = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    posterior = {name for name, _ in model.named_parameters() if name.startswith("q_")}
    inputs = {"prior.free_inputs"} if model.prior.learns_pseudo_inputs else set()
    assert learns == posterior | inputs
    assert all(parameter.grad is None for parameter in phase.init_model.parameters())


class ScaledPseudoInputs(Prior):
    """A mixture of posteriors at pseudo-inputs that are products of trained images and trained scales."""

    learns_pseudo_inputs = True

    def __init__(self, config: ModelConfig, latent_dim: int) -> None:
        super().__init__(config, latent_dim)
        self.images = nn.Parameter(torch.rand(config.num_components, *config.image_shape))
        self.scales = nn.Parameter(torch.ones(config.num_components, 1, 1, 1))
        self.logits = nn.Parameter(torch.zeros(config.num_components))

    @property
    def pseudo_inputs(self) -> torch.Tensor:
        return self.images * self.scales

    def pseudo_input_parameters(self) -> Iterator[nn.Parameter]:
        yield from (self.images, self.scales)

    def mixture(self, encoder: Encoder) -> Mixture:
        mean, log_var = encoder(self.pseudo_inputs)
        return Mixture(mean, log_var, self.logits.log_softmax(0))


def test_pseudo_inputs_of_any_prior_learn_in_the_sleep_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRIORS, "scaled", ScaledPseudoInputs)
    model, phase = model_of(prior="scaled"), Sleep(model_of(prior="scaled"))
    phase.freeze(model)
    phase.bound(model, phase.batch(torch.arange(6), generator()), ONE).value.mean().backward()
    learned = {name for name, parameter in model.prior.named_parameters() if parameter.grad is not None}
    assert learned == {"images", "scales"}


def test_the_kl_of_the_prior_is_not_rounded_to_bfloat16() -> None:
    phase = Sleep(model_of())
    with torch.autocast("cpu", torch.bfloat16):
        bound = phase.bound(phase.init_model, phase.batch(torch.arange(6), generator()), ONE)
    assert torch.equal(bound.value, -bound.bound)  # the prior did not change, so its KL is exactly 0


@pytest.mark.parametrize("phase", ["wake", "sleep", "wake-sleep"])
def test_a_trainer_without_the_model_of_its_init_checkpoint_is_refused(
    binary_digits: Dataset, tmp_path: Path, phase: str
) -> None:
    settings = msgspec.structs.replace(ASLEEP, phase=phase)
    recipe = Recipe("tiny", "digits", init_checkpoint="tiny@1", model=model_of().config, training=settings)
    with pytest.raises(RecipeError, match="starts from tiny@1, but the trainer got no init_model"):
        Trainer(recipe, binary_digits, tmp_path, CPU)


@pytest.mark.parametrize("kind", MODELS)
def test_the_bound_is_above_the_log_likelihood_as_the_elbo_is_below(kind: str) -> None:
    phase = Sleep(model_of(kind))
    x, latents = phase.batch(torch.arange(100), generator())
    bound = phase.bound(phase.init_model, (x, latents), ONE)
    torch.testing.assert_close(bound.bound, bound.reconstruction - bound.kl)
    torch.testing.assert_close(bound.value, -bound.bound)  # the prior is what it was
    scores = log_likelihood(phase.init_model, x, num_samples=100)
    assert scores.elbo.mean() < scores.value.mean() < bound.bound.mean().item()


def test_images_come_from_every_component_and_the_same_generator_gives_the_same() -> None:
    phase = Sleep(model_of())
    x, (z2, _) = phase.batch(torch.arange(300), generator())
    again, _ = phase.batch(torch.arange(300), generator())
    assert torch.equal(x, again)
    assert x.unique().tolist() == [0.0, 1.0]
    shares = phase.prior.responsibilities(z2).mean(0)
    torch.testing.assert_close(shares, torch.full_like(shares, 0.25), atol=0.1, rtol=0.0)


def test_the_posterior_comes_nearer_and_the_model_stays(binary_digits: Dataset, tmp_path: Path) -> None:
    start = model_of()
    settings = msgspec.structs.replace(ASLEEP, max_epochs=30)
    trainer = trainer_of(start, binary_digits, tmp_path, settings)
    bounds = [trainer.run_epoch().train_elbo for _ in range(settings.max_epochs)]
    assert bounds[-1] < bounds[0] - 0.5
    slept = trainer.model.eval()
    before, after = start.state_dict(), slept.state_dict()
    same = {name for name, tensor in before.items() if torch.equal(tensor, after[name])}
    assert same == {name for name in before if not name.startswith(("q_", "prior.free_inputs"))}

    x, _ = Sleep(model_of()).batch(torch.arange(200), generator())
    old, new = (log_likelihood(model, x, num_samples=1000) for model in (start.eval(), slept))
    assert new.elbo.mean() > old.elbo.mean() + 0.5
    assert new.value.mean() > old.value.mean()
    assert new.effective_sample_size.mean() > old.effective_sample_size.mean()


@pytest.mark.parametrize("phase", ["sleep", "wake-sleep"])
def test_batch_normalization_of_the_decoder_stays(binary_digits: Dataset, tmp_path: Path, phase: str) -> None:
    """A PixelCNN decoder in training mode would change its running statistics, and log p(x | z) with them."""
    start = model_of("pixel_hvae")
    small = replace(binary_digits, train=binary_digits.train[:40], valid=binary_digits.valid[:10])
    trainer = trainer_of(start, small, tmp_path, msgspec.structs.replace(ASLEEP, phase=phase))
    for _ in range(2):
        trainer.run_epoch()
    before = dict(start.named_buffers())
    assert any("running_mean" in name for name in before)
    for model in (trainer.model, trainer.best_model()):
        assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    x, latents = Sleep(start).batch(torch.arange(8), generator())
    assert torch.equal(trainer.model.eval().log_px(x, latents), start.eval().log_px(x, latents))


@pytest.mark.parametrize("phase", ["sleep", "wake-sleep"])
@pytest.mark.parametrize("normalize_gradients", [False, True])
def test_what_a_phase_learns_from(
    binary_digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, normalize_gradients: bool
) -> None:
    """Awake the training images count, and their lower bound is what is shown; asleep they do not."""
    start = model_of()
    settings = msgspec.structs.replace(ASLEEP, phase=phase, normalize_gradients=normalize_gradients)
    trainers = [
        trainer_of(start, replace(binary_digits, train=images), tmp_path / str(index), settings)
        for index, images in enumerate((binary_digits.train, 1 - binary_digits.train))
    ]
    first, second = (trainer.run_epoch() for trainer in trainers)
    weights = [trainer.model.state_dict() for trainer in trainers]
    learnt = {name for name, tensor in weights[0].items() if not torch.equal(tensor, start.state_dict()[name])}
    assert learnt == {name for name in weights[0] if name.startswith(("q_", "prior.free_inputs"))}
    same = all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    assert same == (phase == "sleep")
    assert (first.train_elbo == second.train_elbo) == (phase == "sleep")
    shown = trainers[0].recipe.training.bound_names
    assert shown == ("ELBO" if phase == "wake-sleep" else "upper bound of generated images, validation ELBO")


def test_the_prior_is_held(binary_digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = model_of()
    changes = []
    for weight in (losses.PRIOR_WEIGHT, 0.0):
        monkeypatch.setattr(losses, "PRIOR_WEIGHT", weight)
        trainer = trainer_of(start, binary_digits, tmp_path / str(weight))
        for _ in range(4):
            trainer.run_epoch()
        components = trainer.model.prior_mixture().components
        changes.append(start.prior_mixture().components.kl_divergence(components).mean().item())
    assert 0 < changes[0] < changes[1] / 5


def test_a_resumed_sleep_gives_the_same_numbers(binary_digits: Dataset, tmp_path: Path) -> None:
    start = model_of()
    whole = trainer_of(start, binary_digits, tmp_path / "whole")
    for _ in range(2):
        whole.run_epoch()
    first = trainer_of(start, binary_digits, tmp_path / "parts")
    first.run_epoch()
    first.folder.wait()
    part = trainer_of(start, binary_digits, tmp_path / "parts")
    part.resume()
    part.run_epoch()
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(part.model.state_dict()[name], tensor)


LEVELS = np.array([[0, 51], [204, 255]], np.uint8)
GRAY = np.broadcast_to(LEVELS, (1000, 1, 2, 2)).copy()
BINARY = (GRAY[:10] > 127).astype(np.uint8)
DATASET = Dataset("dynamic", GRAY, BINARY, BINARY, levels=1, dynamic=True)


class Watched(Trainer):
    """Keeps what the model is shown."""

    def _loss(self, batches, kl_weight):
        ((x, _),) = batches
        self.shown = [*getattr(self, "shown", []), x]
        return super()._loss(batches, kl_weight)

    def visit(self) -> torch.Tensor:
        """All images of one epoch, in the order in which they were shown."""
        self.shown = []
        self.run_epoch()
        return torch.cat(self.shown)


@pytest.fixture
def watched(recipe: Recipe, tmp_path: Path) -> Watched:
    recipe = msgspec.structs.replace(recipe, model=replace(recipe.model, prior="vampprior_data"))
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
