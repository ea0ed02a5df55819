"""The discretized logistic: a distribution over 256 bins, exact into its tails, with gradients everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit

from vampprior.likelihoods import Logistic

LOGISTIC = Logistic()
BINS = torch.arange(256, dtype=torch.float64) / 256


def params(mean: float, log_scale: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Parameters of one pixel whose mean is `mean` after the sigmoid."""
    return torch.tensor([np.log(mean / (1 - mean)), log_scale], dtype=dtype)


def log_probs(parameters: torch.Tensor) -> torch.Tensor:
    """Log-probability of each of the 256 values of one pixel."""
    x = BINS.to(parameters.dtype).reshape(256, 1, 1, 1)
    return LOGISTIC.log_prob(x, parameters.expand(256, 2))


@pytest.mark.parametrize("mean", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("log_scale", [-4.5, -2.0, 0.0])
def test_probability_of_a_bin_is_the_difference_of_the_distribution_function(mean, log_scale):
    scale = np.exp(log_scale)
    lower = BINS.numpy()
    direct = expit((lower + 1 / 256 - mean) / scale) - expit((lower - mean) / scale)
    # the direct difference itself loses its leading digits in the tails: absolute error of a few 1e-16
    np.testing.assert_allclose(log_probs(params(mean, log_scale)).exp(), direct + 1e-7, rtol=1e-12, atol=4e-16)


def test_probabilities_sum_to_the_mass_between_zero_and_one():
    mass = expit((1 - 0.5) / np.exp(-2.0)) - expit((0 - 0.5) / np.exp(-2.0))
    assert log_probs(params(0.5, -2.0)).exp().sum().item() == pytest.approx(mass + 256e-7, rel=1e-12)


@pytest.mark.parametrize("mean", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("log_scale", [-4.5, 0.0])
def test_single_precision_agrees_with_double_into_the_tails(mean, log_scale):
    single = log_probs(params(mean, log_scale, torch.float32)).double()
    double = log_probs(params(mean, log_scale))
    # x, mean and their difference carry 2^-24 each, over a scale of at least e^-4.5: 3 * 6e-8 * 90
    assert (single - double).abs().max() < 2e-5


@pytest.mark.parametrize("raw_mean", [-200.0, -3.0, 0.0, 3.0, 200.0])
@pytest.mark.parametrize("raw_scale", [-50.0, -4.5, -1.0, 0.0, 50.0])
@pytest.mark.parametrize("pixel", [0.0, 0.5, 1.0])
def test_gradients_are_finite_at_saturated_pixels(raw_mean, raw_scale, pixel):
    parameters = torch.tensor([raw_mean, raw_scale], requires_grad=True)
    value = LOGISTIC.log_prob(torch.full((1, 1, 1), pixel), parameters)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(parameters.grad).all()


def test_a_white_pixel_lies_in_the_last_bin():
    parameters = params(0.9, -2.0)
    white, last = (
        LOGISTIC.log_prob(torch.full((1, 1, 1), x, dtype=torch.float64), parameters) for x in (1.0, 255 / 256)
    )
    assert white == last
