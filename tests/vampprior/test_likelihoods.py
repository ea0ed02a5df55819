"""Pixel distributions sum to one, take fractions where they may, and draw what their probabilities say."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from vampprior.likelihoods import LIKELIHOODS, Bernoulli, DiscretizedLogistic, GrayLevels, Likelihood, Logistic

Noise = Callable[..., Tensor]
LEVELS = (torch.arange(256, dtype=torch.float64) + 0.5) / 256
LOCATIONS = (-9.0, -2.0, 0.0, 0.7, 9.0)


def level_probabilities(likelihood: GrayLevels, params: Tensor) -> Tensor:
    """Probabilities of the 256 levels of one pixel."""
    return likelihood.log_prob(LEVELS.reshape(256, 1, 1, 1), params.expand(256, 2)).exp()


def sampled_frequencies(likelihood: GrayLevels, params: Tensor, n: int = 400_000) -> Tensor:
    """Shares of the 256 levels when each of n equal steps of the uniform number is drawn once."""
    uniform = ((torch.arange(n, dtype=torch.float64) + 0.5) / n).unsqueeze(1)
    levels = (likelihood.sample(params.expand(n, 2), uniform)[:, 0] * 256).floor().long()
    return torch.bincount(levels, minlength=256) / n


def test_a_fractional_pixel_is_scored_by_the_cross_entropy() -> None:
    """The expectation of the log-probability over a pixel that is 1 with that probability."""
    x, logits = torch.tensor([[[[0.3]]]]), torch.tensor([[1.7]])
    zero, one = (Bernoulli().log_prob(torch.full((1, 1, 1, 1), value), logits) for value in (0.0, 1.0))
    torch.testing.assert_close(Bernoulli().log_prob(x, logits), 0.7 * zero + 0.3 * one)


@pytest.mark.parametrize("log_scale", [-7.0, -4.5, -3.0, -1.0, 0.0])
@pytest.mark.parametrize("location", LOCATIONS)
def test_the_levels_of_the_discretized_logistic_sum_to_one(location: float, log_scale: float) -> None:
    total = level_probabilities(DiscretizedLogistic(), torch.tensor([location, log_scale]).double()).sum().item()
    assert total == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("log_scale", [-9.0, -4.5, -3.0, -1.0, 0.0])
@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("likelihood", [Logistic(), DiscretizedLogistic()], ids=["logistic", "discretized"])
def test_levels_are_drawn_with_their_probabilities(likelihood: GrayLevels, location: float, log_scale: float) -> None:
    """All 256 of them, the first and the last too. The paper's density is normalized first."""
    params = torch.tensor([location, log_scale], dtype=torch.float64)
    probabilities = level_probabilities(likelihood, params)
    probabilities = probabilities / probabilities.sum()
    # each level is one interval of the uniform number, or two with the constant: off by a step at each end
    assert (sampled_frequencies(likelihood, params) - probabilities).abs().max() < 4 / 400_000


