"""Freed memory, which the process keeps for its computations until it has become much."""

from __future__ import annotations

import ctypes
import platform

__all__ = ["give_back_freed_memory"]


def give_back_freed_memory() -> None:
    """Return freed memory to the system; does nothing where the C library is not glibc.

    It takes some milliseconds per 100 MB, and the lock of Python is free meanwhile.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
