"""Deep latent-variable models of images: what each can do (`LatentModel`), and the four of the paper."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from vampprior.config import ModelConfig
from vampprior.convolutional import ConvDecoder, ConvEncoder, ConvPosterior, convolution_rows
from vampprior.distributions import LIKELIHOODS, DiagonalNormal, Mixture
from vampprior.networks import DenseConditional, DenseDecoder, DenseEncoder, DensePosterior, SingleDecoder
from vampprior.pixelcnn import PixelCNNDecoder
from vampprior.priors import PRIORS, Prior

__all__ = [
    "HVAE",
    "MODELS",
    "VAE",
    "Context",
    "ConvHVAE",
    "Elbo",
    "LatentModel",
    "Latents",
    "PixelHVAE",
    "build_model",
]

Context = tuple[Tensor, ...]
"""What inference needs of a batch of images, computed once: tensors whose first dimension is the image."""

Latents = tuple[Tensor, ...]
"""One tensor (*, M) per stochastic layer, bottom first: (z1, z2)."""


class Elbo(NamedTuple):
    """A single-sample evidence lower bound, in nats, per image; each tensor has the shape of the batch.

    value:          reconstruction - kl_weight * kl
    reconstruction: log p(x | z) at the sampled latents
    kl:             log q(z | x) - log p(z) at the same latents
    """

    value: Tensor
    reconstruction: Tensor
    kl: Tensor


class Posterior(NamedTuple):
    """A joint draw of the latents given images: the draw, its log-density under q and that under the prior."""

    latents: Latents
    log_q: Tensor
    log_p: Tensor


class LatentModel(nn.Module, ABC):
    """A density model of images with stochastic layers z and a prior over the top one.

    Images have shape (N, C, H, W) and values in [0, 1]. Every draw takes its standard-normal noise as an argument:
    `noise_dim` numbers for one image, those of the top layer first. Nothing here keeps a random state.
    """

    prior: Prior
    latent_dims: dict[str, int]
    """Width of each stochastic layer, top first: the order in which they are drawn."""
    autoregressive: ClassVar[bool] = False
    """Whether pixels depend on each other given the latents: then an image can be drawn but has no mean to show."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.likelihood = LIKELIHOODS[config.likelihood]

    @property
    def chunk_rows(self) -> int:
        """Rows that a thread of a CPU best computes at once: more gain nothing, and keep other work waiting."""
        return 512

    @property
    def noise_dim(self) -> int:
        """Standard-normal numbers that one draw of all latents takes."""
        return sum(self.latent_dims.values())

    @abstractmethod
    def prior_mixture(self) -> Mixture:
        """The prior over the top latent; compute it once where the parameters do not change."""

    @abstractmethod
    def condition(self, x: Tensor) -> Context:
        """The part of inference that depends on the images alone, (N, C, H, W) -> tensors (N, ...)."""

    @abstractmethod
    def infer(self, context: Context, noise: Tensor, mixture: Mixture) -> Posterior:
        """Draw all latents from q(z | x); `context` broadcasts against noise (*, noise_dim)."""

    @abstractmethod
    def log_q(self, x: Tensor, latents: Latents) -> Tensor:
        """log q(z | x) of given latents, images (N, C, H, W) and latents (N, M) -> (N,)."""

    @abstractmethod
    def log_p(self, latents: Latents, mixture: Mixture) -> Tensor:
        """log p(z) of all latents, (*, M) -> (*)."""

    @abstractmethod
    def posteriors(self, x: Tensor) -> dict[str, DiagonalNormal]:
        """q of each layer, by name, top first, with the layers above at their means; (N, C, H, W) -> (N, M)."""

    @abstractmethod
    def descend(self, top: DiagonalNormal, noise: Tensor, temperature: float = 1.0) -> Latents:
        """Ancestral draw: the top latent from `top`, the others from their conditional priors; noise (N, noise_dim)."""

    @abstractmethod
    def decode(self, latents: Latents) -> Tensor:
        """Parameters of p(x | z), shape (*, outputs * D)."""

    # What follows is the same for every model.

    def log_ratio(self, x: Tensor, context: Context, noise: Tensor, mixture: Mixture) -> tuple[Tensor, Tensor]:
        """log p(x | z) and log q(z | x) - log p(z) at z drawn with `noise`; all broadcasts against (*, noise_dim).

        The first less the second is the logarithm of an importance weight, whose expectation is the ELBO (Eq. 1).
        """
        latents, log_q, log_p = self.infer(context, noise, mixture)
        return self.log_px(x, latents), log_q - log_p

    def log_px(self, x: Tensor, latents: Latents) -> Tensor:
        """log p(x | z), images (*, C, H, W) and latents (*, M) -> (*)."""
        return self.likelihood.log_prob(x, self.decode(latents))

    def elbo(self, x: Tensor, noise: Tensor, kl_weight: float | Tensor = 1.0, mixture: Mixture | None = None) -> Elbo:
        """Single-sample lower bound (Eq. 2-3), per image: x (N, C, H, W), noise (N, noise_dim) -> tensors (N,)."""
        mixture = self.prior_mixture() if mixture is None else mixture
        reconstruction, kl = self.log_ratio(x, self.condition(x), noise, mixture)
        return Elbo(reconstruction - kl_weight * kl, reconstruction, kl)

    def mean_image(self, latents: Latents) -> Tensor:
        """Expected image given the latents, values in [0, 1], (N, M) each -> (N, C, H, W); not if `autoregressive`."""
        return self._to_images(self.likelihood.mean(self.decode(latents)))

    def draw_image(self, latents: Latents, uniform: Tensor) -> Tensor:
        """Image drawn from p(x | z) with uniform numbers of shape (N, D) -> (N, C, H, W)."""
        return self._to_images(self.likelihood.sample(self.decode(latents), uniform))

    def _to_images(self, pixels: Tensor) -> Tensor:
        return pixels.reshape(*pixels.shape[:-1], *self.config.image_shape)


