from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vampprior import Card, ModelConfig, Preparation
from vampprior.card import CardError
from vampprior.pixels import pixels_of

NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
HALVES = np.zeros((40, 80), np.uint8)
HALVES[:, 40:] = 255
"""Black at the left, white at the right."""


@pytest.mark.parametrize("mode", ["rgb", "gray", "binary"])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("pixels", [NOISE, NOISE[..., 0], NOISE[:1], NOISE[:, :1], NOISE[:1, :1]])
def test_any_image_becomes_one_of_the_shape(mode: Any, fit: Any, pixels: np.ndarray) -> None:
    preparation = Preparation((8, 12), mode, fit)
    prepared = preparation.prepare(pixels)
    assert prepared.dtype == np.uint8
    assert prepared.shape == preparation.image_shape == (3 if mode == "rgb" else 1, 8, 12)
    if mode == "binary":
        assert set(np.unique(prepared)) <= {0, 255}


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_an_image_of_the_size_keeps_its_pixels(fit: Any) -> None:
    prepared = Preparation((40, 60), "rgb", fit).prepare(NOISE)
    np.testing.assert_array_equal(prepared, NOISE.transpose(2, 0, 1))


def test_a_crop_keeps_the_middle_a_pad_adds_black_and_a_stretch_keeps_all() -> None:
    crop, pad, stretch = (Preparation((20, 20), "gray", fit).prepare(HALVES)[0] for fit in ("crop", "pad", "stretch"))
    for image in (crop, stretch):
        assert image[:, :8].max() < 30
        assert image[:, 12:].min() > 225
    assert pad[:5].max() == pad[15:].max() == 0
    assert pad[5:15, 12:].min() > 225


def test_binary_is_white_from_the_middle_level_on() -> None:
    prepared = Preparation((1, 3), "binary").prepare(np.array([[127, 128, 255]], np.uint8))
    assert prepared.tolist() == [[[0, 255, 255]]]


def test_a_large_image_is_averaged_and_not_sampled() -> None:
    stripes = np.zeros((512, 512), np.uint8)
    stripes[:, ::2] = 255
    prepared = Preparation((16, 16), "gray").prepare(stripes)
    assert abs(prepared.astype(int) - 127).max() <= 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "must be an object with size, mode and fit"),
        ({"size": [8, 8], "mode": "gray"}, "must be an object"),
        ({"size": [8], "mode": "gray", "fit": "crop"}, "size must be two positive whole numbers"),
        ({"size": [8, 0], "mode": "gray", "fit": "crop"}, "size must be two positive"),
        ({"size": [8, True], "mode": "gray", "fit": "crop"}, "size must be two positive"),
        ({"size": [8, 8], "mode": "cmyk", "fit": "crop"}, "mode must be one of rgb, gray, binary, not 'cmyk'"),
        ({"size": [8, 8], "mode": ["gray"], "fit": "crop"}, "mode must be one of"),
        ({"size": [8, 8], "mode": "gray", "fit": "zoom"}, "fit must be one of crop, pad, stretch, not 'zoom'"),
    ],
)
def test_a_card_with_a_wrong_preparation_is_refused(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preparation.from_dict(values)
    card = Card("a", "1", ModelConfig(image_shape=(1, 8, 8))).to_dict() | {"preparation": values}
    with pytest.raises(CardError, match=f"preparation: .*{message}"):
        Card.from_dict(card)


def test_a_card_keeps_the_preparation_and_the_view_and_old_cards_have_none() -> None:
    config = ModelConfig(image_shape=(3, 8, 8))
    card = Card("a", "1", config, preparation=Preparation((8, 8), "rgb", "pad"), pseudo_input_view="decoded")
    assert Card.from_dict(card.to_dict()) == card
    old = Card("a", "1", config)
    assert not {"preparation", "pseudo_input_view"} & set(old.to_dict())
    assert (old.preparation, old.pseudo_input_view) == (None, "input")
    with pytest.raises(CardError, match=r"gives images of \(1, 8, 8\), the model takes \(3, 8, 8\)"):
        Card("a", "1", config, preparation=Preparation((8, 8), "gray"))
    with pytest.raises(CardError, match="pseudo_input_view must be input or decoded, not 'both'"):
        Card.from_dict(card.to_dict() | {"pseudo_input_view": "both"})


def test_cards_with_a_preparation_are_read_without_torch_and_without_pillow() -> None:
    program = """
import sys
sys.modules["PIL"] = None
from vampprior.card import Card
from vampprior.config import ModelConfig
from vampprior.preparation import Preparation
Card.from_dict(Card("a", "1", ModelConfig(image_shape=(1, 8, 8)), preparation=Preparation((8, 8), "gray")).to_dict())
assert "torch" not in sys.modules
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_pixels_of_colour_spaces_and_depths() -> None:
    colours = Image.fromarray(NOISE)
    assert pixels_of(colours.convert("YCbCr")).shape == (40, 60, 3)
    assert set(np.unique(pixels_of(colours.convert("1")))) == {0, 255}
    assert pixels_of(Image.fromarray(np.array([[0, 257, 65535]], np.uint16))).tolist() == [[0, 1, 255]]
    assert pixels_of(Image.fromarray(np.array([[-1, 70_000]], np.int32))).tolist() == [[0, 255]]
    with pytest.raises(ValueError, match="floating-point"):
        pixels_of(Image.fromarray(np.zeros((2, 2), np.float32)))
