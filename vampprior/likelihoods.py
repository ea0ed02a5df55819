"""Distributions of the pixels given the latents, p(x | z), with log-probabilities in nats."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LIKELIHOODS", "Bernoulli", "DiscretizedLogistic", "Likelihood", "Logistic", "LogisticMixture"]

LEVELS = 256
BIN_FLOOR = 1e-7
"""Added to the probability of each bin by the paper's logistic distribution."""
MARGIN = 0.02
"""Distance from 0 and 1 to which `params_around` clamps pixels."""
LOG_SCALE = -3.0
"""Log-scale of the logistic distributions of `params_around`."""


class Likelihood(ABC):
    """Distribution of an image's pixels given the output of the decoder.

    Images have shape $(*, C, H, W)$ and $D = C H W$ values in [0, 1]. The decoder emits P = `outputs(C)` planes of the
    image's size, flattened: `params` has shape $(*, P H W)$.
    """

    binary: ClassVar[bool]
    """True if pixels are 0 or 1; otherwise they are gray levels, and scores are also given in bits per dimension."""

    @abstractmethod
    def outputs(self, channels: int) -> int:
        """Numbers P that the decoder emits per pixel of an image with this many channels.

        Raises:
            ValueError: If the likelihood does not take images with this many channels.
        """

    @abstractmethod
    def from_bytes(self, gray: Tensor) -> Tensor:
        """Pixel values for 8-bit gray levels, float32 of the same shape."""

    @abstractmethod
    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        """Log-probability of images, summed over pixels; $(*, C, H, W)$ and $(*, P H W)$ to $(*)$."""

    @abstractmethod
    def mean(self, params: Tensor, channels: int) -> Tensor:
        """Image to show for the parameters, values in [0, 1]; $(*, P H W)$ to $(*, D)$."""

    @abstractmethod
    def sample(self, params: Tensor, uniform: Tensor, channels: int) -> Tensor:
        """Image drawn with one uniform number in [0, 1) per value; $(*, P H W)$ and $(*, D)$ to $(*, D)$."""

    @abstractmethod
    def params_around(self, images: Tensor) -> Tensor:
        """Parameters of a distribution around images; $(*, C, H, W)$ to $(*, P H W)$."""


class Bernoulli(Likelihood):
    """Binary pixels with `params` as logits. 8-bit gray levels become 1 from 128 on.

    Example:
        >>> Bernoulli().log_prob(torch.ones(1, 1, 2, 2), torch.zeros(1, 4))  # 4 log(1/2)
        tensor([-2.7726])
    """

    binary = True

    def outputs(self, channels: int) -> int:
        return channels

    def from_bytes(self, gray: Tensor) -> Tensor:
        return (gray >= 128).float()

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        target, logits = torch.broadcast_tensors(x.flatten(-3), params.to(x.dtype))  # type: ignore[no-untyped-call]
        # the function of torch.nn.functional compares shapes in Python, which torch.jit.trace cannot record
        return -torch.binary_cross_entropy_with_logits(logits, target, reduction=0).sum(-1)

    def mean(self, params: Tensor, channels: int) -> Tensor:  # noqa: ARG002
        return torch.sigmoid(params)

    def sample(self, params: Tensor, uniform: Tensor, channels: int) -> Tensor:  # noqa: ARG002
        return (uniform < torch.sigmoid(params)).to(params.dtype)

    def params_around(self, images: Tensor) -> Tensor:
        return _location_logit(images)


class GrayLevels(Likelihood):
    """8-bit values: the level v is the middle of its bin, $x = (v + 1/2) / 256$."""

    binary = False

    def from_bytes(self, gray: Tensor) -> Tensor:
        return (gray.float() + 0.5) / LEVELS


class IndependentLevels(GrayLevels):
    r"""Independent values in 256 bins of a logistic distribution with location $\mu$ and scale $s$.

    The first half of `params` gives $\mu$, by a sigmoid and a clamp to [1/512, 1 - 1/512], the second half $\log s$, by
    a clamp to `log_scale_bounds`.
    """

    log_scale_bounds: ClassVar[tuple[float, float]]

    def outputs(self, channels: int) -> int:
        return 2 * channels

    def mean(self, params: Tensor, channels: int) -> Tensor:  # noqa: ARG002
        return self._location_and_log_scale(params)[0]

    def params_around(self, images: Tensor) -> Tensor:
        location = _location_logit(images)
        return torch.cat([location, torch.full_like(location, LOG_SCALE)], dim=-1)

    def _location_and_log_scale(self, params: Tensor) -> tuple[Tensor, Tensor]:
        location, log_scale = params.chunk(2, dim=-1)
        margin = 0.5 / LEVELS
        return torch.sigmoid(location).clamp(margin, 1.0 - margin), log_scale.clamp(*self.log_scale_bounds)


