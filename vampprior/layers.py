"""Gated layers (Dauphin et al., 2017), the building blocks of every network of the paper."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vampprior.distributions import LOG_VAR_MAX, LOG_VAR_MIN, DiagonalNormal
from vampprior.precision import accurate_linear

__all__ = ["Dense", "GatedConv", "GatedDense", "GatedPair", "NarrowConv", "NormalHead", "channels_last", "init_normal_"]

FEW_CHANNELS = 3
"""Most input channels of a `NarrowConv`."""


@torch.no_grad()
def init_normal_(tensor: Tensor, mean: float, std: float) -> Tensor:
    """Fill the tensor with draws from N(mean, std^2) and return it.

    Meta tensors, which have no values, are returned as they are: `Tensor.normal_` would import torch's compiler for
    them, which takes more than a second.
    """
    return tensor if tensor.is_meta else tensor.normal_(mean, std)


class Dense(nn.Linear):
    """Linear layer whose weights start at draws from N(0, 2 / fan_in) (He et al., 2015).

    References:
        | Delving Deep into Rectifiers (He et al., 2015)
        | https://arxiv.org/abs/1502.01852
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True, fan_in: int | None = None) -> None:
        super().__init__(in_features, out_features, bias=bias)
        init_normal_(self.weight, 0.0, math.sqrt(2.0 / (fan_in or in_features)))


class GatedDense(nn.Module):
    r"""Gated linear layer, $(W x + b) \odot \mathrm{sigmoid}(V x + c)$, computed as one layer of twice the width.

    `forward` takes $(*, in)$ to $(*, out)$.

    References:
        | Language Modeling with Gated Convolutional Networks (Dauphin et al., 2017)
        | https://arxiv.org/abs/1612.08083

    Example:
        >>> GatedDense(3, 5)(torch.zeros(2, 3)).shape
        torch.Size([2, 5])
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = Dense(in_features, 2 * out_features)

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(self.linear(x))


class GatedPair(nn.Module):
    """Gated linear layer of two inputs, the same function as `GatedDense` of their concatenation.

    The two halves of its matrix are kept apart, so that the product with an input that many rows share, such as an
    image under thousands of importance samples, is computed once: `first` gives that half, `forward` adds the other.

    `first` takes $(*, in_1)$ to $(*, 2 out)$; `forward` takes $(*, 2 out)$ and $(*, in_2)$ to $(*, out)$.

    Example:
        >>> layer = GatedPair(3, 4, 5)
        >>> layer(layer.first(torch.zeros(1, 3)), torch.zeros(7, 4)).shape
        torch.Size([7, 5])
    """

    def __init__(self, in_first: int, in_second: int, out_features: int) -> None:
        super().__init__()
        fan_in = in_first + in_second
        self.first = Dense(in_first, 2 * out_features, fan_in=fan_in)
        self.second = Dense(in_second, 2 * out_features, bias=False, fan_in=fan_in)

    def forward(self, first_half: Tensor, second: Tensor) -> Tensor:
        return F.glu(first_half + self.second(second))


def channels_last(x: Tensor) -> Tensor:
    """Images $(N, C, H, W)$ with the channels of a pixel beside each other in memory, if they are on a CPU.

    Convolutions keep this layout and are faster in it.
    """
    return x.to(memory_format=torch.channels_last) if x.device.type == "cpu" else x


class NarrowConv(nn.Conv2d):
    r"""Convolution of images of few channels with "same" padding; on a CPU the columns of a kernel become channels.

    The kernels of oneDNN compute a whole vector of input channels, however few there are. A convolution with kernels
    $k \times k$ of C channels equals one with kernels $k \times 1$ of the $C k$ channels that hold the image shifted by
    each column.

    `forward` takes $(N, in, H, W)$ to $(N, out, H / stride, W / stride)$.

    Example:
        >>> conv, x = NarrowConv(1, 32, kernel_size=7, padding=3), torch.rand(2, 1, 8, 8)
        >>> torch.allclose(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=3), atol=1e-5)
        True
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)
        (height, width), (down, right) = self.kernel_size, self.stride
        padded = F.pad(x, (width // 2, width // 2, 0, 0))
        shifted = padded.unfold(3, width, right).permute(0, 1, 4, 2, 3).flatten(1, 2)
        # flattened first, so that the gradient has the strides of the weights, as data-parallel training expects
        kernels = self.weight.flatten(0, 1).transpose(1, 2).reshape(self.out_channels, -1, height, 1)
        return F.conv2d(channels_last(shifted), kernels, self.bias, (down, 1), (height // 2, 0))


class GatedConv(nn.Module):
    """Gated convolution with "same" padding, computed as one convolution of twice the channels.

    `forward` takes $(N, in, H, W)$ to $(N, out, H / stride, W / stride)$.

    Example:
        >>> GatedConv(1, 32, kernel=3, stride=2)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 32, 4, 4])
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        convolution = NarrowConv if in_channels <= FEW_CHANNELS else nn.Conv2d
        self.conv = convolution(in_channels, 2 * out_channels, kernel, stride, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        # a gate over the last dimension is computed in contiguous memory where channels come last
        return F.glu(self.conv(channels_last(x)).movedim(1, -1)).movedim(-1, 1)


class NormalHead(nn.Module):
    """Mean and log-variance of a diagonal normal, always in full precision; the log-variance is clamped to [-6, 2].

    `forward` takes $(*, in)$ to normals over $(*, M)$ with M = `latent_dim`.

    Example:
        >>> NormalHead(3, 2)(torch.zeros(7, 3)).mean.shape
        torch.Size([7, 2])
    """

    def __init__(self, in_features: int, latent_dim: int) -> None:
        super().__init__()
        self.linear = Dense(in_features, 2 * latent_dim)

    def forward(self, hidden: Tensor) -> DiagonalNormal:
        mean, log_var = accurate_linear(hidden, self.linear.weight, self.linear.bias).chunk(2, dim=-1)
        return DiagonalNormal(mean, log_var.clamp(LOG_VAR_MIN, LOG_VAR_MAX))
