"""Arithmetic that stays in full precision while autocast or reduced-precision matrix products speed up the rest."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["accurate_linear", "no_autocast"]


def no_autocast(like: Tensor) -> AbstractContextManager[object]:
    """Context that turns autocast off on the device of `like`."""
    device = like.device.type
    # entering a torch.autocast context takes as long as a small layer, so skip it where autocast is off
    active = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if active else nullcontext()


def reduced_products(device: str) -> bool:
    """True if float32 matrix products on this kind of device are set to round their operands to TF32 or bfloat16.

    `torch.compile` reads the setting once, when it compiles.
    """
    backend = torch.backends.cuda if device == "cuda" else torch.backends.mkldnn
    return backend.matmul.fp32_precision in ("tf32", "bf16")


# what the decorator `torch.compiler.assume_constant_result` does, which imports the compiler: 800 modules in 1.5 s
reduced_products._dynamo_marked_constant = True  # type: ignore[attr-defined]


def accurate_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    r"""$x W^T + b$ to the precision of the weights, whatever the settings of autocast and of matrix products are.

    Densities need this: TF32 keeps 11 bits of each operand, and an error of $2^{-11}$ in a quadratic form of some
    thousand nats is an error of nats. The settings
    ([documentation](https://docs.pytorch.org/docs/stable/notes/cuda.html#tensorfloat-32-tf32-on-ampere-and-later-devices))
    belong to the whole process, so changing them here would race with other threads. Instead the product is taken in
    float64 where they allow less than float32, which costs nothing where they do not.

    Args:
        x: Input, shape $(*, in)$, of any floating-point type.
        weight: Shape $(out, in)$.
        bias: Shape $(out)$.

    Returns:
        Shape $(*, out)$, of the weight's type.

    Example:
        >>> accurate_linear(torch.ones(2, 3), torch.ones(1, 3), torch.zeros(1))
        tensor([[3.],
                [3.]])
    """
    with no_autocast(x):
        if weight.dtype == torch.float32 and reduced_products(x.device.type):
            return F.linear(x.double(), weight.double(), bias.double()).float()
        return F.linear(x.to(weight.dtype), weight, bias)
