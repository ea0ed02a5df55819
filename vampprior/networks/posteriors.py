"""Posteriors of the latents, given the network that computes features of an image."""

from __future__ import annotations

from torch import Tensor, nn

from vampprior.config import ModelConfig
from vampprior.distributions import DiagonalNormal
from vampprior.layers import GatedDense, GatedPair, NormalHead

__all__ = ["BottomPosterior", "ImageEncoder"]


class ImageEncoder(nn.Module):
    r"""Posterior $q(z \mid x)$ given the image alone.

    `forward` takes images $(*, C, H, W)$ to normals over $(*, M)$ with M = `latent_dim`.

    Args:
        hidden: Network from images $(*, C, H, W)$ to $(*, features)$.
        features: Width of its output.
        latent_dim: Units M of the latent.

    Example:
        >>> ImageEncoder(nn.Flatten(-3), features=16, latent_dim=2)(torch.zeros(5, 1, 4, 4)).mean.shape
        torch.Size([5, 2])
    """

    def __init__(self, hidden: nn.Module, features: int, latent_dim: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.head = NormalHead(features, latent_dim)

    def forward(self, x: Tensor) -> DiagonalNormal:
        return self.head(self.hidden(x))


class BottomPosterior(nn.Module):
    r"""Posterior $q(z_1 \mid x, z_2)$ (Eq. 14), with a part that is computed once per image.

    `image_half` takes images $(*, C, H, W)$ to $(*, 2 H)$ with H = `hidden_dim`; `forward` takes $(*, 2 H)$ and $z_2$,
    $(*, M_2)$, to normals over $(*, M_1)$.

    Args:
        image: Network from images $(*, C, H, W)$ to $(*, features)$.
        features: Width of its output.
        config: The model's configuration.

    Example:
        >>> posterior = BottomPosterior(nn.Flatten(-3), 16, ModelConfig(image_shape=(1, 4, 4)))
        >>> posterior(posterior.image_half(torch.zeros(1, 1, 4, 4)), torch.zeros(7, 40)).mean.shape
        torch.Size([7, 40])
    """

    def __init__(self, image: nn.Module, features: int, config: ModelConfig) -> None:
        super().__init__()
        self.image = image
        self.latent = GatedDense(config.z2_dim, features)
        self.joint = GatedPair(features, features, config.hidden_dim)
        self.head = NormalHead(config.hidden_dim, config.z1_dim)

    def image_half(self, x: Tensor) -> Tensor:
        return self.joint.first(self.image(x))

    def forward(self, image_half: Tensor, z2: Tensor) -> DiagonalNormal:
        return self.head(self.joint(image_half, self.latent(z2)))
