"""Threads, names and memory of the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from vampprior import machine
from vampprior.machine import available_threads, device_name


@pytest.mark.parametrize(("limit", "threads"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 4), ("", 4)])
def test_no_more_threads_than_the_container_may_use(
    limit: str, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(limit)
    monkeypatch.setattr(machine, "CPU_LIMIT", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4, 5}, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert available_threads() == threads
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    assert available_threads() == 1


def test_a_processor_is_named_even_where_linux_does_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "cpuinfo")
    assert " CPU, " in device_name(torch.device("cpu"))
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Abacus 3000\n")
    assert device_name(torch.device("cpu")).startswith("Abacus 3000, ")
