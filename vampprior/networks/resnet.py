"""Residual networks with group normalization, for `ResNetHVAE`."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vampprior.config import ModelConfig
from vampprior.layers import GatedDense, GatedPair, channels_last
from vampprior.likelihoods import LIKELIHOODS
from vampprior.networks.images import over_images
from vampprior.networks.posteriors import BottomPosterior, ImageEncoder

__all__ = ["GridConv", "ResNetDecoder", "ResNetEncoder", "ResNetPosterior", "ResidualBlock", "SubPixelConv"]

MIN_SIDE, MAX_SIDE = 8, 128
COARSEST = 8
"""Grids are halved until no side is longer than this."""
MAX_GROWTH = 4
"""Greatest number of channels over `width`."""
BOTTLENECK = 8
"""Channels of the coarsest grid between the convolutions and the dense layers."""
GROUPS = 8

Grid = tuple[int, int]
"""Height and width."""


def grids(config: ModelConfig) -> list[Grid]:
    """Grids of a network, finest first: half of the image's sides, rounded up, and then halves of that.

    Raises:
        ValueError: If a side of the image is shorter than 8 or longer than 128 pixels.
    """
    _, height, width = config.image_shape
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in (height, width)):
        raise ValueError(
            f"a residual network takes images of {MIN_SIDE} to {MAX_SIDE} pixels a side, not {height} x {width}"
        )
    sides = [((height + 1) // 2, (width + 1) // 2)]
    while max(sides[-1]) > COARSEST:
        height, width = sides[-1]
        sides.append(((height + 1) // 2, (width + 1) // 2))
    return sides


def level_channels(config: ModelConfig) -> list[int]:
    """Channels of each grid: `width`, doubled with every halving of the grid, at most four times `width`."""
    return [config.width * min(2**level, MAX_GROWTH) for level in range(len(grids(config)))]


class GridConv(nn.Conv2d):
    """Convolution with "same" padding that knows the grid of its output.

    Args:
        in_channels, out_channels, kernel, stride: As for `torch.nn.Conv2d`.
        grid: Height and width of the output.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, grid: Grid, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, padding=kernel // 2)
        self.out_values = out_channels * math.prod(grid)


