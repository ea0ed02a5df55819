"""Statistics of images: the parts of the bound, deterministic for given noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from vampprior.latent_model import LatentModel
from vampprior.statistics import image_statistics, total_variation

Draw = Callable[..., Tensor]


def test_statistics_are_those_of_the_log_likelihood(model: LatentModel, images: Tensor, draw_noise: Draw) -> None:
    noise = draw_noise(3, 6, model.noise_dim)
    found = image_statistics(model, images, num_samples=6, noise=noise)
    expected = model.log_likelihood(images, num_samples=6, noise=noise)
    for name, value in (
        ("elbo", expected.elbo),
        ("reconstruction", expected.reconstruction),
        ("log_likelihood", expected.value),
        ("total_kl", expected.kl),
    ):
        np.testing.assert_allclose(getattr(found, name), value.numpy(), rtol=1e-6, err_msg=name)
    assert list(found.kl) == list(model.latent_dims)


def test_the_kl_of_each_layer_is_its_mean_log_ratio(tiny_model: Callable[..., LatentModel], draw_noise: Draw) -> None:
    model = tiny_model(model="hvae", prior="standard")
    x, noise = torch.rand(2, 1, 4, 4, dtype=torch.float64).round(), draw_noise(2, 5000, model.noise_dim)
    found = image_statistics(model, x, num_samples=5000, noise=noise)
    with torch.inference_mode():
        top = model.encode(x)["z2"]
    exact = 0.5 * (top.mean.square() + top.log_var.exp() - 1.0 - top.log_var).sum(1)
    np.testing.assert_allclose(found.kl["z2"], exact.numpy(), atol=0.1)
    assert (found.kl["z1"] > 0).all()


def test_memory_and_batches_do_not_change_statistics(tiny_model: Callable[..., LatentModel], draw_noise: Draw) -> None:
    model = tiny_model()
    x, noise = torch.rand(7, 1, 4, 4, dtype=torch.float64).round(), draw_noise(7, 10, model.noise_dim)
    whole = image_statistics(model, x, num_samples=10, noise=noise)
    for max_bytes in (1, 25 * model.bytes_per_row):
        parts = image_statistics(model, x, num_samples=10, noise=noise, max_bytes=max_bytes)
        np.testing.assert_allclose(parts.elbo, whole.elbo)
        np.testing.assert_allclose(parts.kl["z1"], whole.kl["z1"])
    alone = image_statistics(model, x[3:4], num_samples=10, noise=noise[3:4])
    np.testing.assert_allclose(alone.log_likelihood, whole.log_likelihood[3:4])


def test_a_generator_gives_the_same_statistics_again(tiny_model: Callable[..., LatentModel]) -> None:
    model, x = tiny_model(), torch.zeros(3, 1, 4, 4, dtype=torch.float64)
    first, again, other = (
        image_statistics(model, x, num_samples=4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.elbo, again.elbo)
    assert (first.elbo != other.elbo).all()
    assert len(set(first.elbo.tolist())) == 3  # equal images have noise of their own


def test_no_image_and_no_sample(tiny_model: Callable[..., LatentModel]) -> None:
    model, x = tiny_model(), torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    assert len(image_statistics(model, x[:0])) == 0
    with pytest.raises(ValueError, match="num_samples must be positive"):
        image_statistics(model, x, num_samples=0)


def test_total_variation_by_hand() -> None:
    image = torch.tensor([[[0.0, 1.0, 1.0], [0.5, 0.0, 1.0]]])
    # across: 1 + 0 + 0.5 + 1; down: 0.5 + 1 + 0
    assert total_variation(image[None]).tolist() == [4.0]
    colors = image.repeat(3, 1, 1)
    assert total_variation(colors[None]).tolist() == [12.0]
