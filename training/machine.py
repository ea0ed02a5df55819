"""The machine that a command runs on: its device, threads, precision, memory, and whether torch.compile works."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from hardware import available_threads, keep_freed_memory
from training.recipe import RecipeError
from vampprior.importance import MAX_BYTES

__all__ = ["can_compile", "default_max_bytes", "resolve_precision", "select_device"]

GPU_MAX_BYTES = 1 << 28


def select_device(choice: str = "auto", threads: int = 0) -> torch.device:
    """Set the number of CPU threads (0: all that are available) and return the device.

    choice: `cpu`, `cuda`, `cuda:<number>`, or `auto` for a GPU if there is one

    Raises `RecipeError` if there is no such device.
    """
    torch.set_num_threads(threads or available_threads())
    keep_freed_memory()
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if choice == "auto":
        choice = "cuda" if num_gpus else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", choice):
        raise RecipeError(f"there is no device {choice!r}; give auto, cpu, cuda or cuda:<number>")
    device = torch.device(choice)
    if device.type == "cuda":
        if (device.index or 0) >= num_gpus:
            raise RecipeError(f"PyTorch finds {num_gpus} CUDA devices here, so there is no {choice}; try --device cpu")
        torch.cuda.set_device(device)
    return device


def can_compile(device: torch.device) -> bool:
    """True if torch.compile can compile a small function, for which it needs a compiler and headers."""
    try:
        torch.compile(lambda x: 2.0 * x + 1.0)(torch.zeros(8, device=device))
    except RuntimeError:  # the base class of all errors of torch.compile
        return False
    return True


def default_max_bytes(device: torch.device) -> int:
    """Memory in bytes of the largest tensor of an evaluation."""
    return GPU_MAX_BYTES if device.type == "cuda" else MAX_BYTES


def resolve_precision(choice: str, device: torch.device) -> str:
    """The precision, float32 or bfloat16, for a recipe's `auto`, `float32` or `bfloat16`.

    `auto` is the faster one. On a CPU without matrix units (AMX), products in bfloat16 take twice as long as in
    float32, even with vector instructions for them (AVX-512 BF16).
    """
    if choice != "auto":
        return choice
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # missing in older torch
        fast = bool(capabilities.get("amx_bf16"))
    return "bfloat16" if fast else "float32"
