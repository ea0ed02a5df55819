"""The four models of the paper, one with residual networks, and the registry of all models."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from vampprior.config import ModelConfig
from vampprior.distributions import DiagonalNormal, Mixture
from vampprior.latent_model import Context, LatentModel, Latents, PosteriorSample
from vampprior.likelihoods import LIKELIHOODS
from vampprior.networks.conv import ConvDecoder, ConvEncoder, ConvPosterior
from vampprior.networks.mlp import DenseConditional, DenseDecoder, DenseEncoder, DensePosterior, SingleDecoder
from vampprior.networks.resnet import ResNetDecoder, ResNetEncoder, ResNetPosterior
from vampprior.pixelcnn import PixelCNNDecoder
from vampprior.priors import PRIORS

__all__ = [
    "HVAE",
    "MODELS",
    "VAE",
    "ConvHVAE",
    "PixelHVAE",
    "ResNetHVAE",
    "build_model",
]


class VAE(LatentModel):
    r"""Variational autoencoder with one stochastic layer: $q(z_1 \mid x)$ and $p(x \mid z_1) p(z_1)$ (Sec. 2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.latent_dims = {"z1": config.z1_dim}
        self.q_z1 = DenseEncoder(config, config.z1_dim)
        self.p_x = SingleDecoder(config)
        self.prior = PRIORS[config.prior](config, config.z1_dim)

    def prior_mixture(self) -> Mixture:
        return self.prior.mixture(self.q_z1)

    def condition(self, x: Tensor) -> Context:
        return self.q_z1(x)

    def rsample(self, context: Context, noise: Tensor) -> PosteriorSample:
        q_z1 = DiagonalNormal(*context)
        return PosteriorSample((q_z1.rsample(noise),), q_z1.log_prob_of_sample(noise))

    def encode(self, x: Tensor) -> dict[str, DiagonalNormal]:
        return {"z1": self.q_z1(x)}

    def log_q(self, x: Tensor, latents: Latents) -> Tensor:
        (z1,) = latents
        return self.q_z1(x).log_prob(z1)

    def log_p(self, latents: Latents, mixture: Mixture) -> Tensor:
        (z1,) = latents
        return mixture.log_prob(z1)

    def ancestral_sample(self, top: DiagonalNormal, noise: Tensor, temperature: float = 1.0) -> Latents:
        return (top.rsample(noise, temperature),)

    def decode(self, latents: Latents) -> Tensor:
        return self.p_x(*latents)

    def posterior_modules(self) -> tuple[nn.Module, ...]:
        return (self.q_z1,)


class HVAE(LatentModel):
    r"""Model of two stochastic layers (Sec. 4, Eq. 10-15).

    The posterior is $q(z_1 \mid x, z_2)\, q(z_2 \mid x)$, the model $p(x \mid z_1, z_2)\, p(z_1 \mid z_2)\, p(z_2)$.
    """

    top_encoder: ClassVar[type[DenseEncoder | ConvEncoder | ResNetEncoder]] = DenseEncoder
    bottom_posterior: ClassVar[type[DensePosterior | ConvPosterior | ResNetPosterior]] = DensePosterior
    decoder: ClassVar[type[nn.Module]] = DenseDecoder

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.latent_dims = {"z2": config.z2_dim, "z1": config.z1_dim}
        self.q_z2 = self.top_encoder(config, config.z2_dim)
        self.q_z1 = self.bottom_posterior(config)
        self.p_z1 = DenseConditional(config)
        self.p_x = self.decoder(config)
        self.prior = PRIORS[config.prior](config, config.z2_dim)

    def prior_mixture(self) -> Mixture:
        return self.prior.mixture(self.q_z2)

    def condition(self, x: Tensor) -> Context:
        return (*self.q_z2(x), self.q_z1.image_half(x))

    def rsample(self, context: Context, noise: Tensor) -> PosteriorSample:
        mean, log_var, image_half = context
        noise2, noise1 = self._split(noise)
        q_z2 = DiagonalNormal(mean, log_var)
        z2 = q_z2.rsample(noise2)
        q_z1 = self.q_z1(image_half, z2)
        log_q = q_z2.log_prob_of_sample(noise2) + q_z1.log_prob_of_sample(noise1)
        return PosteriorSample((z2, q_z1.rsample(noise1)), log_q)

    def encode(self, x: Tensor) -> dict[str, DiagonalNormal]:
        mean, log_var, image_half = self.condition(x)
        return {"z2": DiagonalNormal(mean, log_var), "z1": self.q_z1(image_half, mean)}

    def log_q(self, x: Tensor, latents: Latents) -> Tensor:
        z2, z1 = latents
        mean, log_var, image_half = self.condition(x)
        return DiagonalNormal(mean, log_var).log_prob(z2) + self.q_z1(image_half, z2).log_prob(z1)

    def log_p(self, latents: Latents, mixture: Mixture) -> Tensor:
        z2, z1 = latents
        return mixture.log_prob(z2) + self.p_z1(z2).log_prob(z1)

    def ancestral_sample(self, top: DiagonalNormal, noise: Tensor, temperature: float = 1.0) -> Latents:
        noise2, noise1 = self._split(noise)
        z2 = top.rsample(noise2, temperature)
        return z2, self.p_z1(z2).rsample(noise1, temperature)

    def decode(self, latents: Latents) -> Tensor:
        return self.p_x(*latents)

    def posterior_modules(self) -> tuple[nn.Module, ...]:
        return self.q_z2, self.q_z1

    def _split(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        noise2, noise1 = torch.split(noise, list(self.latent_dims.values()), dim=-1)
        return noise2, noise1


class ConvHVAE(HVAE):
    """Model of two stochastic layers with gated convolutions in the encoders and in the decoder (Sec. 5.1)."""

    top_encoder = ConvEncoder
    bottom_posterior = ConvPosterior
    decoder = ConvDecoder


class PixelHVAE(HVAE):
    """Model of two stochastic layers with convolutional encoders and a PixelCNN decoder (Sec. 5.1)."""

    autoregressive = True
    top_encoder = ConvEncoder
    bottom_posterior = ConvPosterior
    decoder = PixelCNNDecoder
    p_x: PixelCNNDecoder

    def log_px(self, x: Tensor, latents: Latents) -> Tensor:
        return self.likelihood.log_prob(x, self.p_x(*latents, x))

    def decode(self, latents: Latents) -> Tensor:
        raise NotImplementedError("the pixels of an autoregressive model have no parameters before they are drawn")

    def draw_image(self, latents: Latents, pixel_noise: Tensor) -> Tensor:
        z2, z1 = latents
        return self._to_images(self.p_x.sample(z2, z1, pixel_noise, self.likelihood))


class ResNetHVAE(HVAE):
    """Model of two stochastic layers with residual networks, for images of 8 to 128 pixels a side.

    Both posteriors share the features of the image.
    """

    top_encoder = ResNetEncoder
    bottom_posterior = ResNetPosterior
    decoder = ResNetDecoder

    def condition(self, x: Tensor) -> Context:
        features = self.q_z2.hidden(x)
        return (*self.q_z2.head(features), self.q_z1.image_half(features))


MODELS: dict[str, type[LatentModel]] = {
    "vae": VAE,
    "hvae": HVAE,
    "conv_hvae": ConvHVAE,
    "pixel_hvae": PixelHVAE,
    "resnet_hvae": ResNetHVAE,
}
"""Models by the name that `ModelConfig.model` takes."""


def build_model(config: ModelConfig) -> LatentModel:
    """A freshly initialized model.

    Raises:
        ValueError: If the config names an unknown model, prior or likelihood, or images the networks cannot take.

    Example:
        >>> type(build_model(ModelConfig(model="vae")))
        <class 'vampprior.models.VAE'>
    """
    for name, known in (("model", MODELS), ("prior", PRIORS), ("likelihood", LIKELIHOODS)):
        if getattr(config, name) not in known:
            raise ValueError(f"unknown {name} {getattr(config, name)!r}; known are {', '.join(sorted(known))}")
    return MODELS[config.model](config)
