"""The autoregressive decoder of `PixelHVAE` (van den Oord et al., 2016) and its sampler, which computes pixels once."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vampprior.config import ModelConfig
from vampprior.convolutional import over_images
from vampprior.distributions import LIKELIHOODS, Likelihood
from vampprior.layers import GatedDense

__all__ = ["MaskedConv", "PixelCNNDecoder"]

CHANNELS, LAYERS = 64, 8


class MaskedConv(nn.Conv2d):
    """A 3 x 3 convolution that sees the rows above and the pixels to the left; its own pixel too unless `strict`.

    forward: (N, in_channels, H, W) -> (N, out_channels, H, W)
    """

    mask: Tensor

    def __init__(self, in_channels: int, out_channels: int, *, strict: bool) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=False)
        mask = torch.ones(3, 3)
        mask[2] = 0.0
        mask[1, 1 if strict else 2 :] = 0.0
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask, padding=1)


class PixelCNNDecoder(nn.Module):
    """p(x | z1, z2) = prod_i p(x_i | x_<i, z1, z2), pixels in raster order.

    Each latent becomes a plane of the image's size; they are stacked with the image and pass through masked
    convolutions, the first of them strict, with batch normalization. Every plane is masked, the latents' too.

    forward: (*, z1_dim), (*, z2_dim), (*, C, H, W) -> (*, outputs * D)
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = config.image_shape[0]
        if channels != 1:
            raise ValueError(f"a PixelCNN decoder takes images of one channel, not {channels}")
        self.image_shape = config.image_shape
        self.z1 = GatedDense(config.z1_dim, config.num_pixels)
        self.z2 = GatedDense(config.z2_dim, config.num_pixels)
        layers: list[nn.Module] = []
        for index in range(LAYERS):
            first = index == 0
            conv = MaskedConv(3 * channels if first else CHANNELS, CHANNELS, strict=first)
            layers += [conv, nn.BatchNorm2d(CHANNELS), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.pixels = nn.Conv2d(CHANNELS, LIKELIHOODS[config.likelihood].outputs * channels, 1)

    def forward(self, z1: Tensor, z2: Tensor, x: Tensor) -> Tensor:
        planes = self._planes(z1, z2)
        stacked = torch.cat([x.expand(*planes.shape[:-3], *x.shape[-3:]), planes], dim=-3)
        return torch.flatten(over_images(nn.Sequential(self.layers, self.pixels), stacked), -3)

    def _planes(self, z1: Tensor, z2: Tensor) -> Tensor:
        """The latents as images, (*, 2, H, W)."""
        planes = torch.stack([self.z1(z1), self.z2(z2)], dim=-2)
        return planes.reshape(*planes.shape[:-1], *self.image_shape[1:])

    @torch.no_grad()
    def sample_by_full_passes(self, z1: Tensor, z2: Tensor, uniform: Tensor, likelihood: Likelihood) -> Tensor:
        """Draw images pixel by pixel with a whole forward pass each: latents (N, M), uniform (N, D) -> (N, D).

        What `sample` does D times faster, kept as its measure.
        """
        x = torch.zeros_like(uniform)
        for pixel in range(uniform.shape[1]):
            params = self(z1, z2, x.reshape(-1, *self.image_shape))
            x[:, pixel] = likelihood.sample(params, uniform)[:, pixel]
        return x

    @torch.no_grad()
    def sample(self, z1: Tensor, z2: Tensor, uniform: Tensor, likelihood: Likelihood) -> Tensor:
        """Draw images, computing at every layer the features of the new pixel only: (N, M), (N, D) -> (N, D).

        The features of the row above are complete when a row begins, so their part of it is one matrix product per
        layer; what remains for a pixel is its left neighbour and itself. Call in evaluation mode, where batch
        normalization is a fixed scale and shift, which is folded into the weights.
        """
        if self.training:
            raise RuntimeError("sampling needs the running statistics of batch normalization: call eval() first")
        _, height, width = self.image_shape
        planes = self._planes(z1, z2)
        taps = [_Taps(self.layers[3 * index], self.layers[3 * index + 1]) for index in range(LAYERS)]
        head = self.pixels.weight.flatten(1)
        x = torch.zeros_like(uniform)
        n = len(uniform)
        # inputs[l]: what layer l reads, one row at a time, with a column of padding on either side
        widths = [3, *[CHANNELS] * (LAYERS - 1)]
        above = [uniform.new_zeros(n, width + 2, channels) for channels in widths]
        for row in range(height):
            from_above = [tap.row_above(features) for tap, features in zip(taps, above, strict=True)]
            current = [torch.zeros_like(features) for features in above]
            current[0][:, 1:-1, 1:] = planes[:, :, row].transpose(1, 2)
            for column in range(width):
                features = current[0][:, column + 1]
                for index, tap in enumerate(taps):
                    left_and_self = current[index][:, column : column + 2].flatten(1)
                    features = torch.addmm(from_above[index][:, column], left_and_self, tap.same_row).relu_()
                    if index + 1 < LAYERS:
                        current[index + 1][:, column + 1] = features
                params = F.linear(features, head, self.pixels.bias)
                pixel = row * width + column
                x[:, pixel] = likelihood.sample(params, uniform[:, pixel : pixel + 1])[:, 0]
                current[0][:, column + 1, 0] = x[:, pixel]
            above = current
        return x


class _Taps:
    """A masked convolution and its batch normalization as matrices over neighbouring pixels.

    same_row: left neighbour and itself, (2 in_channels, out_channels)
    """

    def __init__(self, conv: Any, norm: Any) -> None:
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        weight = (conv.weight * conv.mask) * scale[:, None, None, None]
        self.shift = norm.bias - norm.running_mean * scale
        by_tap = weight.permute(2, 3, 1, 0)  # row, column, in, out
        self.above = by_tap[0].flatten(0, 1)
        self.same_row = by_tap[1, :2].flatten(0, 1).contiguous()

    def row_above(self, features: Tensor) -> Tensor:
        """Contribution of the row above to every pixel, and the shift: (N, W + 2, in) -> (N, W, out)."""
        neighbours = features.unfold(1, 3, 1).transpose(2, 3).flatten(2)
        return F.linear(neighbours, self.above.t(), self.shift)
