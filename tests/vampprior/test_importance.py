"""The estimate is the direct formula's whatever the chunks, and k-hat tells where its error can be believed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import genpareto, norm
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vampprior import LatentModel, LogLikelihood, ModelConfig, build_model, log_likelihood
from vampprior.importance import chunk_rows, pareto_k

Noise = Callable[..., Tensor]

quiet = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def of_weights(log_weights: Tensor) -> LogLikelihood:
    """The estimate from log-weights alone."""
    return LogLikelihood.from_samples(log_weights, torch.zeros_like(log_weights))


@quiet
@given(log_weights=st.lists(st.floats(-1e5, 1e5), min_size=2, max_size=30))
def test_the_estimate_is_the_textbooks(log_weights: list[float]) -> None:
    """Sample variance of the weights over S times their squared mean."""
    weights = torch.tensor([log_weights], dtype=torch.float64)
    samples = weights.shape[1]
    log_mean = weights.logsumexp(1) - math.log(samples)
    relative = (weights - log_mean).exp()
    score = of_weights(weights)
    assert score.num_samples == samples
    torch.testing.assert_close(score.value, log_mean)
    torch.testing.assert_close(score.standard_error.square(), relative.var(1) / samples, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(score.effective_sample_size, relative.sum(1).square() / relative.square().sum(1))
    torch.testing.assert_close(score.elbo, weights.mean(1))


@pytest.mark.parametrize("level", [-1e5, -745.0, 700.0, 1e4])
def test_weights_far_from_one_neither_overflow_nor_vanish(level: float, draw_noise: Noise) -> None:
    noise = draw_noise(2, 30)
    near, far = of_weights(noise), of_weights(level + noise)
    torch.testing.assert_close(far.value, near.value + level)
    torch.testing.assert_close(far.standard_error, near.standard_error)
    torch.testing.assert_close(far.pareto_k, near.pareto_k)


def test_an_impossible_sample_counts_as_zero() -> None:
    score = of_weights(torch.tensor([[0.0, 0.0, 0.0, -math.inf, -math.inf, -math.inf]]))
    assert score.value.item() == pytest.approx(math.log(0.5), abs=1e-15)
    assert score.effective_sample_size.item() == pytest.approx(3.0, abs=1e-12)
    assert score.elbo.item() == -math.inf


def test_an_impossible_image_has_no_probability() -> None:
    assert of_weights(torch.full((1, 30), -math.inf)).value.item() == -math.inf


def test_float32_weights_are_summed_in_float64() -> None:
    """A million float32 additions of 0.1 would be off by a per cent."""
    log_weights = torch.full((1, 1_000_000), math.log(0.1), dtype=torch.float32)
    score = of_weights(log_weights)
    assert score.value.dtype == torch.float64
    assert score.value.item() == pytest.approx(float(log_weights[0, 0]), abs=1e-12)
    assert score.elbo.item() == pytest.approx(float(log_weights[0, 0]), abs=1e-12)


def test_equal_weights_have_no_error_no_tail_and_full_sample_size() -> None:
    score = of_weights(torch.full((1, 64), -3.0))
    assert score.value.item() == score.elbo.item() == -3.0
    assert score.standard_error.item() == 0.0
    assert score.effective_sample_size.item() == 64.0
    assert score.pareto_k.item() == 0.0
    assert score.reliability == ["good"]


def test_one_sample_says_nothing_about_its_error() -> None:
    score = of_weights(torch.tensor([[-4.0]]))
    assert score.value.item() == score.elbo.item() == -4.0
    assert score.effective_sample_size.item() == 1.0
    assert math.isnan(score.standard_error.item())
    assert score.reliability == ["low"]


ARVIZ = {
    25: [0.32210502585225353, 0.450154821184838, 0.7338127879256124, 1.74713706643003],
    100: [0.10251615106001827, 0.3681400557995312, 0.9651885908460212, 3.12104754568136],
    5000: [-0.05056967058623321, 0.26037134891187413, 0.9829256779640254, 3.6486307488100365],
}
"""k-hat by `arviz.psislw` 0.21.0 of S log-weights that are the quantiles of N(-90, s^2), for s = 0.1, 1, 3 and 10."""


@pytest.mark.parametrize("num_samples", ARVIZ)
def test_k_hat_is_that_of_arviz(num_samples: int) -> None:
    quantiles = norm.ppf((np.arange(num_samples) + 0.5) / num_samples)
    log_weights = np.array([0.1, 1.0, 3.0, 10.0])[:, None] * quantiles - 90.0
    np.testing.assert_allclose(pareto_k(torch.from_numpy(log_weights)), ARVIZ[num_samples], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("shape", [-0.3, 0.2, 0.7, 1.2])
def test_k_hat_is_the_shape_of_generalized_pareto_weights(shape: float) -> None:
    """The tail above any cutoff has the shape of the whole; scipy draws it, and fits it by maximum likelihood."""
    weights = genpareto.rvs(shape, loc=1.0, size=(8, 20_000), random_state=np.random.default_rng(3))
    found = pareto_k(torch.from_numpy(np.log(weights)))
    # 425 weights are in the tail: a standard error of (1 + k) / sqrt(425)
    error = (1 + shape) / math.sqrt(425)
    assert abs(found.mean().item() - shape) < 4 * error / math.sqrt(8) + 0.02  # the prior's pull is at most 0.02
    tail = np.sort(weights[0])[-425:] - np.sort(weights[0])[-426]
    fitted, _, _ = genpareto.fit(tail, floc=0.0)
    assert found[0].item() == pytest.approx(fitted, abs=0.05)


def test_k_hat_needs_five_weights_in_the_tail() -> None:
    weights = 0.1 * torch.linspace(-1.0, 1.0, 21, dtype=torch.float64).expand(3, 21)
    too_few, enough = of_weights(weights[:, :20]), of_weights(weights)
    assert too_few.pareto_k.tolist() == [math.inf] * 3
    assert too_few.reliability == ["low"] * 3
    assert enough.pareto_k.isfinite().all()
    assert enough.reliability == ["good"] * 3


def test_low_reliability_is_said_where_the_stated_error_is_too_small() -> None:
    """A normal posterior that is too narrow by a factor of two has weights without a variance.

    log p(x) is 0. With the right posterior the error is stated well; with the narrow one the estimates miss log p(x) by
    several of the errors that they state, and k-hat says so.
    """
    noise = torch.randn(200, 2000, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    misses, reliable = {}, {}
    for std in (0.9, 0.4):
        z = std * noise
        log_weights = (-0.5 * z.square() + 0.5 * noise.square() + math.log(std)).sum(-1)
        score = of_weights(log_weights)
        misses[std] = (score.value.square().mean() / score.standard_error.square().mean()).sqrt().item()
        reliable[std] = score.reliability.count("good") / 200
    assert misses[0.9] == pytest.approx(1.0, abs=0.2)
    assert misses[0.4] > 2.0
    assert reliable[0.9] == 1.0
    assert reliable[0.4] < 0.1


def direct(model: LatentModel, images: Tensor, noise: Tensor) -> LogLikelihood:
    """All samples of all images at once."""
    context = tuple(part.unsqueeze(1) for part in model.condition(images))
    return LogLikelihood.from_samples(*model.log_px_and_kl(images.unsqueeze(1), context, noise, model.prior_mixture()))


def assert_same(left: LogLikelihood, right: LogLikelihood) -> None:
    """Equal up to float64 rounding; a standard error is a square root, so its squares are compared."""
    assert left.num_samples == right.num_samples
    for name in ("value", "effective_sample_size", "elbo", "reconstruction", "kl"):
        torch.testing.assert_close(getattr(left, name), getattr(right, name), rtol=1e-10, atol=1e-10)
    squares = left.standard_error.square(), right.standard_error.square()
    torch.testing.assert_close(*squares, rtol=1e-10, atol=1e-10, equal_nan=True)


@pytest.mark.parametrize("rows", [1, 7, 25, 10_000])
def test_the_chunks_do_not_change_the_estimate(
    model: LatentModel, images: Tensor, draw_noise: Noise, rows: int
) -> None:
    noise = draw_noise(len(images), 11, model.noise_dim)
    max_bytes = rows * model.bytes_per_row
    assert_same(
        log_likelihood(model, images, num_samples=11, noise=noise, max_bytes=max_bytes), direct(model, images, noise)
    )


def test_no_more_rows_than_fit_into_memory_pass_at_once(tiny_model: Callable[..., LatentModel]) -> None:
    model, rows = tiny_model(), []
    model.p_x.register_forward_pre_hook(lambda _, latents: rows.append(latents[0].shape[:-1].numel()))
    images = torch.rand(13, 1, 4, 4).double().round()
    for num_samples, most, total in ((3, 4, 39), (2, 4, 26), (9, 4, 117)):
        rows.clear()
        score = log_likelihood(model, images, num_samples=num_samples, max_bytes=4 * model.bytes_per_row)
        assert score.value.shape == (13,)
        assert max(rows) <= most
        assert sum(rows) == total


class Allocations(TorchDispatchMode):
    """Records the bytes of the largest tensor that operations create, and of all such tensors that exist at once."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.most = 0
        self._existing: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        inputs = {storage._cdata for storage in self._storages((args, kwargs))}
        for storage in self._storages(results):
            if storage._cdata not in inputs:  # no view
                reference = StorageWeakRef(storage)
                self._existing[reference.cdata] = reference, storage.nbytes()
                self.largest = max(self.largest, storage.nbytes())
        self._existing = {key: value for key, value in self._existing.items() if not value[0].expired()}
        self.most = max(self.most, sum(size for _, size in self._existing.values()))
        return results

    @staticmethod
    def _storages(values: Any) -> list[torch.UntypedStorage]:
        return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


