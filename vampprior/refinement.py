"""Proposals that are fitted to one image at a time, for log-likelihoods from few importance samples."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vampprior.distributions import Mixture
from vampprior.latent_model import Context, LatentModel

__all__ = ["DRAWS", "Proposal", "fit_proposal"]

DRAWS = 16
"""Draws of the latents per image and step."""
FIRST_RATE, LAST_RATE = 0.1, 0.01
BETAS, EPSILON = (0.9, 0.99), 1e-8
WIDEN = 1.1
"""Factor of the fitted standard deviations: weights of a proposal that is too narrow have heavy tails."""


class Proposal(NamedTuple):
    r"""Proposal density of each image: its posterior moved and scaled.

    A draw of the posterior at standard-normal noise $\epsilon$ becomes the one at $shift + scale \cdot \epsilon$. In a
    layer with mean $\mu$ and standard deviation $\sigma$, given the layers above, that is a normal distribution with
    mean $\mu + \sigma \cdot shift$ and standard deviation $\sigma \cdot scale$.

    Args:
        shift: Shape $(N, noise\_dim)$.
        log_scale: Logarithm of the scale, $(N, noise\_dim)$.
    """

    shift: Tensor
    log_scale: Tensor

    def log_px_and_kl(
        self, model: LatentModel, x: Tensor, context: Context, noise: Tensor, mixture: Mixture
    ) -> tuple[Tensor, Tensor]:
        r"""`LatentModel.log_px_and_kl` with z drawn from the proposal and its density in place of the posterior's.

        Args:
            model: The model.
            x: Images $(N, 1, C, H, W)$.
            context: Context of the images, $(N, 1, ...)$ each.
            noise: Shape $(N, S, noise\_dim)$.
            mixture: The prior.

        Returns:
            Two tensors of shape $(N, S)$.
        """
        shift, log_scale = self.shift.unsqueeze(1), self.log_scale.unsqueeze(1)
        moved = shift + log_scale.exp() * noise
        log_px, kl = model.log_px_and_kl(x, context, moved, mixture)
        # the posterior's density at `moved` counts that number's, the proposal's that of `noise` over the scale
        return log_px, kl + (0.5 * (moved.square() - noise.square()) - log_scale).sum(-1)


def fit_proposal(model: LatentModel, x: Tensor, noise: Tensor, mixture: Mixture) -> Proposal:
    r"""Fit a proposal to each image by maximizing its evidence lower bound with Adam.

    Gradients leave out the derivative of the proposal's density by its own parameters, whose expectation is zero
    (Roeder et al., 2017): their noise vanishes where the proposal fits. Each image has its own sum in the objective, so
    images do not influence each other. The estimate from a proposal is unbiased whatever it is, as long as the
    estimate's noise is independent of the noise here.

    Args:
        model: The model; its parameters get no gradients.
        x: Images $(N, C, H, W)$.
        noise: Standard-normal noise of shape $(steps, N, draws, noise\_dim)$.
        mixture: The prior, no inference tensor.

    References:
        | Iterative Amortized Inference (Marino et al., 2018)
        | https://arxiv.org/abs/1807.09356
        | Sticking the Landing (Roeder et al., 2017)
        | https://arxiv.org/abs/1703.09194

    Example:
        >>> from vampprior import ModelConfig, build_model
        >>> model = build_model(ModelConfig(model="vae", image_shape=(1, 4, 4), num_components=5)).eval()
        >>> noise = torch.randn(10, 3, DRAWS, model.noise_dim)
        >>> fit_proposal(model, torch.zeros(3, 1, 4, 4), noise, model.prior_mixture()).shift.shape
        torch.Size([3, 40])
    """
    with torch.no_grad():
        context = tuple(part.unsqueeze(1) for part in model.condition(x))
    images, steps = x.unsqueeze(1), len(noise)
    values = [torch.zeros(len(x), model.noise_dim, dtype=x.dtype, device=x.device) for _ in range(2)]
    first, second = ([torch.zeros_like(value) for value in values] for _ in range(2))
    for step in range(steps):
        rate = FIRST_RATE * (LAST_RATE / FIRST_RATE) ** (step / max(1, steps - 1))
        for value, gradient, m, v in zip(
            values, _gradients(model, images, context, noise[step], mixture, values), first, second, strict=True
        ):
            m.lerp_(gradient, 1 - BETAS[0])
            v.lerp_(gradient.square(), 1 - BETAS[1])
            corrected = v / (1 - BETAS[1] ** (step + 1))
            value -= rate * m / (1 - BETAS[0] ** (step + 1)) / (corrected.sqrt() + EPSILON)
    shift, log_scale = values
    return Proposal(shift, log_scale + torch.log(log_scale.new_tensor(WIDEN)) if steps else log_scale)


def _gradients(
    model: LatentModel, images: Tensor, context: Context, noise: Tensor, mixture: Mixture, values: list[Tensor]
) -> tuple[Tensor, ...]:
    """Gradients of the negative bound with respect to shift and log-scale."""
    with torch.enable_grad():
        shift, log_scale = (value.requires_grad_().unsqueeze(1) for value in values)
        moved = shift + log_scale.exp() * noise
        log_px, kl = model.log_px_and_kl(images, context, moved, mixture)
        standard = (moved - shift.detach()) * (-log_scale.detach()).exp()  # the noise, but a function of the draw
        bound = log_px - kl - 0.5 * (moved.square() - standard.square()).sum(-1)
        gradients = torch.autograd.grad(-bound.mean(1).sum(), values)
    for value in values:
        value.requires_grad_(False)
    return gradients