class Logistic(IndependentLevels):
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

    def sample(self, params: Tensor, uniform: Tensor, channels: int) -> Tensor:  # noqa: ARG002
        location, log_scale = self._location_and_log_scale(params)
        scale, uniform = torch.exp(log_scale), uniform.to(params.dtype)
        below, inside = torch.sigmoid(-location / scale), torch.sigmoid((1.0 - location) / scale)
        inside = inside - below
        # a mixture of the distribution between 0 and 1 and of the constant 1e-7 in each bin
        constant = LEVELS * BIN_FLOOR / (inside + LEVELS * BIN_FLOOR)
        rest = (uniform - constant) / (1.0 - constant)
        logistic = location + scale * _logit(below + rest * inside)
        return (_level(torch.where(uniform < constant, uniform / constant, logistic)) + 0.5) / LEVELS


class DiscretizedLogistic(IndependentLevels):
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
        return _log_bin(_level(x.flatten(-3)), location, log_scale).sum(-1)

    def sample(self, params: Tensor, uniform: Tensor, channels: int) -> Tensor:  # noqa: ARG002
        location, log_scale = self._location_and_log_scale(params)
        return (_level(location + torch.exp(log_scale) * _logit(uniform.to(params.dtype))) + 0.5) / LEVELS


class LogisticMixture(GrayLevels):
    r"""Mixture of discretized logistic distributions, with the channels of a pixel in order (Salimans et al., 2017).

    The channels of a pixel share one of K = 5 components, which has probability $\pi_k$, and each depends on those
    before it:

    $$p(x_1, x_2, x_3) = \sum_k \pi_k\, p_k(x_1)\, p_k(x_2 \mid x_1)\, p_k(x_3 \mid x_1, x_2).$$

    $p_k(x_c \mid x_{<c})$ is a `DiscretizedLogistic` with scale $s_{kc}$ and the location

    $$m_{kc} = \mu_{kc} + \sum_{b < c} a_{kcb} (x_b - \mu_{kb}),$$

    so $\mu_{kc}$ is the mean of channel c in component k, except for the tails at the first and the last level. The
    planes of `params` are, in this order, the logits of $\pi_k$, K numbers; $\mu_{kc}$, by a sigmoid, component by
    component, K C numbers; $\log s_{kc}$, clamped to [-7, 0], K C numbers; and, for three channels, $a_{k21}, a_{k31},
    a_{k32}$, by a hyperbolic tangent, 3 K numbers. Per pixel these are 15 numbers for one channel and 50 for three.

    In `sample` the first uniform number u of a pixel draws two things: the component, by inverting the cumulative
    $\pi$, and, by the place of u in the interval of that component, which is uniform again, the first channel.

    References:
        | PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood (Salimans et al., 2017)
        | https://arxiv.org/abs/1701.05517

    Example:
        >>> likelihood = LogisticMixture()
        >>> likelihood.outputs(1), likelihood.outputs(3)
        (15, 50)
        >>> levels = likelihood.from_bytes(torch.arange(256)).reshape(256, 1, 1, 1)
        >>> likelihood.log_prob(levels, torch.linspace(-3, 3, 15).expand(256, 15)).logsumexp(0).abs() < 1e-5
        tensor(True)
    """

    components: ClassVar[int] = 5
    log_scale_bounds: ClassVar[tuple[float, float]] = (-7.0, 0.0)

    def outputs(self, channels: int) -> int:
        if channels not in (1, 3):
            raise ValueError(f"the likelihood logistic_mixture takes images of 1 or 3 channels, not {channels}")
        return self.components * (1 + 2 * channels + _num_pairs(channels))

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        mixture = self._mixture(params.to(x.dtype), x.shape[-3])
        pixels = x.flatten(-2).unsqueeze(-3)  # (*, 1, C, H W)
        log_bins = _log_bin(_level(pixels), mixture.conditional_location(pixels), mixture.log_scale)
        return torch.logsumexp(mixture.log_weight + log_bins.sum(-2), dim=-2).sum(-1)

    def mean(self, params: Tensor, channels: int) -> Tensor:
        mixture = self._mixture(params, channels)
        return (mixture.log_weight.exp().unsqueeze(-2) * mixture.location).sum(-3).flatten(-2)

    def sample(self, params: Tensor, uniform: Tensor, channels: int) -> Tensor:
        mixture = self._mixture(params, channels)
        noise = torch.unflatten(uniform.to(params.dtype), -1, (channels, -1))  # (*, C, H W)
        chosen, rest = mixture.choose(noise[..., 0, :])
        logistic = _logit(torch.cat([rest.unsqueeze(-2), noise[..., 1:, :]], dim=-2))
        drawn = torch.zeros_like(noise)
        for channel in range(channels):
            location = chosen.conditional_location(drawn.unsqueeze(-3))[..., 0, channel, :]
            scale = torch.exp(chosen.log_scale[..., 0, channel, :])
            drawn[..., channel, :] = (_level(location + scale * logistic[..., channel, :]) + 0.5) / LEVELS
        return drawn.flatten(-2)

    def params_around(self, images: Tensor) -> Tensor:
        location = _location_logit(images)
        shape, size = location.shape[:-1], images.shape[-2] * images.shape[-1]
        repeated = [location] * self.components
        scales = location.new_full((*shape, self.components * location.shape[-1]), LOG_SCALE)
        zeros = location.new_zeros(*shape, self.components * size)
        pairs = [zeros] * _num_pairs(images.shape[-3])
        return torch.cat([zeros, *repeated, scales, *pairs], dim=-1)

    def _mixture(self, params: Tensor, channels: int) -> _PixelMixture:
        count, pairs = self.components, _num_pairs(channels)
        planes = torch.unflatten(params, -1, (self.outputs(channels), -1))
        logits, location, log_scale, coefficients = torch.split(
            planes, [count, count * channels, count * channels, count * pairs], dim=-2
        )
        return _PixelMixture(
            torch.log_softmax(logits, dim=-2),
            torch.unflatten(torch.sigmoid(location), -2, (count, channels)),
            torch.unflatten(log_scale.clamp(*self.log_scale_bounds), -2, (count, channels)),
            torch.unflatten(torch.tanh(coefficients), -2, (count, pairs)) if pairs else None,
        )


