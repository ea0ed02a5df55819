"""The accumulator and the estimator around it: any chunks give one number, and that number is the direct formula's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vampprior import LatentModel, LogLikelihood, log_likelihood
from vampprior.likelihood import RunningLogMeanExp, log_importance_weights, torch_noise

Noise = Callable[..., Tensor]

quiet = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def direct(log_weights: Tensor) -> LogLikelihood:
    """All of it at once, by the textbook: sample variance of the weights over S times their squared mean."""
    samples = log_weights.shape[1]
    log_mean = log_weights.logsumexp(1) - math.log(samples)
    relative = (log_weights - log_mean.unsqueeze(1)).exp()
    return LogLikelihood(
        value=log_mean,
        standard_error=(relative.var(1) / samples).sqrt(),
        effective_sample_size=relative.sum(1).square() / relative.square().sum(1),
        elbo=log_weights.mean(1),
        num_samples=samples,
    )


def accumulate(*chunks: Tensor) -> LogLikelihood:
    running = RunningLogMeanExp(len(chunks[0]))
    for chunk in chunks:
        running.update(chunk)
    return running.result()


def assert_same(left: LogLikelihood, right: LogLikelihood, rtol: float = 1e-10, atol: float = 1e-10) -> None:
    """Equal up to float64 rounding; a standard error is a square root, so its squares are compared."""
    assert left.num_samples == right.num_samples
    for name in ("value", "effective_sample_size", "elbo"):
        torch.testing.assert_close(getattr(left, name), getattr(right, name), rtol=rtol, atol=atol)
    squares = left.standard_error.square(), right.standard_error.square()
    torch.testing.assert_close(*squares, rtol=rtol, atol=atol, equal_nan=True)


class Slices:
    """A noise source that hands out one fixed tensor, piece by piece, and notes how many rows it gave each time."""

    def __init__(self, noise: Tensor) -> None:
        self.noise, self.taken, self.rows = noise, 0, list[int]()

    def __call__(self, count: int) -> Tensor:
        piece = self.noise[:, self.taken : self.taken + count]
        self.taken += count
        self.rows.append(len(self.noise) * count)
        return piece


@quiet
@given(
    log_weights=st.lists(st.floats(-1e5, 1e5), min_size=2, max_size=30),
    cut=st.integers(1, 29),
)
def test_chunks_equal_the_direct_formula(log_weights: list[float], cut: int) -> None:
    whole = torch.tensor([log_weights], dtype=torch.float64)
    chunks = [chunk for chunk in (whole[:, :cut], whole[:, cut:]) if chunk.shape[1]]
    assert_same(accumulate(*chunks), direct(whole))


@pytest.mark.parametrize("levels", [(-1e5, 700.0), (700.0, -1e5), (-1e5, -1e5), (1e4, 1e4), (0.0, -745.0)])
def test_far_chunks_neither_overflow_nor_vanish(levels: tuple[float, float], draw_noise: Noise) -> None:
    chunks = [level + draw_noise(2, 9) for level in levels]
    result = accumulate(*chunks)
    assert_same(result, direct(torch.cat(chunks, dim=1)))
    assert all(torch.isfinite(getattr(result, field.name)).all() for field in fields(result)[:4])


def test_an_impossible_sample_counts_as_zero() -> None:
    possible = torch.zeros(1, 3, dtype=torch.float64)
    result = accumulate(possible, torch.full((1, 3), -math.inf, dtype=torch.float64))
    assert result.value.item() == pytest.approx(math.log(0.5), abs=1e-15)
    assert result.effective_sample_size.item() == 3.0
    assert result.elbo.item() == -math.inf


def test_a_first_chunk_of_impossible_samples_counts_as_zero() -> None:
    impossible = torch.full((1, 3), -math.inf, dtype=torch.float64)
    assert accumulate(impossible).value.item() == -math.inf
    assert accumulate(impossible, torch.zeros(1, 3)).value.item() == pytest.approx(math.log(0.5), abs=1e-15)


def test_an_accumulator_continues_from_its_state_bit_for_bit(draw_noise: Noise) -> None:
    first, second = 5.0 * draw_noise(3, 7), 5.0 * draw_noise(3, 4)
    running = RunningLogMeanExp(3)
    running.update(first)
    again = RunningLogMeanExp.from_state(running.state, running.num_samples)
    kept = running.state.copy()
    again.update(second)
    np.testing.assert_array_equal(running.state, kept)
    running.update(second)
    np.testing.assert_array_equal(again.state, running.state)
    assert again.num_samples == running.num_samples == 11


def test_float32_weights_are_summed_in_float64() -> None:
    """A million float32 additions of 0.1 would be off by a per cent."""
    log_weights = torch.full((1, 1000), math.log(0.1), dtype=torch.float32)
    result = accumulate(*[log_weights] * 1000)
    assert result.value.dtype == torch.float64
    assert result.value.item() == pytest.approx(float(log_weights[0, 0]), abs=1e-12)
    assert result.elbo.item() == pytest.approx(float(log_weights[0, 0]), abs=1e-12)


def test_equal_weights_have_no_error_and_full_sample_size() -> None:
    result = accumulate(torch.full((1, 8), -3.0), torch.full((1, 8), -3.0))
    assert result.value.item() == result.elbo.item() == -3.0
    assert result.standard_error.item() == 0.0
    assert result.effective_sample_size.item() == 16.0


def test_one_sample_says_nothing_about_its_error() -> None:
    result = accumulate(torch.tensor([[-4.0]]))
    assert result.value.item() == result.elbo.item() == -4.0
    assert result.effective_sample_size.item() == 1.0
    assert math.isnan(result.standard_error.item())


def test_nothing_is_known_before_the_first_sample() -> None:
    with pytest.raises(ValueError, match="no importance samples"):
        RunningLogMeanExp(3).result()


@pytest.mark.parametrize("chunk_rows", [1, 7, 10_000])
def test_the_chunk_size_does_not_change_the_estimate(
    model: LatentModel, images: Tensor, draw_noise: Noise, chunk_rows: int
) -> None:
    noise = draw_noise(len(images), 11, model.noise_dim)
    source = Slices(noise)
    estimate = log_likelihood(model, images, num_samples=11, chunk_rows=chunk_rows, noise=source)
    assert source.taken == 11
    assert max(source.rows) <= max(chunk_rows, len(images))
    assert_same(
        estimate, direct(log_importance_weights(model, images, model.condition(images), noise, model.prior_mixture()))
    )


def test_the_weights_are_those_of_the_bound(model: LatentModel, images: Tensor, draw_noise: Noise) -> None:
    noise = draw_noise(len(images), 5, model.noise_dim)
    weights = log_importance_weights(model, images, model.condition(images), noise, model.prior_mixture())
    for s in range(5):
        torch.testing.assert_close(weights[:, s], model.elbo(images, noise[:, s]).value)


def test_chunk_rows_bounds_the_rows_of_many_images(tiny_model: Callable[..., LatentModel], draw_noise: Noise) -> None:
    model, rows = tiny_model(), []
    model.p_x.register_forward_pre_hook(lambda _, latents: rows.append(latents[0].shape[:-1].numel()))
    source = Slices(draw_noise(13, 3, model.noise_dim))
    score = log_likelihood(model, torch.rand(13, 1, 4, 4).double().round(), num_samples=3, chunk_rows=4, noise=source)
    assert score.value.shape == (13,)
    assert (max(rows), sum(rows)) == (4, 39)


def test_an_image_scores_the_same_alone_and_in_company(model: LatentModel, images: Tensor, draw_noise: Noise) -> None:
    noise = draw_noise(len(images), 9, model.noise_dim)
    together = log_likelihood(model, images, num_samples=9, chunk_rows=6, noise=Slices(noise))
    for i in range(len(images)):
        alone = log_likelihood(model, images[i : i + 1], num_samples=9, chunk_rows=6, noise=Slices(noise[i : i + 1]))
        torch.testing.assert_close(alone.value[0], together.value[i], rtol=1e-12, atol=1e-12)


def test_the_same_generator_seed_gives_the_same_numbers(model: LatentModel, images: Tensor) -> None:
    def estimate(seed: int) -> Tensor:
        source = torch_noise(model, images, torch.Generator().manual_seed(seed))
        return log_likelihood(model, images, num_samples=20, noise=source).value

    assert torch.equal(estimate(7), estimate(7))
    assert not torch.equal(estimate(7), estimate(8))


def test_the_estimate_has_no_graph_and_the_model_keeps_its_own(model: LatentModel, images: Tensor) -> None:
    estimate = log_likelihood(model, images, num_samples=3)
    assert not estimate.value.requires_grad
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_no_images_give_an_empty_estimate(model: LatentModel, images: Tensor) -> None:
    estimate = log_likelihood(model, images[:0], num_samples=3)
    assert estimate.value.shape == estimate.standard_error.shape == (0,)


@pytest.mark.parametrize("wrong", [{"num_samples": 0}, {"num_samples": -1}, {"chunk_rows": 0}])
def test_numbers_of_samples_and_rows_are_positive(model: LatentModel, images: Tensor, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        log_likelihood(model, images, **wrong)