class SubPixelConv(GridConv):
    """1x1 convolution that doubles the sides of a grid: a point gives 2x2 points (Shi et al., 2016).

    The four points start with equal weights, since random ones make a checkerboard pattern that long training only
    partly removes (Aitken et al., 2017).

    `forward` takes $(N, in_channels, H, W)$ to $(N, out_channels, 2 H, 2 W)$.

    References:
        | Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network
        | (Shi et al., 2016)
        | https://arxiv.org/abs/1609.05158
        | Checkerboard artifact free sub-pixel convolution (Aitken et al., 2017)
        | https://arxiv.org/abs/1707.02937

    Example:
        >>> y = SubPixelConv(8, 3, grid=(4, 5))(torch.randn(2, 8, 4, 5))
        >>> y.shape, bool((y[..., ::2, ::2] == y[..., 1::2, 1::2]).all())
        (torch.Size([2, 3, 8, 10]), True)
    """

    def __init__(self, in_channels: int, out_channels: int, grid: Grid) -> None:
        super().__init__(in_channels, 4 * out_channels, 1, grid)
        with torch.no_grad():
            for weights in self.parameters():
                weights.copy_(weights[::4].repeat_interleave(4, dim=0))

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(super().forward(x), 2)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each after group normalization and SiLU, added to the input (He et al., 2016).

    `forward` takes $(N, channels, H, W)$ to the same shape.

    References:
        | Identity Mappings in Deep Residual Networks (He et al., 2016)
        | https://arxiv.org/abs/1603.05027
        | Group Normalization (Wu & He, 2018)
        | https://arxiv.org/abs/1803.08494

    Example:
        >>> ResidualBlock(16, grid=(4, 5))(torch.zeros(2, 16, 4, 5)).shape
        torch.Size([2, 16, 4, 5])
    """

    def __init__(self, channels: int, grid: Grid) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_activation(channels),
            GridConv(channels, channels, 3, grid),
            *_activation(channels),
            GridConv(channels, channels, 3, grid),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class ResNetFeatures(nn.Module):
    """Residual blocks on ever coarser grids; `forward` takes images $(*, C, H, W)$ to $(*, features)$.

    The image is padded to even sides and each 2x2 pixels become one point of the finest grid. Every grid has `depth`
    blocks.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sides, channels = grids(config), level_channels(config)
        layers: list[nn.Module] = [GridConv(4 * config.image_shape[0], channels[0], 3, sides[0])]
        for level, (grid, width) in enumerate(zip(sides, channels, strict=True)):
            if level:
                layers.append(GridConv(channels[level - 1], width, 3, grid, stride=2))
            layers += [ResidualBlock(width, grid) for _ in range(config.depth)]
        layers += [*_activation(channels[-1]), GridConv(channels[-1], BOTTLENECK, 1, sides[-1]), nn.Flatten()]
        self.layers = nn.Sequential(*layers)
        self.features = BOTTLENECK * math.prod(sides[-1])
        self.kept_values = kept_values(self)

    def forward(self, x: Tensor) -> Tensor:
        return over_images(self._features, x, self.kept_values)

    def _features(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        even = F.pad(2.0 * x - 1.0, (0, width % 2, 0, height % 2))
        points = F.pixel_unshuffle(even, 2)
        return self.layers(channels_last(points))


class ResNetEncoder(ImageEncoder):
    r"""Posterior $q(z \mid x)$ with a residual network."""

    def __init__(self, config: ModelConfig, latent_dim: int) -> None:
        hidden = ResNetFeatures(config)
        super().__init__(hidden, hidden.features, latent_dim)


class ResNetPosterior(BottomPosterior):
    r"""Posterior $q(z_1 \mid x, z_2)$ from the features of `ResNetEncoder`, in place of the image."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(nn.Identity(), BOTTLENECK * math.prod(grids(config)[-1]), config)


class ResNetDecoder(nn.Module):
    r"""Parameters of $p(x \mid z_1, z_2)$: residual blocks on ever finer grids, up to half of the image's sides.

    A point of the finest grid gives the parameters of 2x2 pixels; those beyond the image are left out.

    `forward` takes $z_2$, $(*, M_2)$, and $z_1$, $(*, M_1)$, to $(*, P H W)$ with P numbers per pixel.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, sides, channels = config.hidden_dim, grids(config)[::-1], level_channels(config)[::-1]
        self.image_shape, self.coarsest = config.image_shape, sides[0]
        self.z1 = GatedDense(config.z1_dim, hidden)
        self.z2 = GatedDense(config.z2_dim, hidden)
        self.joint = GatedPair(hidden, hidden, BOTTLENECK * math.prod(sides[0]))
        layers: list[nn.Module] = [GridConv(BOTTLENECK, channels[0], 1, sides[0])]
        for level, (grid, width) in enumerate(zip(sides, channels, strict=True)):
            if level:
                layers.append(Upsampling(channels[level - 1], width, sides[level - 1], grid))
            layers += [ResidualBlock(width, grid) for _ in range(config.depth)]
        layers += [*_activation(channels[-1]), GridConv(channels[-1], 2 * channels[-1], 1, sides[-1]), nn.SiLU()]
        self.layers = nn.Sequential(*layers)
        outputs = LIKELIHOODS[config.likelihood].outputs(config.image_shape[0])
        self.pixels = SubPixelConv(2 * channels[-1], outputs, sides[-1])
        self.kept_values = kept_values(self)

    def forward(self, z2: Tensor, z1: Tensor) -> Tensor:
        coarse = self.joint(self.joint.first(self.z1(z1)), self.z2(z2))
        points = coarse.reshape(*coarse.shape[:-1], BOTTLENECK, *self.coarsest)
        return over_images(self._pixel_params, points, self.kept_values)

    def _pixel_params(self, points: Tensor) -> Tensor:
        planes = self.pixels(self.layers(channels_last(points)))
        return _crop(planes, self.image_shape[1:]).flatten(1)


class Upsampling(nn.Module):
    """Convolution that doubles the sides of a grid, or less: what is beyond the finer grid is left out."""

    def __init__(self, in_channels: int, out_channels: int, coarse: Grid, fine: Grid) -> None:
        super().__init__()
        self.conv, self.fine = SubPixelConv(in_channels, out_channels, coarse), fine

    def forward(self, x: Tensor) -> Tensor:
        return _crop(self.conv(x), self.fine)


def kept_values(network: nn.Module) -> int:
    """Numbers per image that the backward pass keeps, about: three for each output of a convolution."""
    return sum(3 * module.out_values for module in network.modules() if isinstance(module, GridConv))


def _activation(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.GroupNorm(math.gcd(GROUPS, channels), channels), nn.SiLU()


def _crop(x: Tensor, grid: Grid) -> Tensor:
    return x[..., : grid[0], : grid[1]]
