"""Residual networks take images of 8 to 128 pixels a side, and give the same numbers in chunks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vampprior import LatentModel, ModelConfig, build_model
from vampprior.networks import images as image_networks
from vampprior.networks.resnet import GridConv, ResNetDecoder, ResNetFeatures

Build = Callable[..., LatentModel]
SMALL = {"z1_dim": 3, "z2_dim": 2, "hidden_dim": 7, "num_components": 6, "width": 4}


def config_of(shape: tuple[int, int, int], **changes: object) -> ModelConfig:
    return ModelConfig(
        **{"model": "resnet_hvae", "likelihood": "logistic_mixture", "image_shape": shape, **SMALL, **changes}
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 23), (1, 28, 20), (3, 33, 64), (1, 8, 128)])
def test_sides_need_not_be_even(shape: tuple[int, int, int]) -> None:
    model = build_model(config_of(shape)).eval()
    x = torch.rand(2, *shape)
    assert model.reconstruct(x).shape == x.shape
    assert model.sample(2, pixel_noise=torch.rand(2, model.config.num_pixels)).shape == x.shape
    assert torch.isfinite(model.elbo(x).value).all()


@pytest.mark.parametrize("shape", [(1, 9, 9), (3, 11, 17)])
def test_every_pixel_is_seen_and_shown(shape: tuple[int, int, int]) -> None:
    """The last row and column, which padding reaches, too."""
    config = config_of(shape)
    x = torch.rand(1, *shape, requires_grad=True)
    ResNetFeatures(config)(x).square().sum().backward()
    assert x.grad is not None
    assert (x.grad != 0).all()
    decoder = ResNetDecoder(config)
    ours = decoder(torch.randn(1, 2), torch.randn(1, 3)) - decoder(torch.randn(1, 2), torch.randn(1, 3))
    assert (ours != 0).all()


@pytest.mark.parametrize("shape", [(3, 7, 32), (1, 32, 129)])
def test_other_sides_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=f"8 to 128 pixels a side, not {shape[1]} x {shape[2]}"):
        build_model(config_of(shape))


@pytest.mark.parametrize(("depth", "width"), [(1, 4), (2, 4), (1, 12)])
def test_depth_and_width_size_the_network(depth: int, width: int) -> None:
    features = ResNetFeatures(config_of((3, 32, 32), depth=depth, width=width))
    convolutions = [module for module in features.modules() if isinstance(module, GridConv)]
    assert len(convolutions) == 1 + 2 * depth + 1 + 2 * depth + 1  # two grids, 16x16 and 8x8
    assert convolutions[0].out_channels == width


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of convolutions compute one image at a time."""
    monkeypatch.setattr(image_networks, "KEPT_BYTES", 1)
    monkeypatch.setattr(image_networks, "CHUNK_BYTES", 1)


@pytest.mark.parametrize("kind", ["conv_hvae", "resnet_hvae"])
def test_chunks_that_are_computed_again_change_no_number(
    tiny_model: Build, draw_noise: Callable[..., Tensor], request: pytest.FixtureRequest, kind: str
) -> None:
    model, x = tiny_model(model=kind, image_shape=(1, 8, 8)), torch.rand(5, 1, 8, 8, dtype=torch.float64).round()
    noise, rows = draw_noise(5, model.noise_dim), []

    def bound_and_gradients() -> tuple[Tensor, list[Tensor]]:
        value = model.elbo(x, noise=noise).value
        return value.detach(), list(torch.autograd.grad(value.mean(), list(model.parameters())))

    whole, gradients = bound_and_gradients()
    request.getfixturevalue("small_chunks")
    hook = next(module for module in model.q_z2.modules() if isinstance(module, torch.nn.Conv2d))
    hook.register_forward_hook(lambda _, inputs, output: rows.append(len(output)))
    chunked, again = bound_and_gradients()
    assert set(rows) == {1}
    assert len(rows) == 2 * (len(x) + 5)  # images and pseudo-inputs, each a second time for the gradients
    torch.testing.assert_close(chunked, whole, rtol=1e-12, atol=1e-12)
    for one, other in zip(again, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
