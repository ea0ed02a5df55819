"""Convolutional networks have the paper's shapes, and refuse images whose sides their strides do not divide."""

from __future__ import annotations

import pytest
import torch

from vampprior import ModelConfig, build_model
from vampprior.networks.conv import BOTTOM_LAYERS, TOP_LAYERS, ConvDecoder, ConvFeatures


@pytest.mark.parametrize(("image_shape", "features"), [((1, 28, 28), 294), ((1, 28, 20), 210), ((3, 8, 12), 36)])
@pytest.mark.parametrize("layers", [TOP_LAYERS, BOTTOM_LAYERS])
def test_features_are_as_many_as_the_paper_has(image_shape, features, layers):
    network = ConvFeatures(ModelConfig("conv_hvae", image_shape=image_shape), layers)
    assert network.features == features
    assert network(torch.rand(2, 3, *image_shape)).shape == (2, 3, features)


@pytest.mark.parametrize("image_shape", [(1, 28, 20), (3, 8, 4)])
def test_the_decoder_gives_parameters_for_every_pixel(image_shape):
    config = ModelConfig("conv_hvae", likelihood="logistic", image_shape=image_shape, hidden_dim=9)
    params = ConvDecoder(config)(torch.rand(2, 5, 40), torch.rand(2, 5, 40))
    assert params.shape == (2, 5, 2 * config.num_pixels)


@pytest.mark.parametrize("image_shape", [(1, 28, 21), (1, 30, 28)])
@pytest.mark.parametrize("model", ["conv_hvae", "pixel_hvae"])
def test_sides_that_the_strides_do_not_divide_are_refused(model, image_shape):
    height, width = image_shape[1:]
    with pytest.raises(ValueError, match=f"does not divide {height} x {width}"):
        build_model(ModelConfig(model, image_shape=image_shape))
