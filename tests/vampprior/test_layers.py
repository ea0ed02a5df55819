"""Gated layers compute what their docstrings say, from the weights they hold."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vampprior.layers import Dense, GatedConv, GatedDense, GatedPair, NormalHead

Noise = Callable[..., Tensor]


def test_gated_dense_is_a_linear_map_times_a_sigmoid_gate(draw_noise: Noise) -> None:
    layer, x = GatedDense(4, 3).double(), draw_noise(2, 5, 4)
    w, v = layer.linear.weight.chunk(2)
    b, c = layer.linear.bias.chunk(2)
    torch.testing.assert_close(layer(x), (x @ w.T + b) * torch.sigmoid(x @ v.T + c))


def test_gated_pair_is_a_gated_dense_layer_of_the_concatenation(draw_noise: Noise) -> None:
    pair, whole = GatedPair(4, 2, 3).double(), GatedDense(6, 3).double()
    with torch.no_grad():
        whole.linear.weight.copy_(torch.cat([pair.first.weight, pair.second.weight], dim=1))
        whole.linear.bias.copy_(pair.first.bias)
    first, second = draw_noise(5, 4), draw_noise(5, 2)
    torch.testing.assert_close(pair(pair.first(first), second), whole(torch.cat([first, second], dim=-1)))


def test_gated_pair_shares_one_first_half_among_many_rows(draw_noise: Noise) -> None:
    pair = GatedPair(4, 2, 3).double()
    first, second = draw_noise(1, 4), draw_noise(6, 2)
    rows = torch.cat([pair(pair.first(first), row) for row in second.split(1)])
    torch.testing.assert_close(pair(pair.first(first), second), rows)


@pytest.mark.parametrize(("kernel", "stride", "sides"), [(3, 1, (4, 8)), (7, 1, (4, 8)), (3, 2, (2, 4))])
def test_gated_convolution_is_a_convolution_times_a_sigmoid_gate(
    draw_noise: Noise, kernel: int, stride: int, sides: tuple[int, int]
) -> None:
    layer, x = GatedConv(2, 3, kernel, stride).double(), draw_noise(5, 2, 4, 8)
    settings = {"stride": stride, "padding": (kernel - 1) // 2}
    value, gate = (
        torch.nn.functional.conv2d(x, weight, bias, **settings)
        for weight, bias in zip(layer.conv.weight.chunk(2), layer.conv.bias.chunk(2), strict=True)
    )
    assert layer(x).shape == (5, 3, *sides)
    torch.testing.assert_close(layer(x), value * torch.sigmoid(gate))


def test_the_gate_saturates_to_zero_and_to_one() -> None:
    layer = GatedDense(1, 1)
    with torch.no_grad():
        layer.linear.weight.copy_(torch.tensor([[1.0], [100.0]]))
        layer.linear.bias.zero_()
    assert layer(torch.tensor([[3.0], [-3.0]])).flatten().tolist() == [3.0, 0.0]


def test_normal_head_clamps_the_log_variance_alone(draw_noise: Noise) -> None:
    head, hidden = NormalHead(3, 4).double(), 100.0 * draw_noise(50, 3)
    mean, log_var = head.linear(hidden).chunk(2, dim=-1)
    normal = head(hidden)
    torch.testing.assert_close(normal.mean, mean, rtol=0.0, atol=0.0)
    torch.testing.assert_close(normal.log_var, log_var.clip(-6.0, 2.0), rtol=0.0, atol=0.0)
    assert normal.log_var.min() == -6.0
    assert normal.log_var.max() == 2.0
    assert mean.abs().max() > 6.0


def test_normal_head_stays_in_float32_under_autocast() -> None:
    head, hidden = NormalHead(3, 4), torch.randn(5, 3).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = head(hidden)
    full = head(hidden.float())
    torch.testing.assert_close(low.mean, full.mean, rtol=0.0, atol=0.0)
    torch.testing.assert_close(low.log_var, full.log_var, rtol=0.0, atol=0.0)


@pytest.mark.parametrize(
    ("weight", "fan_in"),
    [
        (lambda: Dense(100, 400).weight, 100),
        (lambda: GatedDense(100, 200).linear.weight, 100),
        (lambda: GatedPair(60, 40, 300).first.weight, 100),
        (lambda: GatedPair(60, 40, 300).second.weight, 100),
        (lambda: NormalHead(100, 200).linear.weight, 100),
    ],
    ids=["dense", "gated", "pair-first", "pair-second", "head"],
)
def test_weights_start_from_he_normal(weight: Callable[[], Tensor], fan_in: int) -> None:
    """Mean, variance and fourth moment lie within five standard errors of those of N(0, 2 / fan_in).

    Of n standard-normal numbers these moments have the variances 1/n, 2/n and 96/n; a uniform law of the same variance
    has the fourth moment 1.8 and would miss 3 by far more.
    """
    standardized = weight().detach().double().flatten() / math.sqrt(2.0 / fan_in)
    n = len(standardized)
    assert abs(standardized.mean()) < 5.0 * math.sqrt(1.0 / n)
    assert abs(standardized.square().mean() - 1.0) < 5.0 * math.sqrt(2.0 / n)
    assert abs(standardized.pow(4).mean() - 3.0) < 5.0 * math.sqrt(96.0 / n)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (7, 1), (3, 2)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_gated_convolutions_are_those_of_torch(channels: int, kernel: int, stride: int) -> None:
    """Values and gradients, of images in either memory layout."""
    layer = GatedConv(channels, 4, kernel, stride).double()
    x = torch.rand(2, channels, 8, 12, dtype=torch.float64, requires_grad=True)
    weight, bias = layer.conv.weight, layer.conv.bias
    plain = torch.nn.functional.glu(torch.nn.functional.conv2d(x, weight, bias, stride, kernel // 2), dim=1)
    expected = torch.autograd.grad(plain.square().sum(), (x, weight, bias))
    for images in (x, x.to(memory_format=torch.channels_last)):
        ours = layer(images)
        torch.testing.assert_close(ours, plain)
        torch.testing.assert_close(torch.autograd.grad(ours.square().sum(), (x, weight, bias)), expected)
