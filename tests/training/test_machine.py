from __future__ import annotations

import pytest
import torch

from hardware import device_name
from training.machine import resolve_precision, select_device
from training.recipe import RecipeError


@pytest.fixture(autouse=True)
def same_threads_after() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_threads_are_those_asked_for() -> None:
    assert select_device("cpu", threads=3) == torch.device("cpu")
    assert torch.get_num_threads() == 3
    assert device_name(torch.device("cpu")).endswith(", 3 threads")


def test_a_gpu_that_is_not_there_is_an_error_and_auto_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match="PyTorch finds 0 CUDA devices here, so there is no cuda; try --device cpu"):
        select_device("cuda")
    assert select_device("auto") == torch.device("cpu")


def test_a_gpu_is_chosen_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert [select_device(choice) for choice in ("auto", "cuda", "cuda:1")] == chosen
    assert chosen == [torch.device("cuda"), torch.device("cuda"), torch.device("cuda:1")]
    with pytest.raises(RecipeError, match="PyTorch finds 2 CUDA devices here, so there is no cuda:2"):
        select_device("cuda:2")


@pytest.mark.parametrize("choice", ["gpu", "cuda:", "cuda:-1", "mps", ""])
def test_an_unknown_device_is_an_error(choice: str) -> None:
    with pytest.raises(RecipeError, match=f"there is no device '{choice}'; give auto, cpu, cuda or cuda:<number>"):
        select_device(choice)


@pytest.mark.parametrize(
    ("capabilities", "resolved"),
    [({"amx_bf16": True, "avx512_bf16": True}, "bfloat16"), ({"avx512_bf16": True}, "float32"), ({}, "float32")],
)
def test_auto_takes_bfloat16_where_a_cpu_has_matrix_units_for_it(
    capabilities: dict[str, bool], resolved: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert resolve_precision("auto", torch.device("cpu")) == resolved
    assert resolve_precision("float32", torch.device("cpu")) == "float32"
    assert resolve_precision("bfloat16", torch.device("cpu")) == "bfloat16"


def test_a_torch_that_cannot_tell_gets_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert resolve_precision("auto", torch.device("cpu")) == "float32"


@pytest.mark.parametrize("supported", [False, True])
def test_auto_asks_a_gpu(supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert resolve_precision("auto", torch.device("cuda")) == ("bfloat16" if supported else "float32")
