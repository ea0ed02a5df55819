"""Adam on normalized gradients (Yu et al., 2017), the optimizer of Sec. 5.1, and its weight decay."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from training.recipe import Optimization
from vampprior.latent_model import LatentModel

__all__ = ["NormalizedAdam", "build_optimizer", "parameter_groups"]


class NormalizedAdam(AdamW):
    """AdamW that first divides the gradient of each parameter tensor by its L2 norm plus 1e-7.

    Weight decay is decoupled from the gradient (Loshchilov & Hutter, 2019), and 0 for groups of parameters that do not
    set it. The norms and the update run over all tensors at once, with the foreach and fused kernels of PyTorch.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float | Tensor,
        capturable: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, weight_decay=0.0, fused=True, capturable=capturable)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Normalize the gradients in place and update the parameters."""
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms = torch._foreach_norm(gradients)
        torch._foreach_add_(norms, 1e-7)
        torch._foreach_div_(gradients, norms)
        return super().step(closure)


def build_optimizer(model: LatentModel, settings: Optimization, device: torch.device) -> AdamW:
    """The optimizer of a recipe.

    The learning rate is a tensor, so that a step never waits for a number from Python; fused kernels take it as float32
    on a GPU and as float64 on a CPU.
    """
    on_gpu = device.type == "cuda"
    rate = torch.tensor(settings.learning_rate, dtype=torch.float32 if on_gpu else torch.float64, device=device)
    groups = parameter_groups(model, settings.weight_decay)
    if settings.normalize_gradients:
        return NormalizedAdam(groups, lr=rate, capturable=on_gpu)
    return AdamW(groups, lr=rate, fused=True, capturable=on_gpu)


def parameter_groups(model: LatentModel, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: weights of layers, which decay; biases, normalization and parameters of the prior, which do not."""
    of_prior = {id(parameter) for parameter in model.prior.parameters()}
    decays = {name: p.ndim > 1 and id(p) not in of_prior for name, p in model.named_parameters()}
    return [
        {"params": [p for name, p in model.named_parameters() if decays[name] is chosen], "weight_decay": decay}
        for chosen, decay in ((True, weight_decay), (False, 0.0))
    ]
