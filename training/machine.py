"""The machine a command runs on: its device, its threads, and an allocator that suits large tensors."""

from __future__ import annotations

import ctypes
import math
import os
import platform
from enum import StrEnum
from pathlib import Path

import torch

from training.recipe import RecipeError

__all__ = ["DeviceChoice", "available_threads", "can_compile", "device_name", "keep_freed_memory", "prepare"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
CPU_INFO, CPU_LIMIT = Path("/proc/cpuinfo"), Path("/sys/fs/cgroup/cpu.max")


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


def available_threads() -> int:
    """Threads worth having: what PyTorch would take, but no more than the CPUs this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(torch.get_num_threads(), allowed, _cgroup_cpus(allowed)))


def keep_freed_memory() -> None:
    """Have glibc's malloc keep what is freed; does nothing elsewhere.

    By default it hands large blocks back to the kernel at once, so that every large temporary of a step is mapped and
    page-faulted anew: about a quarter of a step's time on a CPU. The price is a process that stays at its peak size.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_THRESHOLD, 1 << 30) or mallopt(M_MMAP_THRESHOLD, 1 << 25)  # the most that an old glibc takes
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile works here: it needs a compiler, headers and more, so a tiny function has to tell."""
    try:
        torch.compile(lambda x: 2.0 * x + 1.0)(torch.zeros(8, device=device))
    except RuntimeError:  # all that torch.compile raises is one
        return False
    return True


def device_name(device: torch.device) -> str:
    """The device in words, for a card."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_cpu_model()}, {threads} thread{'' if threads == 1 else 's'}"


def _cpu_model() -> str:
    try:
        for line in CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    except OSError:
        pass
    return f"{platform.processor() or platform.machine()} CPU"


def _cgroup_cpus(otherwise: int) -> int:
    """The CPU limit of this container, rounded up."""
    try:
        quota, period = CPU_LIMIT.read_text(encoding="ascii").split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no such limit ("max"), or not Linux
        return otherwise
