"""What a command makes of the machine it runs on: a device, threads, a precision, whether steps can be compiled."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import torch

from hardware import available_threads, keep_freed_memory
from training.recipe import RecipeError

__all__ = ["DeviceChoice", "can_compile", "prepare", "settle_precision"]


class DeviceChoice(StrEnum):
    """Where to compute: `auto` takes a GPU if there is one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


def prepare(choice: DeviceChoice = DeviceChoice.AUTO, threads: int = 0) -> torch.device:
    """Set the machine up for computing with so many threads (0: all that are free) and return the device.

    Raises `RecipeError` if the device is not there.
    """
    if choice is DeviceChoice.CUDA and not torch.cuda.is_available():
        raise RecipeError("this machine has no CUDA device that PyTorch can use; try --device cpu")
    torch.set_num_threads(threads or available_threads())
    keep_freed_memory()
    on_gpu = choice is not DeviceChoice.CPU and torch.cuda.is_available()
    return torch.device("cuda" if on_gpu else "cpu")


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile works here: it needs a compiler, headers and more, so a tiny function has to tell."""
    try:
        torch.compile(lambda x: 2.0 * x + 1.0)(torch.zeros(8, device=device))
    except RuntimeError:  # all that torch.compile raises is one
        return False
    return True


def settle_precision(choice: str, device: torch.device) -> str:
    """float32 or bfloat16: what a recipe's precision comes to on a device.

    `auto` is the faster one. On a CPU without matrix units (AMX), bfloat16 products take twice as long as those of
    float32, also where its vector units know them (AVX-512 BF16).
    """
    if choice != "auto":
        return choice
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch cannot tell
        fast = bool(capabilities.get("amx_bf16"))
    return "bfloat16" if fast else "float32"
