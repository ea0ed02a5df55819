"""Figures of the model alone, with no server: the log-likelihood, and drawing from a PixelCNN."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import naive
from benchmarks.machine import CHECKPOINT, DIGIT, Options
from benchmarks.measure import AtLeast, AtMost, Claim, Series, ratio, seconds_of, take_turns
from benchmarks.results import Result
from service.images import decode_image
from vampprior import ModelConfig, build_model
from vampprior.checkpoint import load_checkpoint
from vampprior.importance import log_likelihood
from vampprior.models import HVAE, PixelHVAE

__all__ = ["NUM_SAMPLES", "against_matrix_products", "against_naive", "cached_pixels", "load_model_and_image"]

NUM_SAMPLES = 5000
NUM_DRAWN = 16


def against_naive(options: Options) -> Result:
    """The log-likelihood of one image against the usual way to write it, with the same weights."""
    model, x = load_model_and_image(options)
    times = take_turns(
        {
            "log_likelihood": seconds_of(lambda: log_likelihood(model, x, num_samples=NUM_SAMPLES)),
            "naive": seconds_of(lambda: naive.log_likelihood(model, x, num_samples=NUM_SAMPLES)),
        },
        rounds=options.rounds,
        unit="s",
    )
    speedup = ratio("speed over the naive estimate", times["naive"], times["log_likelihood"])
    return Result([*times.values()], [Claim(speedup, AtLeast(12.0))], {"num_samples": NUM_SAMPLES})


def against_matrix_products(options: Options) -> Result:
    """The log-likelihood of one image against the matrix products in it and nothing else."""
    model, x = load_model_and_image(options)
    products = MatrixProducts()
    with products:
        log_likelihood(model, x, num_samples=NUM_SAMPLES)
    times = take_turns(
        {
            "log_likelihood": seconds_of(lambda: log_likelihood(model, x, num_samples=NUM_SAMPLES)),
            "matrix products": seconds_of(products.replay),
        },
        rounds=4 * options.rounds,  # they are short
        unit="s",
    )
    overhead = ratio("time over that of its matrix products", times["log_likelihood"], times["matrix products"])
    settings = {
        "num_samples": NUM_SAMPLES,
        "matrix_products": len(products.calls),
        "flops": products.flops,
    }
    return Result([*times.values()], [Claim(overhead, AtMost(1.4))], settings)


def cached_pixels(options: Options) -> Result:
    """Images drawn from a PixelCNN with and without the features of earlier pixels kept; random weights will do."""
    torch.set_num_threads(options.threads)
    model = build_model(ModelConfig(model="pixel_hvae")).requires_grad_(False).eval()
    assert isinstance(model, PixelHVAE)
    z2, z1 = torch.randn(NUM_DRAWN, model.config.z2_dim), torch.randn(NUM_DRAWN, model.config.z1_dim)
    uniform = torch.rand(NUM_DRAWN, model.config.num_pixels)
    arguments = (z2, z1, uniform, model.likelihood)
    model.p_x.sample(*arguments)  # a first time that does not count; full passes are 784 times the same
    passes = seconds_of(lambda: naive.sample_by_full_passes(model.p_x, *arguments))
    full = Series("sample_by_full_passes", "s", [passes()])
    cached = Series("sample", "s", [seconds_of(lambda: model.p_x.sample(*arguments))()])
    speedup = ratio("speed over full passes", full, cached)
    return Result(
        [cached, full], [Claim(speedup, AtLeast(50.0))], {"images": NUM_DRAWN, "weights": "random", "rounds": 1}
    )


def load_model_and_image(options: Options) -> tuple[HVAE, Tensor]:
    """The shipped model, and a digit (1, 1, 28, 28) as it sees one."""
    torch.set_num_threads(options.threads)
    model, _ = load_checkpoint(CHECKPOINT)
    assert isinstance(model, HVAE)
    pixels = torch.from_numpy(decode_image(DIGIT.read_bytes(), max_pixels=28 * 28))
    return model, (pixels >= 128).float()[None, None]


OPERANDS: dict[Any, Callable[..., tuple[Tensor, Tensor]]] = {
    torch.ops.aten.linear.default: lambda x, weight, *_: (x.flatten(0, -2), weight.t()),
    torch.ops.aten.addmm.default: lambda _, a, b: (a, b),
    torch.ops.aten.mm.default: lambda a, b: (a, b),
}
"""The two matrices among the arguments of an operation that multiplies them; biases are left out."""


class MatrixProducts(TorchDispatchMode):
    """Takes down the matrix products of what runs within it, to do them again alone.

    One buffer serves all operands of a shape, and one all products of a shape, so nothing is allocated in `replay`.

    flops: multiplications and additions
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []
        self.flops = 0
        self._buffers: dict[Any, Tensor] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operation; if it is a matrix product, take it down."""
        if operands := OPERANDS.get(func):
            a, b = (self._buffer("operand", tensor) for tensor in operands(*args))
            self.calls.append((a, b, self._buffer("product", a.new_empty(len(a), b.shape[1]))))
            self.flops += 2 * a.shape[0] * a.shape[1] * b.shape[1]
        return func(*args, **kwargs or {})

    @torch.inference_mode()
    def replay(self) -> None:
        """Do them all once more."""
        for a, b, product in self.calls:
            torch.mm(a, b, out=product)

    def _buffer(self, role: str, like: Tensor) -> Tensor:
        key = (role, like.shape, like.stride())
        if key not in self._buffers:
            self._buffers[key] = torch.empty_strided(like.shape, like.stride()).normal_()
        return self._buffers[key]
