"""Gated convolutions in place of the dense layers, for `ConvHVAE` and, in the encoders, for `PixelHVAE`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from vampprior.config import ModelConfig
from vampprior.layers import GatedConv, GatedDense, GatedPair
from vampprior.likelihoods import LIKELIHOODS
from vampprior.networks.images import over_images
from vampprior.networks.posteriors import BottomPosterior, ImageEncoder

__all__ = ["ConvDecoder", "ConvEncoder", "ConvPosterior"]

# out channels, kernel, stride
TOP_LAYERS = ((32, 7, 1), (32, 3, 2), (64, 5, 1), (64, 3, 2), (6, 3, 1))
BOTTOM_LAYERS = ((32, 3, 1), (32, 3, 2), (64, 3, 1), (64, 3, 2), (6, 3, 1))


class ConvFeatures(nn.Module):
    """Stack of gated convolutions, flattened.

    `forward` takes images $(*, C, H, W)$ to $(*, features)$.

    Raises:
        ValueError: When built, if the strides do not divide the sides of the image.
    """

    def __init__(self, config: ModelConfig, layers: Sequence[tuple[int, int, int]]) -> None:
        super().__init__()
        channels, height, width = config.image_shape
        stride = math.prod(stride for _, _, stride in layers)
        if height % stride or width % stride:
            raise ValueError(
                f"a convolutional model shrinks images by {stride}, which does not divide {height} x {width} pixels"
            )
        convolutions = []
        for out_channels, kernel, step in layers:
            convolutions.append(GatedConv(channels, out_channels, kernel, step))
            channels = out_channels
        self.convolutions = nn.Sequential(*convolutions, nn.Flatten())
        self.features = channels * (height // stride) * (width // stride)
        self.kept_values = _kept_values(self, config)

    def forward(self, x: Tensor) -> Tensor:
        return over_images(self.convolutions, x, self.kept_values)


class ConvEncoder(ImageEncoder):
    r"""Posterior $q(z \mid x)$ with gated convolutions."""

    def __init__(self, config: ModelConfig, latent_dim: int) -> None:
        hidden = ConvFeatures(config, TOP_LAYERS)
        super().__init__(hidden, hidden.features, latent_dim)


class ConvPosterior(BottomPosterior):
    r"""Posterior $q(z_1 \mid x, z_2)$ with gated convolutions."""

    def __init__(self, config: ModelConfig) -> None:
        image = ConvFeatures(config, BOTTOM_LAYERS)
        super().__init__(image, image.features, config)


class ConvDecoder(nn.Module):
    r"""Parameters of $p(x \mid z_1, z_2)$: the latents become a rough image, which gated convolutions refine.

    `forward` takes $z_2$, $(*, M_2)$, and $z_1$, $(*, M_1)$, to $(*, P H W)$ with P numbers per pixel.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, channels = config.hidden_dim, config.image_shape[0]
        self.image_shape = config.image_shape
        self.z1 = GatedDense(config.z1_dim, hidden)
        self.z2 = GatedDense(config.z2_dim, hidden)
        self.joint = GatedPair(hidden, hidden, config.num_pixels)
        self.convolutions = nn.Sequential(GatedConv(channels, 64, 3), *(GatedConv(64, 64, 3) for _ in range(3)))
        self.kept_values = _kept_values(self, config)
        self.pixels = nn.Conv2d(64, LIKELIHOODS[config.likelihood].outputs(channels), 1)

    def forward(self, z2: Tensor, z1: Tensor) -> Tensor:
        rough = self.joint(self.joint.first(self.z1(z1)), self.z2(z2))
        image = rough.reshape(*rough.shape[:-1], *self.image_shape)
        return over_images(self._pixel_params, image, self.kept_values)

    def _pixel_params(self, image: Tensor) -> Tensor:
        return self.pixels(self.convolutions(image)).flatten(1)


def _kept_values(network: nn.Module, config: ModelConfig) -> int:
    """Numbers per image that the backward pass keeps, about: four for each output of a gated convolution."""
    (_, height, width), kept, stride = config.image_shape, 0, 1
    for layer in network.modules():
        if isinstance(layer, GatedConv):
            stride *= layer.conv.stride[0]
            kept += 2 * layer.conv.out_channels * (height // stride) * (width // stride)
    return kept
