"""What a process can know and set of its machine: threads, the name of the device, and the memory allocator."""

from __future__ import annotations

import ctypes
import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import torch

__all__ = ["available_threads", "device_name", "give_back_freed_memory", "keep_freed_memory"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of <malloc.h>
CPU_INFO, OWN_CGROUPS, CGROUPS = Path("/proc/cpuinfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def available_threads() -> int:
    """Number of threads to compute with: what PyTorch would take, and no more than the CPUs this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(torch.get_num_threads(), allowed, _cgroup_cpus(allowed)))


def keep_freed_memory() -> None:
    """Make glibc's malloc keep freed memory; does nothing with other C libraries.

    By default it returns large blocks to the kernel at once, and every large temporary of a training step is mapped and
    page-faulted again, which takes about a quarter of the step on a CPU. In return the process stays at its peak size.
    All threads share one arena, so that memory freed by one serves the others.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_THRESHOLD, 1 << 30) or mallopt(M_MMAP_THRESHOLD, 1 << 25)  # older versions of glibc allow less
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_ARENA_MAX, 1)


def give_back_freed_memory() -> None:
    """Return freed memory to the kernel; does nothing with other C libraries than glibc.

    It takes some milliseconds per 100 MB, and the lock of Python is free meanwhile.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def device_name(device: torch.device) -> str:
    """Name of the device for a card, such as "AMD EPYC, 2 threads"."""
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
    """Smallest CPU limit of the control groups of this process, rounded up."""
    limits = [limit for folder in _cgroups() if (limit := _cpu_limit(folder)) is not None]
    return math.ceil(min(limits, default=otherwise))


def _cgroups() -> Iterator[Path]:
    """Folders of these control groups, of version 1 or 2, and of the groups above them."""
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
        except (OSError, ValueError):  # no limit, which version 2 writes as "max" and version 1 as -1
            continue
    return None
