"""Multilayer perceptrons of two gated hidden layers (Sec. 5.1), for `VAE` and `HVAE`."""

from __future__ import annotations

from torch import Tensor, nn

from vampprior.config import ModelConfig
from vampprior.distributions import DiagonalNormal
from vampprior.layers import Dense, GatedDense, GatedPair, NormalHead
from vampprior.likelihoods import LIKELIHOODS
from vampprior.networks.posteriors import BottomPosterior, ImageEncoder

__all__ = ["DenseConditional", "DenseDecoder", "DenseEncoder", "DensePosterior", "SingleDecoder"]


class DenseEncoder(ImageEncoder):
    r"""Posterior $q(z \mid x)$ with dense layers."""

    def __init__(self, config: ModelConfig, latent_dim: int) -> None:
        hidden = _ImageLayers(*_hidden_layers(config.num_pixels, config.hidden_dim))
        super().__init__(hidden, config.hidden_dim, latent_dim)


class DensePosterior(BottomPosterior):
    r"""Posterior $q(z_1 \mid x, z_2)$ with dense layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(_ImageLayer(config.num_pixels, config.hidden_dim), config.hidden_dim, config)


class DenseConditional(nn.Module):
    r"""Conditional prior $p(z_1 \mid z_2)$ (Eq. 13).

    `forward` takes $z_2$, $(*, M_2)$, to normals over $(*, M_1)$.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.hidden = _hidden_layers(config.z2_dim, config.hidden_dim)
        self.head = NormalHead(config.hidden_dim, config.z1_dim)

    def forward(self, z2: Tensor) -> DiagonalNormal:
        return self.head(self.hidden(z2))


class SingleDecoder(nn.Module):
    r"""Parameters of $p(x \mid z_1)$ in the model of one stochastic layer.

    `forward` takes $z_1$, $(*, M_1)$, to $(*, P H W)$ with P numbers per pixel.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.hidden = _hidden_layers(config.z1_dim, config.hidden_dim)
        self.pixels = Dense(config.hidden_dim, num_parameters(config))

    def forward(self, z1: Tensor) -> Tensor:
        return self.pixels(self.hidden(z1))


class DenseDecoder(nn.Module):
    r"""Parameters of $p(x \mid z_1, z_2)$.

    `forward` takes $z_2$, $(*, M_2)$, and $z_1$, $(*, M_1)$, to $(*, P H W)$ with P numbers per pixel.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden = config.hidden_dim
        self.z1 = GatedDense(config.z1_dim, hidden)
        self.z2 = GatedDense(config.z2_dim, hidden)
        self.joint = GatedPair(hidden, hidden, hidden)
        self.pixels = Dense(hidden, num_parameters(config))

    def forward(self, z2: Tensor, z1: Tensor) -> Tensor:
        return self.pixels(self.joint(self.joint.first(self.z1(z1)), self.z2(z2)))


def num_parameters(config: ModelConfig) -> int:
    """Numbers P H W that the decoder emits for an image."""
    channels, height, width = config.image_shape
    return LIKELIHOODS[config.likelihood].outputs(channels) * height * width


def _hidden_layers(in_features: int, hidden_dim: int) -> nn.Sequential:
    return nn.Sequential(GatedDense(in_features, hidden_dim), GatedDense(hidden_dim, hidden_dim))


class _ImageLayer(GatedDense):
    """Gated dense layer of flattened images, $(*, C, H, W)$ to $(*, out)$."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(-3))


class _ImageLayers(nn.Sequential):
    """Layers applied to flattened images, $(*, C, H, W)$ to $(*, out)$."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = x.flatten(-3)
        for layer in self:
            hidden = layer(hidden)
        return hidden
