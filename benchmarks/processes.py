"""The processes of a server, and what they take of the memory and of the processors, from Linux's /proc."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Process", "memory_mb", "processes"]


@dataclass(frozen=True)
class Process:
    """A process of a server.

    depth:   0 for the process that was started, 1 for its children, 2 for theirs
    nice:    its priority, from -20 to 19, the lowest
    seconds: on a processor so far, of all its threads
    """

    pid: int
    depth: int
    nice: int
    seconds: float


def processes(pid: int, depth: int = 0) -> Iterator[Process]:
    """A process and all its descendants, parents first; those that end meanwhile may be missing."""
    folder = Path(f"/proc/{pid}")
    with contextlib.suppress(OSError):
        fields = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        yield Process(pid, depth, int(fields[16]), ticks / os.sysconf("SC_CLK_TCK"))
        for children in folder.glob("task/*/children"):
            for child in children.read_text(encoding="ascii").split():
                yield from processes(int(child), depth + 1)


def memory_mb(pid: int) -> float:
    """Memory of a process and all its descendants, in 10^6 bytes.

    It is their proportional set size (PSS): a page that several processes share counts once in the sum.
    """
    total = 0
    for process in processes(pid):
        with contextlib.suppress(OSError):
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
            total += 1024 * sum(map(int, re.findall(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)))
    return total / 1e6
