"""Distributions of the pixels given the latents, p(x | z), with log-probabilities in nats."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LIKELIHOODS", "Bernoulli", "DiscretizedLogistic", "Likelihood", "Logistic"]

LEVELS = 256
BIN_FLOOR = 1e-7
"""Added to the probability of each bin by the paper's logistic distribution."""


class Likelihood(ABC):
    """Distribution of an image's pixels given the output of the decoder.

    The decoder emits `outputs` numbers per pixel, plane by plane: `params` has shape $(*, outputs * D)$ for images of
    shape $(*, C, H, W)$ with $D = C H W$ values in [0, 1].
    """

    outputs: ClassVar[int]
    binary: ClassVar[bool]
    """True if pixels are 0 or 1; otherwise they are gray levels, and scores are also given in bits per dimension."""

    @abstractmethod
    def from_bytes(self, gray: Tensor) -> Tensor:
        """Pixel values for 8-bit gray levels, float32 of the same shape."""

    @abstractmethod
    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        """Log-probability of images, summed over pixels; $(*, C, H, W)$ and $(*, outputs * D)$ to $(*)$."""

    @abstractmethod
    def mean(self, params: Tensor) -> Tensor:
        """Image to show for the parameters, values in [0, 1]; $(*, outputs * D)$ to $(*, D)$."""

    @abstractmethod
    def sample(self, params: Tensor, uniform: Tensor) -> Tensor:
        """Pixels drawn with one uniform number in [0, 1) each; $(*, outputs * D)$ and $(*, D)$ to $(*, D)$."""


class Bernoulli(Likelihood):
    """Binary pixels with `params` as logits. 8-bit gray levels become 1 from 128 on.

    Example:
        >>> Bernoulli().log_prob(torch.ones(1, 1, 2, 2), torch.zeros(1, 4))  # 4 log(1/2)
        tensor([-2.7726])
    """

    outputs = 1
    binary = True

    def from_bytes(self, gray: Tensor) -> Tensor:
        return (gray >= 128).float()

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        target, logits = torch.broadcast_tensors(x.flatten(-3), params.to(x.dtype))  # type: ignore[no-untyped-call]
        # the function of torch.nn.functional compares shapes in Python, which torch.jit.trace cannot record
        return -torch.binary_cross_entropy_with_logits(logits, target, reduction=0).sum(-1)

    def mean(self, params: Tensor) -> Tensor:
        return torch.sigmoid(params)

    def sample(self, params: Tensor, uniform: Tensor) -> Tensor:
        return (uniform < torch.sigmoid(params)).to(params.dtype)


class GrayLevels(Likelihood):
    r"""Gray pixels in 256 bins of a logistic distribution with location $\mu$ and scale $s$.

    A gray level v is the middle of its bin, $x = (v + 1/2) / 256$. The first half of `params` gives $\mu$, by a sigmoid
    and a clamp to [1/512, 1 - 1/512], the second half $\log s$, by a clamp to `log_scale_bounds`.
    """

    outputs = 2
    binary = False
    log_scale_bounds: ClassVar[tuple[float, float]]

    def from_bytes(self, gray: Tensor) -> Tensor:
        return (gray.float() + 0.5) / LEVELS

    def mean(self, params: Tensor) -> Tensor:
        return self._location_and_log_scale(params)[0]

    def _location_and_log_scale(self, params: Tensor) -> tuple[Tensor, Tensor]:
        location, log_scale = params.chunk(2, dim=-1)
        margin = 0.5 / LEVELS
        return torch.sigmoid(location).clamp(margin, 1.0 - margin), log_scale.clamp(*self.log_scale_bounds)


