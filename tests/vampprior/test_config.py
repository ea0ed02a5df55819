"""ModelConfig survives the trip through JSON and refuses, with a ValueError, all that is not a network."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vampprior import ModelConfig

SIZES = ("z1_dim", "z2_dim", "hidden_dim", "num_components", "depth", "width")
NAMES = ("model", "prior", "likelihood")

quiet = settings(max_examples=60, deadline=None, derandomize=True, database=None)
sizes = st.integers(1, 10**6)
configs = st.builds(
    ModelConfig,
    **{name: st.text(max_size=8) for name in NAMES},
    **dict.fromkeys(SIZES, sizes),
    image_shape=st.tuples(sizes, sizes, sizes),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


def is_size(value: Any) -> bool:
    return type(value) is int and value > 0


@quiet
@given(configs)
def test_a_config_survives_json(config: ModelConfig) -> None:
    again = ModelConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)


def test_a_partial_description_is_completed_with_defaults() -> None:
    assert ModelConfig.from_dict({}) == ModelConfig()
    assert ModelConfig.from_dict({"hidden_dim": 7}) == ModelConfig(hidden_dim=7)


def test_depth_and_width_are_written_where_they_differ_from_their_defaults() -> None:
    assert not {"depth", "width"} & set(ModelConfig("resnet_hvae").to_dict())
    values = ModelConfig("resnet_hvae", depth=2).to_dict()
    assert values["depth"] == 2
    assert "width" not in values


def test_image_shape_comes_as_a_list_and_stays_a_tuple() -> None:
    values = {"image_shape": [3, 5, 7]}
    config = ModelConfig.from_dict(values)
    assert config.image_shape == (3, 5, 7)
    assert config.num_pixels == 105
    assert config.to_dict()["image_shape"] == [3, 5, 7]
    assert values == {"image_shape": [3, 5, 7]}


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        ModelConfig().hidden_dim = 5  # type: ignore[misc]


def test_unknown_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"'hidden_dims', 'zeta_dim'; known are .*hidden_dim"):
        ModelConfig.from_dict({"zeta_dim": 3, "hidden_dims": 300})


@quiet
@given(name=st.sampled_from(SIZES), value=json_values.filter(lambda value: not is_size(value)))
def test_a_size_is_a_positive_whole_number(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        ModelConfig.from_dict({name: value})


@quiet
@given(name=st.sampled_from(NAMES), value=json_values.filter(lambda value: not isinstance(value, str)))
def test_a_name_is_a_string(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        ModelConfig.from_dict({name: value})


@quiet
@given(json_values.filter(lambda value: not (isinstance(value, list) and len(value) == 3 and all(map(is_size, value)))))
def test_an_image_shape_is_three_positive_whole_numbers(value: Any) -> None:
    with pytest.raises(ValueError, match="image_shape"):
        ModelConfig.from_dict({"image_shape": value})


@pytest.mark.parametrize("value", [None, 28, [1, 28, 28]])
def test_the_constructor_refuses_an_image_shape_of_the_wrong_type(value: Any) -> None:
    with pytest.raises(ValueError, match="image_shape"):
        ModelConfig(image_shape=value)