@pytest.mark.parametrize("likelihood", [Logistic(), DiscretizedLogistic()], ids=["logistic", "discretized"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_of_the_uniform_range_give_gray_levels(likelihood: GrayLevels, dtype: torch.dtype) -> None:
    params = torch.tensor(
        [[location, scale] for location in (-200.0, 0.0, 200.0) for scale in (-50.0, 0.0)], dtype=dtype
    )
    for end in (0.0, 1.0 - torch.finfo(dtype).eps, 1.0):
        levels = 256 * likelihood.sample(params, torch.full((6, 1), end, dtype=dtype)) - 0.5
        assert torch.equal(levels, levels.round().clamp(0, 255))


def test_a_certain_pixel_costs_little_only_with_edges_and_small_scales() -> None:
    """3.51 bits at the least with the paper's density (and its constant), 0.4 and less with the other."""
    params = torch.tensor([0.0, -99.0], dtype=torch.float64)  # the location lies between levels 127 and 128
    params[0] = torch.logit(torch.tensor(128.5 / 256, dtype=torch.float64))
    costs = {
        name: -level_probabilities(LIKELIHOODS[name], params)[128].log2().item()  # type: ignore[arg-type]
        for name in ("logistic", "discretized_logistic")
    }
    assert costs["logistic"] == pytest.approx(3.51, abs=0.01)
    assert costs["discretized_logistic"] < 0.4
    black = torch.tensor([-99.0, -99.0], dtype=torch.float64)
    assert level_probabilities(DiscretizedLogistic(), black)[0] > 0.89


@pytest.mark.parametrize("raw_mean", [-200.0, -3.0, 0.0, 3.0, 200.0])
@pytest.mark.parametrize("raw_scale", [-50.0, -7.0, -1.0, 0.0, 50.0])
@pytest.mark.parametrize("pixel", [0.0, 0.5, 1.0])
def test_gradients_are_finite_at_saturated_pixels(raw_mean: float, raw_scale: float, pixel: float) -> None:
    params = torch.tensor([raw_mean, raw_scale], requires_grad=True)
    value = DiscretizedLogistic().log_prob(torch.full((1, 1, 1), pixel), params)
    value.backward()
    assert torch.isfinite(value)
    assert params.grad is not None
    assert torch.isfinite(params.grad).all()


@pytest.mark.parametrize("location", [-4.0, 0.0, 4.0])
@pytest.mark.parametrize("log_scale", [-7.0, -3.0, 0.0])
def test_single_precision_agrees_with_double_into_the_tails(location: float, log_scale: float) -> None:
    params = torch.tensor([location, log_scale])
    x = LEVELS.float().reshape(256, 1, 1, 1)
    single = DiscretizedLogistic().log_prob(x, params.expand(256, 2)).double()
    double = DiscretizedLogistic().log_prob(x.double(), params.double().expand(256, 2))
    # the location carries 2^-24, over a scale of at least e^-7
    torch.testing.assert_close(single, double, rtol=1e-5, atol=5e-4)


@pytest.fixture(params=sorted(LIKELIHOODS))
def likelihood(request: pytest.FixtureRequest) -> Likelihood:
    return LIKELIHOODS[request.param]


def test_a_likelihood_scores_whole_images_and_broadcasts(likelihood: Likelihood, draw_noise: Noise) -> None:
    images = torch.rand(3, 1, 1, 2, 2, dtype=torch.float64).round()
    params = draw_noise(3, 5, likelihood.outputs * 4)
    scores = likelihood.log_prob(images, params)
    assert scores.shape == (3, 5)
    for i, s in product(range(3), range(5)):
        torch.testing.assert_close(scores[i, s], likelihood.log_prob(images[i, 0], params[i, s]))
    assert (scores <= 0.0).all()


def test_means_and_samples_are_pixel_values(likelihood: Likelihood, draw_noise: Noise) -> None:
    params = 5.0 * draw_noise(6, likelihood.outputs * 4)
    uniform = torch.rand(6, 4, dtype=torch.float64)
    sample = likelihood.sample(params, uniform)
    for pixels in (likelihood.mean(params), sample):
        assert pixels.shape == (6, 4)
        assert ((pixels >= 0.0) & (pixels <= 1.0)).all()
    assert torch.isfinite(likelihood.log_prob(sample.unflatten(-1, (1, 2, 2)), params)).all()


def test_bernoulli_is_torchs(draw_noise: Noise) -> None:
    images, logits = torch.rand(5, 1, 2, 3, dtype=torch.float64).round(), 3.0 * draw_noise(5, 6)
    bernoulli = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
    torch.testing.assert_close(LIKELIHOODS["bernoulli"].log_prob(images, logits), bernoulli.log_prob(images.flatten(1)))
    torch.testing.assert_close(LIKELIHOODS["bernoulli"].mean(logits), bernoulli.mean)


def test_bernoulli_sums_to_one_over_all_images(draw_noise: Noise) -> None:
    every = torch.tensor(list(product([0.0, 1.0], repeat=6)), dtype=torch.float64).unflatten(-1, (1, 2, 3))
    total = LIKELIHOODS["bernoulli"].log_prob(every, 3.0 * draw_noise(1, 6)).exp().sum()
    assert float(total) == pytest.approx(1.0, abs=1e-13)


def test_bernoulli_survives_extreme_logits() -> None:
    logits = torch.tensor([[1e4, -1e4, 1e4, -1e4]])
    right = torch.tensor([1.0, 0.0, 1.0, 0.0]).reshape(1, 1, 2, 2)
    bernoulli = LIKELIHOODS["bernoulli"]
    assert bernoulli.log_prob(right, logits).item() == 0.0
    assert bernoulli.log_prob(1.0 - right, logits).item() == -4e4
    assert bernoulli.sample(logits, torch.tensor([[0.0, 0.0, 0.999, 0.999]])).tolist() == [[1.0, 0.0, 1.0, 0.0]]


def test_bernoulli_draws_ones_as_often_as_its_mean_says() -> None:
    n, logits = 1000, torch.tensor([-3.0, 0.0, 1.5], dtype=torch.float64)
    uniform = ((torch.arange(n, dtype=torch.float64) + 0.5) / n).unsqueeze(1).expand(n, 3)
    ones = LIKELIHOODS["bernoulli"].sample(logits.expand(n, 3), uniform).sum(0)
    assert ((ones - n * torch.sigmoid(logits)).abs() <= 1.0).all()


def test_the_discretized_logistic_keeps_its_parameters_in_bounds() -> None:
    """The mean in [1/512, 1 - 1/512], the log-scale in [-4.5, 0]."""
    params = torch.tensor([[-99.0, -99.0], [-6.5, -4.5], [99.0, 99.0], [99.0, 0.0]], dtype=torch.float64)
    logistic, x = LIKELIHOODS["logistic"], torch.full((4, 1, 1, 1), 0.3, dtype=torch.float64)
    assert logistic.mean(params)[[0, 2], 0].tolist() == [1.0 / 512.0, 1.0 - 1.0 / 512.0]
    scores = logistic.log_prob(x, params)
    assert scores[0] == scores[1]
    assert scores[2] == scores[3]


def test_gray_levels_become_the_pixels_of_each_likelihood():
    gray = torch.arange(256, dtype=torch.uint8)
    assert LIKELIHOODS["bernoulli"].from_bytes(gray).tolist() == [0.0] * 128 + [1.0] * 128
    pixels = LIKELIHOODS["logistic"].from_bytes(gray)
    assert pixels.dtype == torch.float32
    assert torch.equal(torch.floor(256 * pixels), gray.float())
    assert (pixels.min().item(), pixels.max().item()) == (1 / 512, 1 - 1 / 512)
