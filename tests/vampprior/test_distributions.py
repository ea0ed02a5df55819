"""Densities agree with independent formulas, integrate to one, and draw what they describe."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vampprior import DiagonalNormal, Mixture

Noise = Callable[..., Tensor]
UNIT_ROUNDOFF = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


def torch_normal(mean: Tensor, log_var: Tensor) -> torch.distributions.Distribution:
    return torch.distributions.Independent(torch.distributions.Normal(mean, (0.5 * log_var).exp()), 1)


def random_mixture(components: int, dim: int, spread: float = 1.0) -> Mixture:
    mean = spread * torch.randn(components, dim, dtype=torch.float64)
    log_var = torch.empty_like(mean).uniform_(-6.0, 2.0)
    return Mixture(mean, log_var, torch.randn(components, dtype=torch.float64).log_softmax(0))


def test_a_diagonal_normal_is_torchs(draw_noise: Noise) -> None:
    mean, log_var, z = draw_noise(4, 3), draw_noise(4, 3), draw_noise(6, 4, 3)
    torch.testing.assert_close(DiagonalNormal(mean, log_var).log_prob(z), torch_normal(mean, log_var).log_prob(z))


def test_the_divergence_of_normals_is_torchs(draw_noise: Noise) -> None:
    ours = [DiagonalNormal(draw_noise(5, 3), draw_noise(5, 3)) for _ in range(2)]
    theirs = [torch.distributions.Normal(q.mean, q.std) for q in ours]
    expected = torch.distributions.kl_divergence(*theirs).sum(-1)
    torch.testing.assert_close(ours[0].kl_divergence(ours[1]), expected)
    assert torch.equal(ours[0].kl_divergence(ours[0]), torch.zeros(5).double())


def test_a_sample_is_the_mean_plus_scaled_noise() -> None:
    normal = DiagonalNormal(torch.tensor([1.0, -1.0]), torch.tensor([0.0, math.log(4.0)]))
    noise = torch.tensor([0.5, -0.5])
    assert normal.rsample(noise).tolist() == [1.5, -2.0]
    assert normal.rsample(noise, temperature=2.0).tolist() == [2.0, -3.0]
    assert normal.rsample(noise, temperature=0.0).tolist() == [1.0, -1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0, 100.0])
def test_the_matrix_product_equals_the_broadcast_formula_up_to_rounding(spread: float, dtype: torch.dtype) -> None:
    """The multiplied-out square is as exact as its arithmetic allows, even for log-variances of -6 and far means.

    The sum has 2 M products and a constant of 3 M + 1 terms. Forming a term costs at most 8 roundings (exp 2 units,
    products, squares, the stored constants) and summing at most 3 M + 1 more, so the error is bounded by
    (3 M + 9) u times the sum of the absolute values of all terms.
    """
    dim = 40
    exact = random_mixture(20, dim, spread)
    exact = exact._replace(log_var=torch.where(torch.rand_like(exact.log_var) < 0.5, -6.0, exact.log_var))
    rounded = Mixture(*(part.to(dtype) for part in exact))
    mean, log_var, log_weights = (part.double() for part in rounded)
    z = (mean + spread * torch.randn(30, 1, dim, dtype=torch.float64)).flatten(0, 1).to(dtype)
    far = z.double().unsqueeze(1)

    reference = log_weights + torch_normal(mean, log_var).log_prob(far)
    precision = torch.exp(-log_var)
    quadratic = 0.5 * far.square() * precision + (far * mean * precision).abs() + 0.5 * mean.square() * precision
    magnitude = log_weights.abs() + (quadratic + 0.5 * log_var.abs() + 0.5 * math.log(2.0 * math.pi)).sum(-1)
    bound = (3 * dim + 9) * UNIT_ROUNDOFF[dtype] * magnitude
    assert ((rounded.component_log_probs(z).double() - reference).abs() <= bound).all()


def test_no_tensor_of_samples_times_components_times_dimensions_is_built(draw_noise: Noise) -> None:
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            self.numel = max(self.numel, result.numel())
            return result

    samples, components, dim = 60, 50, 10
    mixture, z = random_mixture(components, dim), draw_noise(samples, dim)
    with Largest() as largest:
        mixture.log_prob(z)
    assert largest.numel == samples * components


@pytest.mark.parametrize("dim", [1, 2])
def test_a_mixture_integrates_to_one(dim: int) -> None:
    """The trapezoid rule on a grid that reaches 12 widest standard deviations past every mean."""
    mixture = random_mixture(4, dim)._replace(log_var=torch.empty(4, dim, dtype=torch.float64).uniform_(-2.0, 1.0))
    axis = torch.linspace(-25.0, 25.0, 801, dtype=torch.float64)
    step = float(axis[1] - axis[0])
    density = mixture.log_prob(torch.cartesian_prod(*[axis] * dim).reshape(-1, dim)).exp()
    assert float(density.sum()) * step**dim == pytest.approx(1.0, abs=1e-12)


def test_responsibilities_are_bayes_rule(draw_noise: Noise) -> None:
    mixture, z = random_mixture(6, 3), draw_noise(2, 7, 3)
    joint = mixture.log_weights.exp() * torch_normal(mixture.mean, mixture.log_var).log_prob(z.unsqueeze(-2)).exp()
    torch.testing.assert_close(mixture.responsibilities(z), joint / joint.sum(-1, keepdim=True))
    torch.testing.assert_close(mixture.log_prob(z), joint.sum(-1).log())
    torch.testing.assert_close(mixture.responsibilities(z).sum(-1), torch.ones(2, 7, dtype=torch.float64))


def test_a_component_without_weight_takes_no_part() -> None:
    mixture = random_mixture(3, 2)._replace(log_weights=torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64).log())
    assert mixture.responsibilities(mixture.mean[1:2])[0, 1] == 0.0
    others = Mixture(*(part[[0, 2]] for part in mixture))
    torch.testing.assert_close(mixture.log_prob(mixture.mean), others.log_prob(mixture.mean))


def test_component_gives_the_normals_of_its_index() -> None:
    mixture, index = random_mixture(5, 2), torch.tensor([[4, 0], [4, 2]])
    normal = mixture.component(index)
    assert normal.mean.shape == (2, 2, 2)
    assert torch.equal(normal.mean[0, 1], mixture.mean[0])
    assert torch.equal(normal.log_var[1, 0], mixture.log_var[4])


def test_components_are_chosen_as_often_as_they_weigh() -> None:
    """An even grid of n uniform numbers hits an interval of length w within one of n w times."""
    weights, n = torch.tensor([0.1, 0.0, 0.37, 0.2, 0.33, 0.0], dtype=torch.float64), 1000
    mixture = Mixture(torch.zeros(6, 1), torch.zeros(6, 1), weights.log())
    index = mixture.sample_index((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    counts = torch.bincount(index, minlength=6)
    assert ((counts - n * weights).abs() <= 1.0).all()
    assert counts[1] == counts[5] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_the_ends_of_the_uniform_range_choose_components_that_have_weight(dtype: torch.dtype) -> None:
    weights = torch.tensor([0.0, 0.3, 0.0, 0.7, 0.0, 0.0], dtype=dtype)
    ends = torch.tensor([0.0, 1.0 - 2 * UNIT_ROUNDOFF[dtype]], dtype=dtype)
    assert Mixture(torch.zeros(6, 1), torch.zeros(6, 1), weights.log()).sample_index(ends).tolist() == [1, 3]


def test_five_hundred_equal_float32_weights_are_chosen_equally() -> None:
    """The weights round, their sum is not quite one, and still no component is favoured."""
    mixture = Mixture(torch.zeros(500, 1), torch.zeros(500, 1), torch.zeros(500).log_softmax(0))
    index = mixture.sample_index((torch.arange(5000, dtype=torch.float64) + 0.5) / 5000)
    assert torch.bincount(index).tolist() == [10] * 500
