"""Threads, names and memory of the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import hardware
from hardware import available_threads, device_name

V1 = "2:memory:/box\n4:cpu,cpuacct:/box/inner\n"


@pytest.mark.parametrize(
    ("groups", "files", "threads"),
    [
        ("0::/", {"cpu.max": "150000 100000"}, 2),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "max 100000"}, 4),
        ("0::/", {"cpu.max": ""}, 4),
        ("0::/", {}, 4),
        ("0::/user.slice/job", {"user.slice/job/cpu.max": "max 100000", "user.slice/cpu.max": "300000 100000"}, 3),
        ("0::/user.slice/job", {"user.slice/job/cpu.max": "200000 100000", "user.slice/cpu.max": "300000 100000"}, 2),
        ("0::/../elsewhere", {"cpu.max": "100000 100000"}, 1),
        (V1, {"cpu,cpuacct/box/inner/cpu.cfs_quota_us": "-1", "cpu,cpuacct/box/inner/cpu.cfs_period_us": "100000"}, 4),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 3),
        (None, {"cpu.max": "100000 100000"}, 4),
    ],
)
def test_no_more_threads_than_the_container_may_use(
    groups: str | None, files: dict[str, str], threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(content)
    if groups is not None:
        (tmp_path / "own").write_text(groups)
    monkeypatch.setattr(hardware, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(hardware, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4, 5}, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert available_threads() == threads
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    assert available_threads() == 1


def test_a_processor_is_named_even_where_linux_does_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hardware, "CPU_INFO", tmp_path / "cpuinfo")
    assert " CPU, " in device_name(torch.device("cpu"))
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Abacus 3000\n")
    assert device_name(torch.device("cpu")).startswith("Abacus 3000, ")