class _PixelMixture(NamedTuple):
    r"""Parameters of the mixtures of S = H W pixels.

    log_weight:   $\log \pi_k$, shape $(*, K, S)$
    location:     $\mu_{kc}$, shape $(*, K, C, S)$
    log_scale:    $\log s_{kc}$, shape $(*, K, C, S)$
    coefficients: $a_{k21}, a_{k31}, a_{k32}$, shape $(*, K, 3, S)$; None for one channel
    """

    log_weight: Tensor
    location: Tensor
    log_scale: Tensor
    coefficients: Tensor | None

    def conditional_location(self, pixels: Tensor) -> Tensor:
        r"""$m_{kc}$ given the channels before c, which are read from pixels $(*, 1, C, S)$; shape $(*, K, C, S)$."""
        if self.coefficients is None:
            return self.location
        residual = pixels[..., :2, :] - self.location[..., :2, :]
        first, second = residual[..., 0, :], residual[..., 1, :]
        a21, a31, a32 = self.coefficients.unbind(-2)
        shift = torch.stack([torch.zeros_like(first), a21 * first, a31 * first + a32 * second], dim=-2)
        return self.location + shift

    def choose(self, uniform: Tensor) -> tuple[_PixelMixture, Tensor]:
        """One component per pixel, drawn with uniform numbers $(*, S)$, as a mixture with K = 1.

        The second result is the place of each number in the interval of its component, in [0, 1], shape $(*, S)$.
        """
        weight = self.log_weight.exp()
        edges = weight.cumsum(-2)
        scaled = uniform.unsqueeze(-2) * edges[..., -1:, :]
        index = (scaled >= edges[..., :-1, :]).sum(-2, keepdim=True)  # (*, 1, S)
        upper, width = edges.gather(-2, index), weight.gather(-2, index)
        rest = ((scaled - (upper - width)) / width).clamp(0.0, 1.0).squeeze(-2)

        def pick(values: Tensor) -> Tensor:
            spread = index.unsqueeze(-2).expand(*index.shape[:-2], 1, *values.shape[-2:])
            return values.gather(-3, spread)

        coefficients = None if self.coefficients is None else pick(self.coefficients)
        return _PixelMixture(torch.zeros_like(width), pick(self.location), pick(self.log_scale), coefficients), rest


def _num_pairs(channels: int) -> int:
    return channels * (channels - 1) // 2


def _location_logit(images: Tensor) -> Tensor:
    """Parameters whose sigmoid is the image, flattened, where it is not too close to 0 or 1."""
    return torch.logit(images.flatten(-3).clamp(MARGIN, 1.0 - MARGIN))


def _log_bin(level: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
    """Log-probability of levels under logistic distributions whose tails belong to the first and the last level."""
    inverse_scale = torch.exp(-log_scale)
    left = (level / LEVELS - location) * inverse_scale
    width = inverse_scale / LEVELS
    below_right, above_left = F.logsigmoid(left + width), F.logsigmoid(-left)
    inner = below_right + above_left + torch.log(-torch.expm1(-width))
    edges = torch.where(level == 0, below_right, above_left)
    return torch.where((level == 0) | (level == LEVELS - 1), edges, inner)


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
    "logistic_mixture": LogisticMixture(),
}
"""Likelihoods by the name that `ModelConfig.likelihood` takes."""
