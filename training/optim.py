"""Adam on normalized gradients (Yu et al., 2017), the optimizer of Sec. 5.1, and what its weight decay applies to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from vampprior.models import LatentModel

__all__ = ["NormalizedAdam", "parameter_groups"]


class NormalizedAdam(torch.optim.AdamW):
    """Adam that first divides the gradient of each parameter tensor by its L2 norm plus 1e-7.

    Weight decay is decoupled from the gradient (Loshchilov & Hutter, 2019), and 0 where a group of parameters does not
    say otherwise. The norms and the update run over all tensors at once (PyTorch's foreach and fused kernels).
    """

    def __init__(self, params: Iterable[nn.Parameter] | Iterable[dict[str, Any]], lr: float) -> None:
        super().__init__(params, lr=lr, weight_decay=0.0, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Normalize the gradients in place and update the parameters."""
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms = torch._foreach_norm(gradients)
        torch._foreach_add_(norms, 1e-7)
        torch._foreach_div_(gradients, norms)
        return super().step(closure)


def parameter_groups(model: LatentModel, weight_decay: float) -> list[dict[str, Any]]:
    """The weights of the layers, which decay, and what does not: biases, normalization and the prior's own."""
    own = {id(parameter) for parameter in model.prior.parameters()}
    decays = {name: parameter.ndim > 1 and id(parameter) not in own for name, parameter in model.named_parameters()}
    return [
        {"params": [p for name, p in model.named_parameters() if decays[name] is chosen], "weight_decay": decay}
        for chosen, decay in ((True, weight_decay), (False, 0.0))
    ]
