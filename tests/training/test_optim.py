from __future__ import annotations

import pytest
import torch
from torch import nn

from training.optim import NormalizedAdam


def reference_step(parameters: list[nn.Parameter], adam: torch.optim.Adam) -> None:
    """One parameter tensor after the other: divide its gradient by its norm, then plain Adam."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad /= parameter.grad.norm() + 1e-7
    adam.step()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_it_is_adam_on_normalized_gradients(dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 3), (7,), (2, 3, 4)]
    ours = [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    optimizer = NormalizedAdam(ours, lr=5e-4)
    adam = torch.optim.Adam(theirs, lr=5e-4, foreach=False)
    for step in range(20):
        for scale, p, q in zip((1e-6, 1.0, 1e6), ours, theirs, strict=True):
            p.grad = scale * torch.randn(p.shape, generator=generator, dtype=dtype)
            q.grad = p.grad.clone()
        if step == 7:  # a parameter that took no part
            ours[1].grad = theirs[1].grad = None
        optimizer.step()
        reference_step(theirs, adam)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)


def test_a_gradient_of_zero_moves_nothing() -> None:
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.zeros(3)
    NormalizedAdam([parameter], lr=0.1).step()
    assert parameter.tolist() == [1.0, 1.0, 1.0]
