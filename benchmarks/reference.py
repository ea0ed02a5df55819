"""A training step as the paper's public code has it, for comparison: nothing is fused, compiled or kept on the device.

Each gated layer is two linear layers; the pseudo-inputs are a linear layer of the identity; the prior compares every
draw with every component in a tensor of N x K x M numbers; the optimizer goes through the parameters one at a time;
images are float32, collated one by one and moved to the device at every step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

__all__ = ["ReferenceAdam", "ReferenceHVAE", "batches"]

PIXELS, HIDDEN, LATENT = 784, 300, 40


class Gated(nn.Module):
    """(W x + b) * sigmoid(V x + c), as two layers."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(inputs, outputs), nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) -> (N, outputs)."""
        return self.value(x) * torch.sigmoid(self.gate(x))


class Normal(nn.Module):
    """Mean and log-variance, as two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.log_var = nn.Linear(HIDDEN, LATENT), nn.Linear(HIDDEN, LATENT)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """(N, HIDDEN) -> two of (N, LATENT)."""
        return self.mean(hidden), self.log_var(hidden).clamp(-6.0, 2.0)


class ReferenceHVAE(nn.Module):
    """The two-layer model of dense layers with a VampPrior (Eq. 9 to 15) for binary images of 28x28."""

    def __init__(self, num_components: int = 500) -> None:
        super().__init__()
        self.q_z2 = nn.Sequential(Gated(PIXELS, HIDDEN), Gated(HIDDEN, HIDDEN), Normal())
        self.q_z1_x, self.q_z1_z2 = Gated(PIXELS, HIDDEN), Gated(LATENT, HIDDEN)
        self.q_z1 = nn.Sequential(Gated(2 * HIDDEN, HIDDEN), Normal())
        self.p_z1 = nn.Sequential(Gated(LATENT, HIDDEN), Gated(HIDDEN, HIDDEN), Normal())
        self.p_x_z1, self.p_x_z2 = Gated(LATENT, HIDDEN), Gated(LATENT, HIDDEN)
        self.p_x = nn.Sequential(Gated(2 * HIDDEN, HIDDEN), nn.Linear(HIDDEN, PIXELS), nn.Sigmoid())
        self.pseudo_inputs = nn.Linear(num_components, PIXELS, bias=False)
        nn.init.normal_(self.pseudo_inputs.weight, 0.05, 0.01)
        self.register_buffer("identity", torch.eye(num_components))

    def loss(self, x: Tensor, kl_weight: float) -> Tensor:
        """Negative lower bound, mean over images (N, PIXELS)."""
        q_z2 = self.q_z2(x)
        z2 = _draw(*q_z2)
        q_z1 = self.q_z1(torch.cat([self.q_z1_x(x), self.q_z1_z2(z2)], dim=1))
        z1 = _draw(*q_z1)
        mean = self.p_x(torch.cat([self.p_x_z1(z1), self.p_x_z2(z2)], dim=1)).clamp(1e-5, 1.0 - 1e-5)
        log_px = (x * torch.log(mean) + (1.0 - x) * torch.log(1.0 - mean)).sum(1)
        log_p = _log_normal(z1, *self.p_z1(z2)) + self.log_prior(z2)
        log_q = _log_normal(z1, *q_z1) + _log_normal(z2, *q_z2)
        return (kl_weight * (log_q - log_p) - log_px).mean()

    def log_prior(self, z2: Tensor) -> Tensor:
        """(N, LATENT) -> (N,)."""
        mean, log_var = self.q_z2(self.pseudo_inputs(self.identity).clamp(0.0, 1.0))
        each = _log_normal(z2.unsqueeze(1), mean.unsqueeze(0), log_var.unsqueeze(0)) - math.log(len(mean))
        greatest = each.max(1).values
        return greatest + torch.log(torch.exp(each - greatest.unsqueeze(1)).sum(1))


class ReferenceAdam:
    """Adam on gradients divided by their norms, one parameter tensor after the other."""

    def __init__(self, model: nn.Module, learning_rate: float = 5e-4) -> None:
        self.parameters, self.learning_rate = list(model.parameters()), learning_rate
        self.state: list[dict[str, Any]] = [
            {"step": 0, "mean": torch.zeros_like(p), "square": torch.zeros_like(p)} for p in self.parameters
        ]

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter."""
        for parameter, state in zip(self.parameters, self.state, strict=True):
            assert parameter.grad is not None
            gradient = parameter.grad / (torch.norm(parameter.grad) + 1e-7)
            state["step"] += 1
            state["mean"].mul_(0.9).add_(gradient, alpha=0.1)
            state["square"].mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            rate = self.learning_rate * math.sqrt(1.0 - 0.999 ** state["step"]) / (1.0 - 0.9 ** state["step"])
            parameter.addcdiv_(state["mean"], state["square"].sqrt().add_(1e-8), value=-rate)


def batches(images: Tensor, size: int, device: torch.device) -> Iterator[Tensor]:
    """Batches (size, PIXELS) of float32 images, shuffled, collated one by one and moved to the device, without end."""
    loader = DataLoader(TensorDataset(images.float().flatten(1)), batch_size=size, shuffle=True)
    while True:
        for (batch,) in loader:
            yield batch.to(device)


def _draw(mean: Tensor, log_var: Tensor) -> Tensor:
    return mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)


def _log_normal(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    return -0.5 * (log_var + (z - mean) ** 2 / torch.exp(log_var)).sum(-1)
