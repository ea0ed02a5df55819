"""Where and with what a figure is measured."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.release import Release, git
from hardware import available_threads, device_name
from training.machine import resolve_precision

__all__ = ["CHECKPOINT", "DIGIT", "ROOT", "Options", "describe_machine"]

ROOT = Path(__file__).parent.parent
CHECKPOINT = ROOT / "model_store" / "static_mnist-hvae-vampprior" / "3"
DIGIT = ROOT / "docs" / "digit.png"
PACKAGES = (
    "torch",
    "numpy",
    "pillow",
    "fastapi",
    "starlette",
    "uvicorn",
    "litserve",
    "bentoml",
    "ray",
    "redis",
    "pyod",
)


@dataclass(frozen=True)
class Options:
    """How long and how often.

    seconds: of each load on a server
    rounds:  in which every contestant has its turn
    threads: compute threads of every contestant; of the service, its workers for heavy work
    former:  release whose service is a contestant beside the present one
    """

    seconds: float = 5.0
    rounds: int = 3
    threads: int = available_threads()
    former: Release | None = None

    def settings(self) -> dict[str, Any]:
        """The options as plain values."""
        against = {"against": f"{self.former.commit} {self.former.subject}"} if self.former else {}
        return {"seconds": self.seconds, "rounds": self.rounds, "threads": self.threads} | against


def describe_machine() -> dict[str, Any]:
    """The row's context: date, commit, processor, load and versions."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "processor": device_name(torch.device("cpu")).rpartition(",")[0],
        "instructions": _instructions(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "environment": {name: value for name, value in os.environ.items() if name.startswith(("OMP_", "MKL_"))},
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
    }


def _instructions() -> str:
    """What sets processors of one name apart: their vector units, and matrix units for bfloat16."""
    vectors = torch.backends.cpu.get_cpu_capability()
    return f"{vectors} and AMX" if resolve_precision("auto", torch.device("cpu")) == "bfloat16" else vectors


def _commit() -> str:
    """Of the repository, with a plus if files differ from it other than the results themselves."""
    try:
        changed = git(
            "status", "--porcelain", "--", ".", *(f":!benchmarks/{name}" for name in ("results", "RESULTS.md"))
        )
        return git("describe", "--always") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
