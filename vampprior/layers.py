"""Gated layers (Dauphin et al., 2016), the building blocks of every network of the paper."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vampprior.distributions import LOG_VAR_MAX, LOG_VAR_MIN, DiagonalNormal, full_precision

__all__ = ["Dense", "GatedConv", "GatedDense", "GatedPair", "NormalHead", "draw_normal"]


@torch.no_grad()
def draw_normal(tensor: Tensor, mean: float, std: float) -> Tensor:
    """Fill the tensor with draws from N(mean, std^2), and return it.

    On the meta device, where a checkpoint's shapes are checked, there is nothing to fill, and torch would import its
    compiler for it: 800 modules in 1.5 s.
    """
    return tensor if tensor.is_meta else tensor.normal_(mean, std)


class Dense(nn.Linear):
    """A linear layer whose weights are drawn from N(0, 2 / fan_in) (He et al., 2015)."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True, fan_in: int | None = None) -> None:
        super().__init__(in_features, out_features, bias=bias)
        draw_normal(self.weight, 0.0, math.sqrt(2.0 / (fan_in or in_features)))


class GatedDense(nn.Module):
    """(W x + b) * sigmoid(V x + c), computed as one linear layer of twice the width.

    forward: (*, in_features) -> (*, out_features)
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = Dense(in_features, 2 * out_features)

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(self.linear(x))


class GatedPair(nn.Module):
    """A gated layer of two inputs, the same function as `GatedDense` of their concatenation.

    The two halves of the linear layer are kept apart, so that the half that belongs to an input shared by many rows
    (an image, under thousands of importance samples) is computed once: `first` gives that half, `forward` adds the
    other one to it.

    first:   (*, in_first) -> (*, 2 out_features)
    forward: (*, 2 out_features), (*, in_second) -> (*, out_features)
    """

    def __init__(self, in_first: int, in_second: int, out_features: int) -> None:
        super().__init__()
        fan_in = in_first + in_second
        self.first = Dense(in_first, 2 * out_features, fan_in=fan_in)
        self.second = Dense(in_second, 2 * out_features, bias=False, fan_in=fan_in)

    def forward(self, first_half: Tensor, second: Tensor) -> Tensor:
        return F.glu(first_half + self.second(second))


class GatedConv(nn.Module):
    """A gated convolution with "same" padding, computed as one convolution of twice the channels.

    forward: (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 2 * out_channels, kernel, stride, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(self.conv(x), dim=1)


class NormalHead(nn.Module):
    """Mean and log-variance of a diagonal normal; the log-variance is clamped to [-6, 2].

    forward: (*, in_features) -> DiagonalNormal over (*, latent_dim)
    """

    def __init__(self, in_features: int, latent_dim: int) -> None:
        super().__init__()
        self.linear = Dense(in_features, 2 * latent_dim)

    def forward(self, hidden: Tensor) -> DiagonalNormal:
        # under autocast the hidden layers may be bfloat16, whose rounding would rival the posterior's own spread
        with full_precision(hidden):
            mean, log_var = self.linear(hidden.to(self.linear.weight.dtype)).chunk(2, dim=-1)
        return DiagonalNormal(mean, log_var.clamp(LOG_VAR_MIN, LOG_VAR_MAX))