@pytest.mark.parametrize("name", ["vae", "hvae", "resnet_hvae"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "discretized_logistic", "logistic_mixture"])
@pytest.mark.parametrize(("num_samples", "max_bytes"), [(40_000, 1 << 20), (1500, 1 << 18), (100, 1 << 20)])
def test_memory_is_bounded_however_many_samples_there_are(
    name: str, likelihood: str, num_samples: int, max_bytes: int
) -> None:
    config = ModelConfig(name, "vampprior", likelihood, image_shape=(1, 8, 8), hidden_dim=32, num_components=10)
    model = build_model(config).eval()
    # at least three chunks of rows; few samples need many images for that
    num_images = max(1, 3 * max_bytes // (num_samples * model.bytes_per_row) + 1)
    images = torch.rand(num_images, 1, 8, 8).round()
    mixture = model.prior_mixture()
    with Allocations() as allocations:
        log_likelihood(model, images, num_samples=num_samples, mixture=mixture, max_bytes=max_bytes)
    assert max_bytes / 2 < allocations.largest <= max_bytes
    assert allocations.most <= 7 * max_bytes + 64 * num_samples * len(images)


@pytest.mark.parametrize("num_samples", [512, 700, 1300])
def test_noise_in_blocks_does_not_depend_on_the_memory(num_samples: int) -> None:
    model = build_model(ModelConfig("vae", "standard", image_shape=(1, 3, 3), hidden_dim=4, z1_dim=3)).eval()
    images = torch.rand(2, 1, 3, 3).round()

    def estimate(rows: int) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        max_bytes = rows * model.bytes_per_row
        return log_likelihood(model, images, num_samples=num_samples, generator=generator, max_bytes=max_bytes).value

    whole = estimate(10_000)
    for rows in (100, 511, 513, 1100):
        torch.testing.assert_close(estimate(rows), whole, rtol=1e-6, atol=1e-6)


def test_the_bytes_of_a_row_are_those_of_the_largest_layer_output(model: LatentModel, images: Tensor) -> None:
    sizes = [0]
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            module.register_forward_hook(lambda _, inputs, output: sizes.append(output[0].numel() * output.itemsize))
    model.elbo(images[:1])
    assert max(sizes) <= model.bytes_per_row
    assert model.bytes_per_row <= 2 * max(sizes)
    assert chunk_rows(model, 10 * model.bytes_per_row) == 10
    assert chunk_rows(model, 1) == 1


def test_the_weights_are_those_of_the_bound(model: LatentModel, images: Tensor, draw_noise: Noise) -> None:
    noise = draw_noise(len(images), 5, model.noise_dim)
    score = log_likelihood(model, images, num_samples=5, noise=noise)
    bounds = [model.elbo(images, noise=noise[:, s]) for s in range(5)]
    torch.testing.assert_close(score.elbo, torch.stack([bound.value for bound in bounds]).mean(0).detach())
    torch.testing.assert_close(score.kl, torch.stack([bound.kl for bound in bounds]).mean(0).detach())
    assert torch.equal(score.elbo, score.reconstruction - score.kl)
    torch.testing.assert_close(score.value, model(images, noise).bound.detach())


def test_an_image_scores_the_same_alone_and_in_company(model: LatentModel, images: Tensor, draw_noise: Noise) -> None:
    noise = draw_noise(len(images), 9, model.noise_dim)
    together = log_likelihood(model, images, num_samples=9, noise=noise)
    for i in range(len(images)):
        alone = log_likelihood(model, images[i : i + 1], num_samples=9, noise=noise[i : i + 1])
        torch.testing.assert_close(alone.value[0], together.value[i], rtol=1e-12, atol=1e-12)


def test_the_seed_of_a_generator_gives_the_numbers_whatever_the_chunks(model: LatentModel, images: Tensor) -> None:
    def estimate(seed: int, rows: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return (
            model.log_likelihood(images, num_samples=20, generator=generator).value
            if rows == 0
            else log_likelihood(
                model, images, num_samples=20, generator=generator, max_bytes=rows * model.bytes_per_row
            ).value
        )

    torch.testing.assert_close(estimate(7, 0), estimate(7, 3))
    assert not torch.allclose(estimate(7, 0), estimate(8, 0))


def test_the_estimate_has_no_graph_and_the_model_keeps_its_own(model: LatentModel, images: Tensor) -> None:
    estimate = log_likelihood(model, images, num_samples=3)
    assert not estimate.value.requires_grad
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_no_images_give_an_empty_estimate(model: LatentModel, images: Tensor) -> None:
    estimate = log_likelihood(model, images[:0], num_samples=3)
    assert estimate.value.shape == estimate.standard_error.shape == estimate.pareto_k.shape == (0,)


@pytest.mark.parametrize("wrong", [{"num_samples": 0}, {"num_samples": -1}, {"max_bytes": 0}])
def test_numbers_of_samples_and_bytes_are_positive(model: LatentModel, images: Tensor, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        log_likelihood(model, images, **wrong)
