"""CPUs, threads, device name and memory allocator of the process; torch is imported only where it is needed."""

from __future__ import annotations

import ctypes
import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["available_cpus", "available_threads", "device_name", "keep_freed_memory", "trim_memory"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of <malloc.h>
CPU_INFO, OWN_CGROUPS, CGROUPS = Path("/proc/cpuinfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def available_cpus() -> int:
    """Number of CPUs that this process may use, by its affinity and the limits of its control groups."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, _cgroup_cpus(allowed)))


def available_threads() -> int:
    """Number of threads for computations: PyTorch's default, limited to the CPUs that this process may use."""
    import torch

    return min(torch.get_num_threads(), available_cpus())


def keep_freed_memory() -> None:
    """Make glibc's malloc keep freed memory; does nothing with other C libraries.

    By default malloc returns large blocks to the kernel at once. Every large temporary tensor of a training step is
    then mapped and page-faulted again, which takes about a quarter of the step on a CPU. With this setting the process
    stays at its peak size. All threads share one arena, so that each can reuse the memory that another has freed.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_THRESHOLD, 1 << 30) or mallopt(M_MMAP_THRESHOLD, 1 << 25)  # older versions of glibc allow less
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_ARENA_MAX, 1)


def trim_memory() -> None:
    """Return freed memory to the kernel; does nothing with other C libraries than glibc.

    Takes a few milliseconds per 100 MB and releases the GIL.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def device_name(device: torch.device) -> str:
    """Name of the device for a card, such as "AMD EPYC, 2 threads"."""
    import torch

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


def _cgroup_cpus(default: int) -> int:
    """Smallest CPU limit of the control groups of this process, rounded up; `default` if there is no limit."""
    limits = [limit for folder in _cgroups() if (limit := _cpu_limit(folder)) is not None]
    return math.ceil(min(limits, default=default))


def _cgroups() -> Iterator[Path]:
    """Folders of the control groups (version 1 or 2) of this process, and of all their parent groups."""
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
