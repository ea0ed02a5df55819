"""What training maximizes: the ELBO or, with several draws of the latents an image, the importance-weighted bound."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from vampprior.distributions import Mixture
from vampprior.models import LatentModel

__all__ = ["Objective", "lower_bound"]


class Objective(NamedTuple):
    """A bound of log p(x) and its parts, in nats, per image; each tensor has shape (N,).

    value:          what is maximized: a lower bound with the KL weighted, or an upper bound negated
    bound:          the bound itself
    reconstruction: mean of log p(x | z) over the draws
    kl:             mean of log q(z | x) - log p(z) over the draws
    """

    value: Tensor
    bound: Tensor
    reconstruction: Tensor
    kl: Tensor


def lower_bound(
    model: LatentModel,
    x: Tensor,
    noise: Tensor,
    kl_weight: float | Tensor = 1.0,
    mixture: Mixture | None = None,
) -> Objective:
    """The bound log 1/k sum_i w_i of k draws an image: x (N, C, H, W), noise (N, k, noise_dim).

    One draw gives the ELBO (Eq. 2-3), more a tighter bound (Burda et al., 2016, Eq. 8).
    """
    return Objective(*model(x, noise, kl_weight, mixture))