class VAE(LatentModel):
    """One stochastic layer: q(z1 | x) and p(x | z1) p(z1) (Sec. 2)."""

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

    def infer(self, context: Context, noise: Tensor, mixture: Mixture) -> Posterior:
        q_z1 = DiagonalNormal(*context)
        z1 = q_z1.sample(noise)
        return Posterior((z1,), q_z1.log_prob_of_sample(noise), mixture.log_prob(z1))

    def log_q(self, x: Tensor, latents: Latents) -> Tensor:
        (z1,) = latents
        return self.q_z1(x).log_prob(z1)

    def log_p(self, latents: Latents, mixture: Mixture) -> Tensor:
        (z1,) = latents
        return mixture.log_prob(z1)

    def posteriors(self, x: Tensor) -> dict[str, DiagonalNormal]:
        return {"z1": self.q_z1(x)}

    def descend(self, top: DiagonalNormal, noise: Tensor, temperature: float = 1.0) -> Latents:
        return (top.sample(noise, temperature),)

    def decode(self, latents: Latents) -> Tensor:
        return self.p_x(*latents)


class HVAE(LatentModel):
    """The two-layer model of Sec. 4: q(z1 | x, z2) q(z2 | x) and p(x | z1, z2) p(z1 | z2) p(z2) (Eq. 10-15)."""

    top_encoder: ClassVar[type[DenseEncoder | ConvEncoder]] = DenseEncoder
    bottom_posterior: ClassVar[type[DensePosterior | ConvPosterior]] = DensePosterior
    decoder: ClassVar[type[DenseDecoder | ConvDecoder | PixelCNNDecoder]] = DenseDecoder

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

    def infer(self, context: Context, noise: Tensor, mixture: Mixture) -> Posterior:
        mean, log_var, image_half = context
        noise2, noise1 = self._split(noise)
        q_z2 = DiagonalNormal(mean, log_var)
        z2 = q_z2.sample(noise2)
        q_z1 = self.q_z1(image_half, z2)
        z1 = q_z1.sample(noise1)
        log_q = q_z2.log_prob_of_sample(noise2) + q_z1.log_prob_of_sample(noise1)
        return Posterior((z1, z2), log_q, self.log_p((z1, z2), mixture))

    def log_q(self, x: Tensor, latents: Latents) -> Tensor:
        z1, z2 = latents
        return self.q_z2(x).log_prob(z2) + self.q_z1(self.q_z1.image_half(x), z2).log_prob(z1)

    def log_p(self, latents: Latents, mixture: Mixture) -> Tensor:
        z1, z2 = latents
        return mixture.log_prob(z2) + self.p_z1(z2).log_prob(z1)

    def posteriors(self, x: Tensor) -> dict[str, DiagonalNormal]:
        mean, log_var, image_half = self.condition(x)
        return {"z2": DiagonalNormal(mean, log_var), "z1": self.q_z1(image_half, mean)}

    def descend(self, top: DiagonalNormal, noise: Tensor, temperature: float = 1.0) -> Latents:
        noise2, noise1 = self._split(noise)
        z2 = top.sample(noise2, temperature)
        return self.p_z1(z2).sample(noise1, temperature), z2

    def decode(self, latents: Latents) -> Tensor:
        return self.p_x(*latents)

    def _split(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        noise2, noise1 = torch.split(noise, list(self.latent_dims.values()), dim=-1)
        return noise2, noise1


class ConvHVAE(HVAE):
    """The two-layer model with gated convolutions in the encoders and the decoder."""

    top_encoder = ConvEncoder
    bottom_posterior = ConvPosterior
    decoder = ConvDecoder

    @property
    def chunk_rows(self) -> int:
        return convolution_rows(self.config)


class PixelHVAE(HVAE):
    """The two-layer model with convolutional encoders and a PixelCNN decoder, which draws pixel after pixel."""

    autoregressive = True
    top_encoder = ConvEncoder
    bottom_posterior = ConvPosterior
    decoder = PixelCNNDecoder
    p_x: PixelCNNDecoder

    @property
    def chunk_rows(self) -> int:
        return convolution_rows(self.config)

    def log_px(self, x: Tensor, latents: Latents) -> Tensor:
        return self.likelihood.log_prob(x, self.p_x(*latents, x))

    def decode(self, latents: Latents) -> Tensor:
        raise NotImplementedError("the pixels of an autoregressive model have no parameters before they are drawn")

    def draw_image(self, latents: Latents, uniform: Tensor) -> Tensor:
        z1, z2 = latents
        return self._to_images(self.p_x.sample(z1, z2, uniform, self.likelihood))


MODELS: dict[str, type[LatentModel]] = {"vae": VAE, "hvae": HVAE, "conv_hvae": ConvHVAE, "pixel_hvae": PixelHVAE}


def build_model(config: ModelConfig) -> LatentModel:
    """A freshly initialized model; raises `ValueError` if the config names an unknown model, prior or likelihood."""
    for name, known in (("model", MODELS), ("prior", PRIORS), ("likelihood", LIKELIHOODS)):
        if getattr(config, name) not in known:
            raise ValueError(f"unknown {name} {getattr(config, name)!r}; known are {', '.join(sorted(known))}")
    return MODELS[config.model](config)
