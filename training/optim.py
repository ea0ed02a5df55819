"""Adam on normalized gradients (Yu et al., 2017), the optimizer of Sec. 5.1."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

__all__ = ["NormalizedAdam"]


class NormalizedAdam(torch.optim.Adam):
    """Adam that first divides the gradient of each parameter tensor by its L2 norm plus 1e-7.

    The norms and the update run over all tensors at once (PyTorch's foreach and fused kernels).
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(params, lr=lr, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Normalize the gradients in place and update the parameters."""
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms = torch._foreach_norm(gradients)
        torch._foreach_add_(norms, 1e-7)
        torch._foreach_div_(gradients, norms)
        return super().step(closure)