class Logistic(GrayLevels):
    r"""The paper's density of gray pixels (Kingma et al., 2016), which leaves the tails outside of [0, 1] out.

    A pixel x lies in the bin [b, b + 1/256) with $b = \lfloor 256 x \rfloor / 256$, whose probability is, with
    $l = (b - \mu) / s$ and $u = l + 1 / (256 s)$,

    $$\mathrm{sigmoid}(u) - \mathrm{sigmoid}(l) = \mathrm{sigmoid}(u)\, \mathrm{sigmoid}(-l)\, (1 - e^{l - u}).$$

    The product on the right subtracts no numbers that are close, so it is accurate far into the tails. 1e-7 is added to
    each bin, and the log-scale lies in [-4.5, 0], so no pixel costs less than 3.51 bits. The probabilities do not sum
    to one; `sample` draws a bin by its share of their sum. `DiscretizedLogistic` has neither restriction.

    References:
        | Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016)
        | https://arxiv.org/abs/1606.04934

    Example:
        >>> likelihood, params = Logistic(), torch.tensor([[0.0, -4.5]])  # location 1/2, the smallest scale
        >>> likelihood.log_prob(likelihood.from_bytes(torch.full((1, 1, 1, 1), 128)), params)
        tensor([-2.4417])
    """

    log_scale_bounds = (-4.5, 0.0)

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        location, log_scale = self._location_and_log_scale(params.to(x.dtype))
        inverse_scale = torch.exp(-log_scale)
        left = (_level(x.flatten(-3)) / LEVELS - location) * inverse_scale
        width = inverse_scale / LEVELS
        probability = torch.sigmoid(left + width) * torch.sigmoid(-left) * -torch.expm1(-width)
        return torch.log(probability + BIN_FLOOR).sum(-1)

    def sample(self, params: Tensor, uniform: Tensor) -> Tensor:
        location, log_scale = self._location_and_log_scale(params)
        scale, uniform = torch.exp(log_scale), uniform.to(params.dtype)
        below, inside = torch.sigmoid(-location / scale), torch.sigmoid((1.0 - location) / scale)
        inside = inside - below
        # a mixture of the distribution between 0 and 1 and of the constant 1e-7 in each bin
        constant = LEVELS * BIN_FLOOR / (inside + LEVELS * BIN_FLOOR)
        rest = (uniform - constant) / (1.0 - constant)
        logistic = location + scale * _logit(below + rest * inside)
        return (_level(torch.where(uniform < constant, uniform / constant, logistic)) + 0.5) / LEVELS


class DiscretizedLogistic(GrayLevels):
    r"""Logistic distribution whose tails belong to the darkest and the lightest level (Salimans et al., 2017).

    The bins are those of `Logistic`, except that the first one begins at $-\infty$ and the last one ends at $\infty$,
    so that the 256 probabilities sum to one. The log-scale lies in [-7, 0].

    References:
        | PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood (Salimans et al., 2017)
        | https://arxiv.org/abs/1701.05517

    Example:
        >>> likelihood, params = DiscretizedLogistic(), torch.tensor([[0.0, -1.0]])
        >>> levels = likelihood.from_bytes(torch.arange(256)).reshape(256, 1, 1, 1)
        >>> likelihood.log_prob(levels, params.expand(256, 2)).logsumexp(0).abs() < 1e-5
        tensor(True)
    """

    log_scale_bounds = (-7.0, 0.0)

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        location, log_scale = self._location_and_log_scale(params.to(x.dtype))
        level, inverse_scale = _level(x.flatten(-3)), torch.exp(-log_scale)
        left = (level / LEVELS - location) * inverse_scale
        width = inverse_scale / LEVELS
        below_right, above_left = F.logsigmoid(left + width), F.logsigmoid(-left)
        inner = below_right + above_left + torch.log(-torch.expm1(-width))
        edges = torch.where(level == 0, below_right, above_left)
        return torch.where((level == 0) | (level == LEVELS - 1), edges, inner).sum(-1)

    def sample(self, params: Tensor, uniform: Tensor) -> Tensor:
        location, log_scale = self._location_and_log_scale(params)
        return (_level(location + torch.exp(log_scale) * _logit(uniform.to(params.dtype))) + 0.5) / LEVELS


def _level(x: Tensor) -> Tensor:
    """Number of the bin that holds x, 0 to 255."""
    return torch.floor(LEVELS * x).clamp(0.0, LEVELS - 1.0)


def _logit(probability: Tensor) -> Tensor:
    """Inverse of the sigmoid, finite at 0 and 1."""
    return torch.logit(probability, eps=torch.finfo(probability.dtype).eps)


LIKELIHOODS: dict[str, Likelihood] = {
    "bernoulli": Bernoulli(),
    "logistic": Logistic(),
    "discretized_logistic": DiscretizedLogistic(),
}
"""Likelihoods by the name that `ModelConfig.likelihood` takes."""
