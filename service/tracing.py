"""What jobs compute, recorded once as a graph of operations: it then runs with the interpreter's lock free."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

__all__ = ["Programs"]

Function = Callable[..., tuple[Tensor, ...]]


class Programs:
    """Functions of tensors, traced by TorchScript.

    Called from Python, a forward pass takes the interpreter's lock some sixty times, and waits for it each time while
    an event loop is busy. A traced one takes it at its beginning and at its end, and gives the same bits. A function
    may be traced if what it does depends on its inputs' values through tensors alone, and on no loop over their sizes.

    TorchScript is deprecated, but what should replace it calls operations from Python or needs a compiler of C++ where
    it runs. Where it is not supported, and on a GPU, for which it would compile kernels anew for every shape, functions
    are called as they are.
    """

    def __init__(self) -> None:
        self._programs: dict[Hashable, Function | None] = {}  # None: called once, and not traced yet
        self._tracing = threading.Lock()

    def run(self, key: Hashable, function: Function, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The function's outputs; the one that comes second with a `key` is traced then, with its inputs.

        The first call is a warm-up's, which a start waits for: tracing takes some 20 ms.
        """
        if key not in self._programs:
            self._programs[key] = None
            return function(*inputs)
        program = self._programs[key]
        if program is None:
            with self._tracing:
                program = self._programs[key] = self._programs[key] or _trace(function, inputs)
        return program(*inputs)


def _trace(function: Function, inputs: tuple[Tensor, ...]) -> Function:
    supported = sys.version_info < (3, 14)
    if not supported or any(tensor.device.type != "cpu" for tensor in inputs):
        return function
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        traced: Function = torch.jit.trace(function, inputs, check_trace=False)  # type: ignore[no-untyped-call]
    return traced
