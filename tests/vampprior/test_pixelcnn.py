"""The PixelCNN decoder sees no pixel before it is drawn, and its sampler draws what full passes would."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.naive import sample_by_full_passes
from vampprior import LIKELIHOODS, Likelihood, ModelConfig
from vampprior.pixelcnn import PixelCNNDecoder

HEIGHT, WIDTH = 6, 4


@pytest.fixture(params=sorted(LIKELIHOODS))
def name(request) -> str:
    return request.param


@pytest.fixture
def likelihood(name) -> Likelihood:
    return LIKELIHOODS[name]


@pytest.fixture
def decoder(name) -> PixelCNNDecoder:
    torch.manual_seed(0)
    config = ModelConfig("pixel_hvae", "standard", name, (1, HEIGHT, WIDTH), z1_dim=3, z2_dim=2, hidden_dim=5)
    decoder = PixelCNNDecoder(config).double()
    for module in decoder.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after training: neither zero nor one
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    nn.init.normal_(decoder.pixels.weight, std=0.5)  # so that pixels depend on their neighbours visibly
    return decoder.eval()


def latents(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, 2, dtype=torch.float64), torch.randn(n, 3, dtype=torch.float64)


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"))],
)
def test_the_same_uniforms_give_the_same_images_as_full_passes(decoder, likelihood, device):
    decoder.to(device)
    z2, z1 = (z.to(device) for z in latents(9))
    uniform = torch.rand(9, HEIGHT * WIDTH, dtype=torch.float64, device=device)
    images = decoder.sample(z2, z1, uniform, likelihood)
    assert torch.equal(images, sample_by_full_passes(decoder, z2, z1, uniform, likelihood))
    assert len(torch.unique(images, dim=0)) > 1


def test_an_image_does_not_depend_on_those_drawn_beside_it(decoder, likelihood):
    z2, z1 = latents(5)
    uniform = torch.rand(5, HEIGHT * WIDTH, dtype=torch.float64)
    together = decoder.sample(z2, z1, uniform, likelihood)
    for row in range(5):
        alone = decoder.sample(z2[row : row + 1], z1[row : row + 1], uniform[row : row + 1], likelihood)
        assert torch.equal(alone[0], together[row])


def test_a_pixels_parameters_depend_on_earlier_pixels_and_on_no_others(decoder):
    pixels = HEIGHT * WIDTH
    z2, z1 = latents(1)
    x = torch.rand(pixels, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(
        lambda flat: decoder(z2, z1, flat.reshape(1, 1, HEIGHT, WIDTH))[0], x
    ).reshape(-1, pixels, pixels)
    depends = jacobian.abs().sum(0) > 0
    assert not torch.triu(depends).any()
    # the left neighbour is always within reach
    assert all(depends[pixel, pixel - 1] for pixel in range(1, pixels) if pixel % WIDTH)


def test_sampling_in_training_mode_is_refused(decoder):
    with pytest.raises(RuntimeError, match="eval"):
        decoder.train().sample(*latents(1), torch.rand(1, HEIGHT * WIDTH), LIKELIHOODS["bernoulli"])


def test_images_of_several_channels_are_refused():
    with pytest.raises(ValueError, match="one channel"):
        PixelCNNDecoder(ModelConfig("pixel_hvae", image_shape=(3, 8, 8)))
