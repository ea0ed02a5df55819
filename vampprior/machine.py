"""The machine a process computes on: its threads, its name, and an allocator that suits large tensors."""

from __future__ import annotations

import ctypes
import math
import os
import platform
from pathlib import Path

import torch

__all__ = ["available_threads", "device_name", "keep_freed_memory"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of <malloc.h>
CPU_INFO, CPU_LIMIT = Path("/proc/cpuinfo"), Path("/sys/fs/cgroup/cpu.max")


def available_threads() -> int:
    """Threads worth having: what PyTorch would take, but no more than the CPUs this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(torch.get_num_threads(), allowed, _cgroup_cpus(allowed)))


def keep_freed_memory() -> None:
    """Have glibc's malloc keep what is freed; does nothing elsewhere.

    By default it hands large blocks back to the kernel at once, so that every large temporary of a step is mapped and
    page-faulted anew: about a quarter of a step's time on a CPU. The price is a process that stays at its peak size.
    All threads share one arena, so that what one has freed serves the next.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_THRESHOLD, 1 << 30) or mallopt(M_MMAP_THRESHOLD, 1 << 25)  # the most that an old glibc takes
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_ARENA_MAX, 1)


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
