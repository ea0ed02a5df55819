"""Pixel distributions sum to one, take fractions where they may, and draw what their probabilities say."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from vampprior.likelihoods import (
    LIKELIHOODS,
    Bernoulli,
    DiscretizedLogistic,
    IndependentLevels,
    Likelihood,
    Logistic,
    LogisticMixture,
)

Noise = Callable[..., Tensor]
LEVELS = (torch.arange(256, dtype=torch.float64) + 0.5) / 256
LOCATIONS = (-9.0, -2.0, 0.0, 0.7, 9.0)


def level_probabilities(likelihood: IndependentLevels, params: Tensor) -> Tensor:
    """Probabilities of the 256 levels of one pixel."""
    return likelihood.log_prob(LEVELS.reshape(256, 1, 1, 1), params.expand(256, 2)).exp()


def sampled_frequencies(likelihood: IndependentLevels, params: Tensor, n: int = 400_000) -> Tensor:
    """Shares of the 256 levels when each of n equal steps of the uniform number is drawn once."""
    uniform = ((torch.arange(n, dtype=torch.float64) + 0.5) / n).unsqueeze(1)
    levels = (likelihood.sample(params.expand(n, 2), uniform, channels=1)[:, 0] * 256).floor().long()
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
def test_levels_are_drawn_with_their_probabilities(
    likelihood: IndependentLevels, location: float, log_scale: float
) -> None:
    """All 256 of them, the first and the last too. The paper's density is normalized first."""
    params = torch.tensor([location, log_scale], dtype=torch.float64)
    probabilities = level_probabilities(likelihood, params)
    probabilities = probabilities / probabilities.sum()
    # each level is one interval of the uniform number, or two with the constant: off by a step at each end
    assert (sampled_frequencies(likelihood, params) - probabilities).abs().max() < 4 / 400_000


@pytest.mark.parametrize("likelihood", [Logistic(), DiscretizedLogistic()], ids=["logistic", "discretized"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_of_the_uniform_range_give_gray_levels(likelihood: IndependentLevels, dtype: torch.dtype) -> None:
    params = torch.tensor(
        [[location, scale] for location in (-200.0, 0.0, 200.0) for scale in (-50.0, 0.0)], dtype=dtype
    )
    for end in (0.0, 1.0 - torch.finfo(dtype).eps, 1.0):
        levels = 256 * likelihood.sample(params, torch.full((6, 1), end, dtype=dtype), channels=1) - 0.5
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
    params = draw_noise(3, 5, 4 * likelihood.outputs(1))
    scores = likelihood.log_prob(images, params)
    assert scores.shape == (3, 5)
    for i, s in product(range(3), range(5)):
        torch.testing.assert_close(scores[i, s], likelihood.log_prob(images[i, 0], params[i, s]))
    assert (scores <= 0.0).all()


def test_means_and_samples_are_pixel_values(likelihood: Likelihood, draw_noise: Noise) -> None:
    params = 5.0 * draw_noise(6, 4 * likelihood.outputs(1))
    uniform = torch.rand(6, 4, dtype=torch.float64)
    sample = likelihood.sample(params, uniform, channels=1)
    for pixels in (likelihood.mean(params, channels=1), sample):
        assert pixels.shape == (6, 4)
        assert ((pixels >= 0.0) & (pixels <= 1.0)).all()
    assert torch.isfinite(likelihood.log_prob(sample.unflatten(-1, (1, 2, 2)), params)).all()


def test_bernoulli_is_torchs(draw_noise: Noise) -> None:
    images, logits = torch.rand(5, 1, 2, 3, dtype=torch.float64).round(), 3.0 * draw_noise(5, 6)
    bernoulli = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
    torch.testing.assert_close(LIKELIHOODS["bernoulli"].log_prob(images, logits), bernoulli.log_prob(images.flatten(1)))
    torch.testing.assert_close(LIKELIHOODS["bernoulli"].mean(logits, channels=1), bernoulli.mean)


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
    uniform = torch.tensor([[0.0, 0.0, 0.999, 0.999]])
    assert bernoulli.sample(logits, uniform, channels=1).tolist() == [[1.0, 0.0, 1.0, 0.0]]


def test_bernoulli_draws_ones_as_often_as_its_mean_says() -> None:
    n, logits = 1000, torch.tensor([-3.0, 0.0, 1.5], dtype=torch.float64)
    uniform = ((torch.arange(n, dtype=torch.float64) + 0.5) / n).unsqueeze(1).expand(n, 3)
    ones = LIKELIHOODS["bernoulli"].sample(logits.expand(n, 3), uniform, channels=1).sum(0)
    assert ((ones - n * torch.sigmoid(logits)).abs() <= 1.0).all()


def test_the_discretized_logistic_keeps_its_parameters_in_bounds() -> None:
    """The mean in [1/512, 1 - 1/512], the log-scale in [-4.5, 0]."""
    params = torch.tensor([[-99.0, -99.0], [-6.5, -4.5], [99.0, 99.0], [99.0, 0.0]], dtype=torch.float64)
    logistic, x = LIKELIHOODS["logistic"], torch.full((4, 1, 1, 1), 0.3, dtype=torch.float64)
    assert logistic.mean(params, channels=1)[[0, 2], 0].tolist() == [1.0 / 512.0, 1.0 - 1.0 / 512.0]
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


MIXTURE = LogisticMixture()
LEVEL_GRID = torch.arange(256)


def colour_params(draw_noise: Noise, scale: float = 1.0) -> Tensor:
    """Parameters of one colour pixel, with narrow components and strong dependence between the channels."""
    params = scale * draw_noise(50)
    params[20:35] -= 4.0
    return params


def log_prob_of(pixel: Tensor, params: Tensor) -> Tensor:
    """Log-probabilities of colour pixels given as levels, (N, 3) to (N,)."""
    return MIXTURE.log_prob(((pixel.double() + 0.5) / 256).reshape(-1, 3, 1, 1), params.expand(len(pixel), 50))


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0, 50.0])
def test_the_levels_of_a_mixture_sum_to_one(scale: float, draw_noise: Noise) -> None:
    params = scale * draw_noise(15)
    total = MIXTURE.log_prob(LEVELS.reshape(256, 1, 1, 1), params.expand(256, 15)).exp().sum().item()
    assert total == pytest.approx(1.0, abs=1e-12)


