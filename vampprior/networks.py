"""The multilayer perceptrons of `VAE` and `HVAE` (Sec. 5.1: two gated hidden layers of 300 units)."""

from __future__ import annotations

from torch import Tensor, nn

from vampprior.config import ModelConfig
from vampprior.distributions import LIKELIHOODS, DiagonalNormal
from vampprior.layers import Dense, GatedDense, GatedPair, NormalHead

__all__ = ["DenseConditional", "DenseDecoder", "DenseEncoder", "DensePosterior", "SingleDecoder"]


class DenseEncoder(nn.Module):
    """q(z | x) from the image alone.

    forward: (*, C, H, W) -> normals over (*, latent_dim)
    """

    def __init__(self, config: ModelConfig, latent_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            GatedDense(config.num_pixels, config.hidden_dim),
            GatedDense(config.hidden_dim, config.hidden_dim),
        )
        self.head = NormalHead(config.hidden_dim, latent_dim)

    def forward(self, x: Tensor) -> DiagonalNormal:
        return self.head(self.hidden(x.flatten(-3)))


class DensePosterior(nn.Module):
    """q(z1 | x, z2) (Eq. 14), in two steps: `image_half` once per image, `forward` once per draw of z2.

    image_half: (*, C, H, W) -> (*, 2 hidden_dim)
    forward:    (*, 2 hidden_dim), (*, z2_dim) -> normals over (*, z1_dim)
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden = config.hidden_dim
        self.image = GatedDense(config.num_pixels, hidden)
        self.latent = GatedDense(config.z2_dim, hidden)
        self.joint = GatedPair(hidden, hidden, hidden)
        self.head = NormalHead(hidden, config.z1_dim)

    def image_half(self, x: Tensor) -> Tensor:
        return self.joint.first(self.image(x.flatten(-3)))

    def forward(self, image_half: Tensor, z2: Tensor) -> DiagonalNormal:
        return self.head(self.joint(image_half, self.latent(z2)))


class DenseConditional(nn.Module):
    """p(z1 | z2) (Eq. 13).

    forward: (*, z2_dim) -> normals over (*, z1_dim)
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden = config.hidden_dim
        self.hidden = nn.Sequential(GatedDense(config.z2_dim, hidden), GatedDense(hidden, hidden))
        self.head = NormalHead(hidden, config.z1_dim)

    def forward(self, z2: Tensor) -> DiagonalNormal:
        return self.head(self.hidden(z2))


class SingleDecoder(nn.Module):
    """p(x | z1) of the one-layer model: the parameters of every pixel's distribution.

    forward: (*, z1_dim) -> (*, outputs * D)
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden = config.hidden_dim
        self.hidden = nn.Sequential(GatedDense(config.z1_dim, hidden), GatedDense(hidden, hidden))
        self.pixels = Dense(hidden, LIKELIHOODS[config.likelihood].outputs * config.num_pixels)

    def forward(self, z1: Tensor) -> Tensor:
        return self.pixels(self.hidden(z1))


class DenseDecoder(nn.Module):
    """p(x | z1, z2): the parameters of every pixel's distribution.

    forward: (*, z1_dim), (*, z2_dim) -> (*, outputs * D)
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden = config.hidden_dim
        self.z1 = GatedDense(config.z1_dim, hidden)
        self.z2 = GatedDense(config.z2_dim, hidden)
        self.joint = GatedPair(hidden, hidden, hidden)
        self.pixels = Dense(hidden, LIKELIHOODS[config.likelihood].outputs * config.num_pixels)

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:
        return self.pixels(self.joint(self.joint.first(self.z1(z1)), self.z2(z2)))
