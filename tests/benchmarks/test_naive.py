"""The naive estimate estimates the same number."""

from __future__ import annotations

import pytest
import torch

from benchmarks import naive
from benchmarks.model import MatrixProducts
from vampprior import ModelConfig, build_model
from vampprior.importance import log_likelihood

CONFIG = ModelConfig(image_shape=(1, 4, 4), z1_dim=2, z2_dim=2, hidden_dim=8, num_components=5)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model(CONFIG).requires_grad_(False)


def test_agrees_with_the_library_within_the_error(model):
    x = (torch.rand(2, 1, 4, 4) > 0.5).float()
    ours = log_likelihood(model, x, num_samples=20_000)
    theirs = naive.log_likelihood(model, x, num_samples=20_000, chunk_rows=1000)
    assert ((ours.value - theirs).abs() < 6 * ours.standard_error + 1e-4).all()


def test_matrix_products_are_taken_down_once_each(model):
    x = torch.rand(3, 1, 4, 4)
    products = MatrixProducts()
    with products:
        model.q_z2(x)
    assert [(tuple(a.shape), tuple(b.shape)) for a, b, _ in products.calls] == [
        ((3, 16), (16, 16)),
        ((3, 8), (8, 16)),
        ((3, 8), (8, 4)),
    ]
    assert products.flops == 2 * 3 * (16 * 16 + 8 * 16 + 8 * 4)
    products.replay()
    a, b, product = products.calls[-1]
    assert torch.allclose(product, a @ b, atol=1e-5)
