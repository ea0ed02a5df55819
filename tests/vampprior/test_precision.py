"""Densities and heads keep full float32 where TF32 or bfloat16 products are allowed, without touching the settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vampprior import LatentModel, Mixture, ModelConfig, build_model
from vampprior.layers import NormalHead
from vampprior.precision import accurate_linear

PRODUCTS = {torch.ops.aten.linear.default, torch.ops.aten.addmm.default, torch.ops.aten.mm.default}


def to_tf32(x: Tensor) -> Tensor:
    """Keep 10 bits after the leading one, as tensor cores do with float32 operands."""
    return (x.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)


class TensorCores(TorchDispatchMode):
    """Rounds the operands of float32 matrix products to TF32, for machines that cannot do it themselves."""

    rounded = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func in PRODUCTS:
            matrices = slice(1, 3) if func == torch.ops.aten.addmm.default else slice(0, 2)
            operands = args[matrices]
            if operands[0].dtype == torch.float32:
                self.rounded += 1
                args = (*args[: matrices.start], *map(to_tf32, operands), *args[matrices.stop :])
        return func(*args, **(kwargs or {}))


@contextmanager
def tensor_cores() -> Iterator[TensorCores]:
    """Products on this machine as on a GPU with TF32 allowed, with the settings of such a program."""
    before = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = "tf32"
    try:
        with TensorCores() as cores:
            yield cores
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


@pytest.fixture
def narrow_mixture() -> Mixture:
    """Components as narrow as the posteriors of sharp images, whose quadratic forms are thousands of nats."""
    mean = 3.0 * torch.randn(50, 40)
    return Mixture(mean, torch.empty(50, 40).uniform_(-6.0, -3.0), torch.zeros(50).log_softmax(0))


def test_a_mixture_keeps_its_density(narrow_mixture: Mixture) -> None:
    """TF32 products would move log p(z) by more than a nat; it keeps the error that float32 has by itself."""
    z = narrow_mixture.component(torch.arange(50)).rsample(torch.randn(50, 40))
    exact = Mixture(*(part.double() for part in narrow_mixture)).log_prob(z.double())
    own_error = (narrow_mixture.log_prob(z).double() - exact).abs().max()
    with tensor_cores() as cores:
        found = narrow_mixture.log_prob(z)
        precision = torch.exp(-narrow_mixture.log_var)
        weight = torch.cat([-0.5 * precision, narrow_mixture.mean * precision], dim=-1)
        coarse = torch.nn.functional.linear(torch.cat([z.square(), z], dim=-1), weight)
        fine = accurate_linear(torch.cat([z.square(), z], dim=-1), weight, torch.zeros(50))
    assert cores.rounded == 1
    assert (coarse - fine).diagonal().abs().max() > 1.0
    assert (found.double() - exact).abs().max() < 2.0 * own_error
    assert own_error < 0.01
    assert found.dtype == torch.float32


@pytest.mark.parametrize("setting", ["high", "medium"])
def test_legacy_settings_count_as_well(setting: str) -> None:
    torch.set_float32_matmul_precision(setting)
    try:
        with TensorCores() as cores:
            NormalHead(8, 3)(torch.randn(5, 8))
    finally:
        torch.set_float32_matmul_precision("highest")
    assert cores.rounded == 0


def test_nothing_but_hidden_layers_and_pixels_is_rounded(model: LatentModel, images: Tensor) -> None:
    """Every product that gives a mean, a log-variance or a density is taken in full precision."""
    model, x = model.float(), images.float()
    heads = [module for module in model.modules() if isinstance(module, NormalHead)]
    inside: list[int] = []
    with tensor_cores() as cores:
        for head in heads:
            head.register_forward_pre_hook(lambda *_: inside.append(-cores.rounded))
            head.register_forward_hook(lambda *_: inside.append(cores.rounded))
        mixture = model.prior_mixture()
        before = cores.rounded
        mixture.log_prob(torch.randn(4, mixture.mean.shape[1]))
        assert cores.rounded == before
        model.elbo(x)
        assert cores.rounded > before  # the rest may use TF32
    assert inside
    assert sum(inside) == 0


def test_without_such_settings_products_stay_in_float32(narrow_mixture: Mixture) -> None:
    class Types(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.seen: set[torch.dtype] = set()

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func in PRODUCTS:
                self.seen.add(args[-1].dtype)
            return func(*args, **(kwargs or {}))

    with Types() as types:
        narrow_mixture.log_prob(torch.randn(3, 40))
    assert types.seen == {torch.float32}


def test_gradients_pass_the_full_precision_product() -> None:
    x, weight, bias = (torch.randn(*shape, requires_grad=True) for shape in ((4, 3), (2, 3), (2,)))
    plain = torch.autograd.grad(torch.nn.functional.linear(x, weight, bias).square().sum(), (x, weight, bias))
    with tensor_cores():
        ours = torch.autograd.grad(accurate_linear(x, weight, bias).square().sum(), (x, weight, bias))
    for one, other in zip(ours, plain, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other)


def test_a_training_step_compiles_without_a_break(tiny_config: Callable[..., ModelConfig]) -> None:
    model = build_model(tiny_config())
    step = torch.compile(model, backend="eager", fullgraph=True)
    x, noise = torch.rand(3, 1, 4, 4).round(), torch.randn(3, 1, model.noise_dim)
    torch.testing.assert_close(step(x, noise).value, model(x, noise).value)
