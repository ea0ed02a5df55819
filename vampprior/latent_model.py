"""Base class of latent-variable models of images.

Stochastic layers come top first, in the order in which latents are drawn: (z2, z1) in latents, in `latent_dims` and in
`encode`. In the last dimension of noise the numbers of z2 come before those of z1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from vampprior.config import ModelConfig
from vampprior.distributions import DiagonalNormal, Mixture
from vampprior.likelihoods import LIKELIHOODS
from vampprior.networks.resnet import GridConv
from vampprior.priors import Prior

if TYPE_CHECKING:
    from vampprior.importance import LogLikelihood

__all__ = ["Bound", "Context", "LatentModel", "Latents", "PosteriorSample", "draw_random"]

Context = tuple[Tensor, ...]
"""What the posterior needs of a batch of images, computed once: tensors whose first dimension is the image."""

Latents = tuple[Tensor, ...]
"""One tensor $(*, M)$ per stochastic layer, top first: (z2, z1), or (z1,) for a single layer."""


class Bound(NamedTuple):
    r"""Lower bound of log p(x) in nats, and its parts; each tensor has one number per image, shape $(N)$.

    Args:
        value: The bound with the KL weighted, which training maximizes.
        bound: The bound itself.
        reconstruction: $\log p(x \mid z)$, mean over the draws of z.
        kl: $\log q(z \mid x) - \log p(z)$, mean over the draws of z.
    """

    value: Tensor
    bound: Tensor
    reconstruction: Tensor
    kl: Tensor


class PosteriorSample(NamedTuple):
    r"""Joint draw of all latents from $q(z \mid x)$ and its log-density $\log q(z \mid x)$, shape $(*)$."""

    latents: Latents
    log_q: Tensor


class LatentModel(nn.Module, ABC):
    """Density model of images with stochastic layers z and a prior over the top one.

    Images have shape $(N, C, H, W)$ and values in [0, 1]. Random numbers come from a `generator`, torch's global one by
    default, or are given: `noise` is standard-normal and has `noise_dim` numbers per draw of the latents,
    `pixel_noise` is uniform in [0, 1) and has one number per pixel. `mixture` is the prior, from `prior_mixture`; give
    it where parameters do not change between calls and it need not be computed again.

    Subclasses set `latent_dims` and `prior`, and define the abstract methods.

    Args:
        config: The architecture.

    Example:
        >>> from vampprior import build_model
        >>> model = build_model(ModelConfig(image_shape=(1, 8, 8), num_components=10)).eval()
        >>> images = model.sample(5)
        >>> images.shape
        torch.Size([5, 1, 8, 8])
        >>> {layer: tuple(normal.mean.shape) for layer, normal in model.encode(images).items()}
        {'z2': (5, 40), 'z1': (5, 40)}
        >>> model.reconstruct(images).shape
        torch.Size([5, 1, 8, 8])
        >>> score = model.log_likelihood(images, num_samples=50)
        >>> bool((score.value >= score.elbo).all())
        True
    """

    prior: Prior
    latent_dims: dict[str, int]
    """Units of each stochastic layer, top first."""
    autoregressive: ClassVar[bool] = False
    """True if pixels depend on each other given the latents; images can then be drawn but have no mean."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.likelihood = LIKELIHOODS[config.likelihood]

    # Each model defines these.

    @abstractmethod
    def prior_mixture(self) -> Mixture:
        """The prior over the top latent."""

    @abstractmethod
    def condition(self, x: Tensor) -> Context:
        """The part of the posterior that depends on the images alone, $(N, C, H, W)$ to tensors $(N, ...)$."""

    @abstractmethod
    def rsample(self, context: Context, noise: Tensor) -> PosteriorSample:
        r"""Reparameterized draw of all latents from $q(z \mid x)$.

        The context of images is `condition(x)`; it broadcasts against the noise, $(*, noise\_dim)$.
        """

    @abstractmethod
    def encode(self, x: Tensor) -> dict[str, DiagonalNormal]:
        """Posterior of each layer by name, top first, with the layers above at their means; normals over $(N, M)$."""

    @abstractmethod
    def log_q(self, x: Tensor, latents: Latents) -> Tensor:
        r"""$\log q(z \mid x)$ of given latents; images $(N, C, H, W)$ and latents $(N, M)$ to $(N)$."""

    @abstractmethod
    def log_p(self, latents: Latents, mixture: Mixture) -> Tensor:
        r"""$\log p(z)$ of all latents, $(*, M)$ to $(*)$."""

    @abstractmethod
    def ancestral_sample(self, top: DiagonalNormal, noise: Tensor, temperature: float = 1.0) -> Latents:
        """Draw the top latent from `top` and the others from their conditional priors; noise $(N, noise_dim)$."""

    @abstractmethod
    def decode(self, latents: Latents) -> Tensor:
        r"""Parameters of $p(x \mid z)$, shape $(*, P H W)$ with P = `likelihood.outputs(C)`."""

    @abstractmethod
    def posterior_modules(self) -> tuple[nn.Module, ...]:
        r"""The networks of $q(z \mid x)$."""

    # The rest is the same for every model.

    @property
    def noise_dim(self) -> int:
        """Standard-normal numbers that one draw of all latents takes."""
        return sum(self.latent_dims.values())

    def forward(
        self, x: Tensor, noise: Tensor, kl_weight: float | Tensor = 1.0, mixture: Mixture | None = None
    ) -> Bound:
        r"""Training step: the bound $\log \frac{1}{k} \sum_i p(x, z_i) / q(z_i \mid x)$ from k draws per image.

        One draw gives the ELBO (Eq. 2-3); several draws give a tighter bound (Burda et al., 2016, Eq. 8,
        [paper](https://arxiv.org/abs/1509.00519)). Call the module itself, so that `DistributedDataParallel` and
        `torch.compile` can hook in.

        Args:
            x: Images $(N, C, H, W)$.
            noise: Shape $(N, k, noise\_dim)$.
            kl_weight: Factor of the KL in `value`, for warm-up.
            mixture: The prior.

        Example:
            >>> from vampprior import build_model
            >>> model = build_model(ModelConfig(image_shape=(1, 8, 8), num_components=10))
            >>> bound = model(torch.zeros(3, 1, 8, 8), torch.randn(3, 1, model.noise_dim), kl_weight=0.5)
            >>> (-bound.value.mean()).backward()
        """
        mixture = self.prior_mixture() if mixture is None else mixture
        context = tuple(part.unsqueeze(1) for part in self.condition(x))
        log_px, kl = self.log_px_and_kl(x.unsqueeze(1), context, noise, mixture)
        value, bound = _log_mean_exp(log_px - kl_weight * kl), _log_mean_exp(log_px - kl)
        return Bound(value, bound, log_px.mean(1), kl.mean(1))

    def elbo(
        self,
        x: Tensor,
        *,
        noise: Tensor | None = None,
        kl_weight: float | Tensor = 1.0,
        mixture: Mixture | None = None,
        generator: torch.Generator | None = None,
    ) -> Bound:
        """Evidence lower bound from one draw per image (Eq. 2-3); images $(N, C, H, W)$, noise $(N, noise_dim)$."""
        noise = draw_random(torch.randn, (len(x), self.noise_dim), x, generator) if noise is None else noise
        return self(x, noise.unsqueeze(1), kl_weight, mixture)

    def log_likelihood(
        self,
        x: Tensor,
        *,
        num_samples: int = 5000,
        noise: Tensor | None = None,
        mixture: Mixture | None = None,
        generator: torch.Generator | None = None,
        refine: int = 0,
        max_bytes: int | None = None,
    ) -> LogLikelihood:
        """Importance-sampling estimate of log p(x) per image, see `vampprior.importance.log_likelihood`."""
        from vampprior.importance import MAX_BYTES, log_likelihood  # it imports this module

        return log_likelihood(
            self,
            x,
            num_samples=num_samples,
            noise=noise,
            mixture=mixture,
            generator=generator,
            refine=refine,
            max_bytes=MAX_BYTES if max_bytes is None else max_bytes,
        )

    def log_px_and_kl(self, x: Tensor, context: Context, noise: Tensor, mixture: Mixture) -> tuple[Tensor, Tensor]:
        r"""$\log p(x \mid z)$ and $\log q(z \mid x) - \log p(z)$ at z drawn with `noise`, $(*, noise\_dim)$.

        Both have shape $(*)$, the noise's leading dimensions. The first minus the second is the logarithm of an
        importance weight, whose expectation is the ELBO (Eq. 1).
        """
        latents, log_q = self.rsample(context, noise)
        return self.log_px(x, latents), log_q - self.log_p(latents, mixture)

    def log_px(self, x: Tensor, latents: Latents) -> Tensor:
        r"""$\log p(x \mid z)$, images $(*, C, H, W)$ and latents $(*, M)$ to $(*)$."""
        return self.likelihood.log_prob(x, self.decode(latents))

    @torch.no_grad()
    def sample(
        self,
        n: int | None = None,
        component: int | Tensor | None = None,
        temperature: float = 1.0,
        *,
        noise: Tensor | None = None,
        pixel_noise: Tensor | None = None,
        mixture: Mixture | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Images from the prior or from one of its components, shape $(N, C, H, W)$.

        Images are means given the latents. They are drawn pixel by pixel if the model is autoregressive, and drawn
        wherever `pixel_noise` is given.

        Args:
            n: Number N of images; by default the length of `noise` or of a tensor `component`, and otherwise 1.
            component: Index of a component, or indices of shape $(N)$ between 0 and K - 1; by default drawn with the
                prior's weights.
            temperature: Factor of the latents' standard deviations.
            noise: Shape $(N, noise_dim)$.
            pixel_noise: Shape $(N, D)$.
            mixture: The prior.
            generator: Source of the numbers that are not given.

        Raises:
            IndexError: If the integer `component` is negative or is not less than the number K of components.
            ValueError: If `n` and the lengths of `component` and `noise` disagree.
        """
        latents = self.sample_latents(n, component, temperature, noise=noise, mixture=mixture, generator=generator)
        return self._render(latents, generator, pixel_noise)

    @torch.no_grad()
    def sample_latents(
        self,
        n: int | None = None,
        component: int | Tensor | None = None,
        temperature: float = 1.0,
        *,
        noise: Tensor | None = None,
        mixture: Mixture | None = None,
        generator: torch.Generator | None = None,
    ) -> Latents:
        """Latents of `sample` with the same arguments and errors, $(N, M)$ per layer."""
        mixture = self.prior_mixture() if mixture is None else mixture
        num_images = _num_images(n, component, noise)
        if noise is None:
            noise = draw_random(torch.randn, (num_images, self.noise_dim), mixture.mean, generator)
        if component is None:
            component = mixture.sample_index(draw_random(torch.rand, (num_images,), mixture.mean, generator))
        elif isinstance(component, int):
            if not 0 <= component < len(mixture.mean):
                raise IndexError(f"component {component} is not between 0 and {len(mixture.mean) - 1}")
            component = torch.full((num_images,), component, device=mixture.mean.device)
        return self.ancestral_sample(mixture.component(component), noise, temperature)

    @torch.no_grad()
    def reconstruct(
        self,
        x: Tensor,
        *,
        noise: Tensor | None = None,
        pixel_noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Images $(N, C, H, W)$ encoded and decoded, at the posterior means or at a draw with `noise`.

        Pixels are means or draws as in `sample`.
        """
        noise = x.new_zeros(len(x), self.noise_dim) if noise is None else noise
        return self._render(self.rsample(self.condition(x), noise).latents, generator, pixel_noise)

    def mean_image(self, latents: Latents) -> Tensor:
        """Mean image given the latents, values in [0, 1], $(N, M)$ each to $(N, C, H, W)$; not if `autoregressive`."""
        return self._to_images(self.likelihood.mean(self.decode(latents), self.config.image_shape[0]))

    def draw_image(self, latents: Latents, pixel_noise: Tensor) -> Tensor:
        r"""Image drawn from $p(x \mid z)$ with uniform numbers of shape $(N, D)$, as $(N, C, H, W)$."""
        channels = self.config.image_shape[0]
        return self._to_images(self.likelihood.sample(self.decode(latents), pixel_noise, channels))

    def posterior_parameters(self) -> Iterator[nn.Parameter]:
        r"""The parameters of $q(z \mid x)$, for training it alone; pseudo-inputs belong to the prior."""
        for module in self.posterior_modules():
            yield from module.parameters()

    def train_posterior(self) -> Self:
        r"""Set $q(z \mid x)$ to training mode and the rest to evaluation mode, for training the posterior alone.

        Batch normalization in the decoder then keeps its running statistics, so $p(x \mid z)$ stays as it is.
        """
        self.eval()
        for module in self.posterior_modules():
            module.train()
        return self

    @property
    def bytes_per_row(self) -> int:
        """Bytes of the largest tensor that one draw of the latents needs in the networks or in the prior.

        Convolutions count as if their output had the size of the image, except those of residual networks, which are
        on grids of known sizes.
        """
        layers = [self._out_values(module) for module in self.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
        return max(self.config.num_components, *layers) * next(self.parameters()).element_size()

    def _out_values(self, module: nn.Linear | nn.Conv2d) -> int:
        """Numbers of the output for one row."""
        if isinstance(module, nn.Linear):
            return module.out_features
        if isinstance(module, GridConv):
            return module.out_values
        _, height, width = self.config.image_shape
        return module.out_channels * height * width

    def _render(self, latents: Latents, generator: torch.Generator | None, pixel_noise: Tensor | None) -> Tensor:
        if pixel_noise is None and not self.autoregressive:
            return self.mean_image(latents)
        if pixel_noise is None:
            pixel_noise = draw_random(torch.rand, (len(latents[0]), self.config.num_pixels), latents[0], generator)
        return self.draw_image(latents, pixel_noise)

    def _to_images(self, pixels: Tensor) -> Tensor:
        return pixels.reshape(*pixels.shape[:-1], *self.config.image_shape)


def _num_images(n: int | None, component: int | Tensor | None, noise: Tensor | None) -> int:
    """Number of images on which the given arguments agree; 1 if all are None or an index. Raises `ValueError`."""
    # lengths are symbolic while tracing and cannot be compared
    if noise is not None and torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return noise.shape[0]
    lengths = [len(given) for given in (component, noise) if isinstance(given, Tensor)]
    counts = {*lengths, *([] if n is None else [n])}
    if len(counts) > 1:
        raise ValueError(f"n and the lengths of component and noise disagree: {sorted(counts)}")
    return counts.pop() if counts else 1


def _log_mean_exp(log_weights: Tensor) -> Tensor:
    return torch.logsumexp(log_weights, dim=1) - math.log(log_weights.shape[1])


def draw_random(
    draw: Callable[..., Tensor], shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Random numbers with the device and dtype of `like`, drawn on the generator's device.

    Args:
        draw: `torch.randn` or `torch.rand`.
        shape: Shape of the result.
        like: A tensor.
        generator: Source of the numbers, by default torch's global one on the device of `like`.
    """
    options: dict[str, Any] = {"dtype": like.dtype, "device": like.device if generator is None else generator.device}
    return draw(shape, generator=generator, **options).to(like.device)
