"""What a command makes of the machine it runs on: a device, threads, and whether steps can be compiled."""

from __future__ import annotations

from enum import StrEnum

import torch

from training.recipe import RecipeError
from vampprior.machine import available_threads, keep_freed_memory

__all__ = ["DeviceChoice", "can_compile", "prepare"]


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