def test_a_mixture_of_one_channel_is_the_sum_of_its_components(draw_noise: Noise) -> None:
    """Each component is a discretized logistic with the same parameters."""
    params, x = draw_noise(15), LEVELS.reshape(256, 1, 1, 1)
    components = torch.stack(
        [DiscretizedLogistic().log_prob(x, params[[5 + k, 10 + k]].expand(256, 2)) for k in range(5)]
    )
    weights = torch.softmax(params[:5], dim=0)
    total = (weights[:, None] * components.exp()).sum(0)
    torch.testing.assert_close(MIXTURE.log_prob(x, params.expand(256, 15)).exp(), total)


def test_the_channels_of_a_colour_mixture_are_a_chain_of_distributions(draw_noise: Noise) -> None:
    """Summed over the third channel, then over the second and the first: the totals are one.

    The sum over the third channel is p(x1, x2); for a fixed x1 its sum over the second is p(x1), which is the
    mixture of the first channel's components.
    """
    params = colour_params(draw_noise)
    first = 100
    second, third = (grid.flatten() for grid in torch.meshgrid(LEVEL_GRID, LEVEL_GRID, indexing="ij"))
    pixels = torch.stack([torch.full_like(second, first), second, third], dim=1)
    p_first = log_prob_of(pixels, params).exp().sum()
    gray = torch.cat([params[:5], params[5:20].reshape(5, 3)[:, 0], params[20:35].reshape(5, 3)[:, 0]])
    marginal = MIXTURE.log_prob(LEVELS.reshape(256, 1, 1, 1), gray.expand(256, 15)).exp()
    torch.testing.assert_close(p_first, marginal[first], rtol=1e-10, atol=1e-14)
    assert marginal.sum().item() == pytest.approx(1.0, abs=1e-12)


def test_a_channel_depends_on_the_channels_before_it(draw_noise: Noise) -> None:
    """The location of a channel moves by its coefficient times the residual of a channel before it."""
    params = colour_params(draw_noise)
    params[:5] = torch.tensor([60.0, -60.0, -60.0, -60.0, -60.0])  # the first component alone
    locations, scales = torch.sigmoid(params[5:8]), params[20:23]
    a21, a31, a32 = torch.tanh(params[35:38])
    pixel = torch.tensor([[90, 170, 30]])
    x = (pixel[0].double() + 0.5) / 256
    moved = torch.stack(
        [
            locations[0],
            locations[1] + a21 * (x[0] - locations[0]),
            locations[2] + a31 * (x[0] - locations[0]) + a32 * (x[1] - locations[1]),
        ]
    )
    logistic = torch.distributions.TransformedDistribution(
        torch.distributions.Uniform(torch.zeros(3).double(), 1.0),
        [
            torch.distributions.transforms.SigmoidTransform().inv,
            torch.distributions.AffineTransform(moved, scales.exp()),
        ],
        validate_args=False,
    )
    bins = logistic.cdf((pixel[0] + 1) / 256) - logistic.cdf(pixel[0] / 256)
    torch.testing.assert_close(log_prob_of(pixel, params)[0], bins.log().sum(), rtol=1e-8, atol=1e-8)


