from __future__ import annotations

import pytest
import torch

from training.machine import DeviceChoice, prepare
from training.recipe import RecipeError
from vampprior.machine import device_name


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
