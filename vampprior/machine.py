"""The machine a process computes on: its threads, its name, and an allocator that suits large tensors."""

from __future__ import annotations

import ctypes
import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import torch

__all__ = ["available_threads", "device_name", "keep_freed_memory"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of <malloc.h>
CPU_INFO, OWN_CGROUPS, CGROUPS = Path("/proc/cpuinfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


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
    """The least CPU limit of the control groups that this process is in, rounded up."""
    limits = [limit for folder in _cgroups() if (limit := _cpu_limit(folder)) is not None]
    return math.ceil(min(limits, default=otherwise))


def _cgroups() -> Iterator[Path]:
    """Folders of those control groups, of version 1 or 2, and of the groups above them."""
    try:
        lines = OWN_CGROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            root = CGROUPS / controllers
            group = root / path.lstrip("/")
            yield from (folder for folder in (group, *group.parents) if folder == root or root in folder.parents)


def _cpu_limit(folder: Path) -> float | None:
    for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        try:
            quota, period = " ".join((folder / name).read_text(encoding="ascii") for name in names).split()
            if int(quota) > 0:
                return int(quota) / int(period)
        except (OSError, ValueError):  # there is no limit, which version 2 calls "max" and version 1 -1
            continue
    return None
