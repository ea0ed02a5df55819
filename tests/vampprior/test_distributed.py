"""Data-parallel training of a model with `DistributedDataParallel`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from vampprior import MODELS, ModelConfig, build_model


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", init_method=(tmp_path / "rendezvous").as_uri(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("kind", MODELS)
def test_a_data_parallel_step_gives_the_gradients_of_a_plain_one(kind: str) -> None:
    config = ModelConfig(kind, image_shape=(1, 8, 8), z1_dim=3, z2_dim=2, hidden_dim=7, num_components=5)
    model = build_model(config)
    x, noise = torch.rand(6, 1, 8, 8).round(), torch.randn(6, 2, model.noise_dim)
    model.eval()(x, noise).value.mean().backward()
    plain = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    parallel = DistributedDataParallel(model)
    for _ in range(2):  # the second forward pass fails if a parameter was not used in the first
        model.zero_grad()
        parallel(x, noise).value.mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name])
