from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from training import machine
from training.machine import DeviceChoice, available_threads, device_name, prepare
from training.recipe import RecipeError


@pytest.fixture(autouse=True)
def same_threads_after() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_threads_are_those_asked_for() -> None:
    assert prepare(DeviceChoice.CPU, threads=3) == torch.device("cpu")
    assert torch.get_num_threads() == 3
    assert device_name(torch.device("cpu")).endswith(", 3 threads")


def test_a_gpu_that_is_not_there_is_an_error_and_auto_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match="no CUDA device"):
        prepare(DeviceChoice.CUDA)
    assert prepare(DeviceChoice.AUTO) == torch.device("cpu")


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