def test_one_uniform_number_draws_component_and_level(draw_noise: Noise) -> None:
    """Over equal steps of the uniform number each level appears as often as its probability says."""
    params, n = draw_noise(15), 400_000
    params[10:] -= 3.0
    uniform = ((torch.arange(n, dtype=torch.float64) + 0.5) / n).unsqueeze(1)
    levels = (MIXTURE.sample(params.expand(n, 15), uniform, channels=1)[:, 0] * 256).floor().long()
    frequencies = torch.bincount(levels, minlength=256) / n
    probabilities = MIXTURE.log_prob(LEVELS.reshape(256, 1, 1, 1), params.expand(256, 15)).exp()
    # each level is one interval for each of the five components: off by a step at each end
    assert (frequencies - probabilities).abs().max() < 12 / n


@pytest.mark.parametrize("first", [0.1, 0.45, 0.9])
def test_later_channels_are_drawn_given_the_earlier_ones(first: float, draw_noise: Noise) -> None:
    """With the first number fixed, component and first channel are fixed, and the second channel is one logistic."""
    params, n = colour_params(draw_noise), 100_000
    uniform = torch.full((n, 3), first, dtype=torch.float64)
    uniform[:, 1] = (torch.arange(n) + 0.5) / n
    drawn = MIXTURE.sample(params.expand(n, 50), uniform, channels=3)
    assert (drawn[:, 0] == drawn[0, 0]).all()
    component = int((torch.softmax(params[:5], 0).cumsum(0) <= first).sum())
    locations, scales = torch.sigmoid(params[5:20].reshape(5, 3)[component]), params[20:35].reshape(5, 3)[component]
    location = locations[1] + torch.tanh(params[35 + 3 * component]) * (drawn[0, 0] - locations[0])
    left = ((LEVEL_GRID / 256 - location) / scales[1].exp()).sigmoid()
    edges = torch.cat([torch.zeros(1), left[1:], torch.ones(1)])
    frequencies = torch.bincount((256 * drawn[:, 1]).floor().long(), minlength=256) / n
    assert (frequencies - edges.diff()).abs().max() < 3 / n


def test_single_precision_agrees_with_double_in_the_tails_of_a_mixture(draw_noise: Noise) -> None:
    params = colour_params(draw_noise).float()
    params[20:35] = -7.0
    pixels = torch.randint(0, 256, (500, 3))
    x = LogisticMixture().from_bytes(pixels).reshape(-1, 3, 1, 1)
    single = MIXTURE.log_prob(x, params.expand(500, 50)).double()
    double = MIXTURE.log_prob(x.double(), params.double().expand(500, 50))
    assert double.min() < -1000.0
    torch.testing.assert_close(single, double, rtol=1e-5, atol=5e-3)


def test_parameters_around_images_have_their_mean_there(likelihood: Likelihood) -> None:
    images = 0.05 + 0.9 * torch.rand(4, 3, 2, 5, dtype=torch.float64)
    params = likelihood.params_around(images)
    assert params.shape == (4, likelihood.outputs(3) * 10)
    torch.testing.assert_close(likelihood.mean(params, channels=3), images.flatten(1))


@pytest.mark.parametrize("channels", [2, 4])
def test_a_mixture_takes_one_channel_or_three(channels: int) -> None:
    with pytest.raises(ValueError, match=f"1 or 3 channels, not {channels}"):
        MIXTURE.outputs(channels)


@pytest.mark.parametrize("name", ["bernoulli", "logistic", "discretized_logistic"])
def test_the_channels_of_other_likelihoods_are_independent(name: str, draw_noise: Noise) -> None:
    likelihood, x = LIKELIHOODS[name], torch.rand(5, 3, 2, 2, dtype=torch.float64).round()
    params = draw_noise(5, 4 * likelihood.outputs(3))
    planes = params.unflatten(-1, (-1, 3, 4))
    alone = [likelihood.log_prob(x[:, c : c + 1], planes[:, :, c].flatten(1)) for c in range(3)]
    torch.testing.assert_close(likelihood.log_prob(x, params), sum(alone))
