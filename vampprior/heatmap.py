"""Prototypes that explain an image, and heat maps of where the image differs from them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vampprior.distributions import Mixture
from vampprior.importance import chunk_rows
from vampprior.latent_model import LatentModel, Latents
from vampprior.likelihoods import Likelihood

__all__ = ["Explanation", "Prototypes"]

TEMPERING = 23.5
"""Factor of the log-probability per pixel in the weights of the prototypes: 0.03 for an image of 28x28."""
SMOOTHING = (0.25, 0.5, 0.25)
"""Weights of a pixel and its two neighbours, along each axis, in heat maps."""

CHUNK_VALUES = 1 << 21
"""Parameters that a log-probability is computed from at once."""


class Explanation(NamedTuple):
    """A prototype that explains an image.

    Args:
        component: Index of the component of the prior.
        log_prob: Log-probability of the image given the prototype, in nats.
    """

    component: int
    log_prob: float


class Prototypes(NamedTuple):
    r"""One image for each component of the prior, decoded from the component's mean.

    The pixels of autoregressive models have no means; there the pseudo-inputs themselves are the prototypes.

    Args:
        images: The prototypes, values in [0, 1], shape $(K, C, H, W)$.
        params: Parameters of the pixels' distribution given each prototype, shape $(K, P H W)$.
        likelihood: The model's likelihood.

    Example:
        >>> from vampprior import ModelConfig, build_model
        >>> model = build_model(ModelConfig(image_shape=(1, 8, 8), num_components=5)).eval()
        >>> prototypes, x = Prototypes.of(model), torch.zeros(2, 1, 8, 8)
        >>> prototypes.heat_map(x).shape, prototypes.contrast(x).shape
        (torch.Size([2, 8, 8]), torch.Size([2, 1, 8, 8]))
        >>> [len(best) for best in prototypes.explain(x)]
        [3, 3]
    """

    images: Tensor
    params: Tensor
    likelihood: Likelihood

    @classmethod
    @torch.inference_mode()
    def of(cls, model: LatentModel, mixture: Mixture | None = None) -> Prototypes:
        """The prototypes of a model; `mixture` is the prior from `model.prior_mixture()`, computed if None.

        Raises:
            ValueError: If the model is autoregressive and its prior has no pseudo-inputs.
        """
        if not model.autoregressive:
            components = (model.prior_mixture() if mixture is None else mixture).components
            noise = components.mean.new_zeros(len(components.mean), model.noise_dim)
            return cls._decoded(model, model.ancestral_sample(components, noise))
        inputs = model.prior.pseudo_inputs
        if inputs is None:
            raise ValueError("an autoregressive model whose prior has no pseudo-inputs has no prototypes")
        return cls(inputs, model.likelihood.params_around(inputs), model.likelihood)

    @classmethod
    def _decoded(cls, model: LatentModel, latents: Latents) -> Prototypes:
        """Prototypes from latents $(K, M)$ each, decoded in chunks."""
        channels, height, width = model.config.image_shape
        count, likelihood = len(latents[0]), model.likelihood
        images = latents[0].new_empty(count, channels, height, width)
        params = latents[0].new_empty(count, likelihood.outputs(channels) * height * width)
        for rows in torch.split(torch.arange(count), chunk_rows(model)):
            params[rows] = model.decode(tuple(z[rows] for z in latents))
            images[rows] = likelihood.mean(params[rows], channels).reshape(-1, *images.shape[1:])
        return cls(images, params, likelihood)

    @torch.inference_mode()
    def log_probs(self, x: Tensor) -> Tensor:
        r"""$\log p(x \mid k)$ of images given each prototype in nats, $(N, C, H, W)$ to $(N, K)$."""
        # image by image and in chunks of prototypes, since all at once would need N K D numbers
        chunks = torch.split(self.params, max(1, CHUNK_VALUES // self.params.shape[1]))
        rows = [torch.cat([self._log_prob(image, params) for params in chunks]) for image in x]
        return torch.stack(rows) if rows else x.new_empty(0, len(self.params))

    def _log_prob(self, image: Tensor, params: Tensor) -> Tensor:
        """Log-probability of an image $(C, H, W)$ given each of some prototypes."""
        return self.likelihood.log_prob(image.expand(len(params), -1, -1, -1), params)

    def explain(self, x: Tensor, count: int = 3) -> list[list[Explanation]]:
        """The prototypes that explain each image best, best first, at most `count` of them."""
        best = self.log_probs(x).topk(min(count, len(self.params)), dim=1)
        return [
            [Explanation(component, log_prob) for log_prob, component in zip(*pair, strict=True)]
            for pair in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    @torch.inference_mode()
    def contrast(self, x: Tensor) -> Tensor:
        r"""What the closest prototypes show, $(N, C, H, W)$ in [0, 1].

        The mean of the prototypes with weights $\mathrm{softmax}_k(t \log p(x \mid k))$, $t = 23.5 / D$.
        """
        weights = torch.softmax(self.log_probs(x) * (TEMPERING / self.images[0].numel()), dim=1)
        return torch.einsum("nk,kchw->nchw", weights, self.images)

    @torch.inference_mode()
    def heat_map(self, x: Tensor) -> Tensor:
        r"""Where images differ from their closest prototypes, $(N, C, H, W)$ to $(N, H, W)$ in [0, 1].

        The absolute difference from `contrast`, averaged over channels and smoothed over 3x3 pixels.
        """
        difference = (x - self.contrast(x)).abs().mean(1, keepdim=True)
        weights = difference.new_tensor(SMOOTHING)
        kernel = (weights[:, None] * weights)[None, None]
        return F.conv2d(F.pad(difference, (1, 1, 1, 1), mode="replicate"), kernel).squeeze(1)
