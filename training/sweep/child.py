"""A child process that writes into a log, hears nothing of the terminal, and does not outlive its parent."""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["last_line", "start"]

PROMPT = "$ "
TAIL_BYTES = 8192
PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>
LIBC = ctypes.CDLL(None)


def start(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Run a command in a process group of its own, so that Ctrl-C reaches it only if the parent passes it on.

    Its output, all of it, is added to the log, after the command itself. On Linux it ends with its parent however that
    ends; elsewhere a parent that was killed leaves it behind.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab", buffering=0) as file:
        file.write(f"{PROMPT}{shlex.join(command)}\n".encode())
        return subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )


def _end_with_parent() -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def last_line(log: Path) -> str:
    """What a command said last, without the blank lines after it; empty if it has not said anything."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:  # somebody has cleaned up
        return ""
    said = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return "" if said.startswith(PROMPT) else said
