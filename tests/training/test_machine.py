from __future__ import annotations

import pytest
import torch

from hardware import device_name
from training.machine import DeviceChoice, prepare, settle_precision
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


@pytest.mark.parametrize(
    ("capabilities", "settled"),
    [({"amx_bf16": True, "avx512_bf16": True}, "bfloat16"), ({"avx512_bf16": True}, "float32"), ({}, "float32")],
)
def test_auto_takes_bfloat16_where_a_cpu_has_matrix_units_for_it(
    capabilities: dict[str, bool], settled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert settle_precision("auto", torch.device("cpu")) == settled
    assert settle_precision("float32", torch.device("cpu")) == "float32"
    assert settle_precision("bfloat16", torch.device("cpu")) == "bfloat16"


def test_a_torch_that_cannot_tell_gets_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert settle_precision("auto", torch.device("cpu")) == "float32"


@pytest.mark.parametrize("supported", [False, True])
def test_auto_asks_a_gpu(supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert settle_precision("auto", torch.device("cuda")) == ("bfloat16" if supported else "float32")
