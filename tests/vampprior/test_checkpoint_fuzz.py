"""Whatever is done to its files, a checkpoint loads or is refused with a CheckpointError, never another exception."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vampprior import ModelConfig, build_model
from vampprior.card import Card, CheckpointError
from vampprior.checkpoint import load_checkpoint, save_checkpoint

CONFIG = ModelConfig(image_shape=(1, 4, 4), z1_dim=3, z2_dim=2, hidden_dim=7, num_components=5)

fuzz = settings(max_examples=120, deadline=None, derandomize=True, database=None)
leaves = st.none() | st.booleans() | st.integers(-2, 10**30) | st.floats() | st.text("az/.\x00\u00e9", max_size=4)
json_values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
edits = st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=4)), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good checkpoint, of which every example writes a spoilt copy."""
    folder = tmp_path_factory.mktemp("store")
    save_checkpoint(folder / "good", build_model(CONFIG), Card("digits", "1", CONFIG))
    (folder / "spoilt").mkdir()
    return folder


def good(folder: Path) -> tuple[dict[str, Any], bytes]:
    card = json.loads((folder / "good" / "card.json").read_text())
    return card, (folder / "good" / "model.safetensors").read_bytes()


def overwrite(payload: bytes, changes: list[tuple[int, bytes]]) -> bytes:
    """Put bytes at places, counted around the end; no bytes cut off all that follows."""
    for place, new in changes:
        start = place % (len(payload) or 1)
        payload = payload[:start] + new + payload[start + len(new) :] if new else payload[:start]
    return payload


def loads_or_is_refused(folder: Path, card: bytes, weights: bytes) -> None:
    spoilt = folder / "spoilt"
    (spoilt / "card.json").write_bytes(card)
    (spoilt / "model.safetensors").write_bytes(weights)
    try:
        model, loaded = load_checkpoint(spoilt)
    except CheckpointError as error:
        refusal = str(error)
    else:
        assert model.config == loaded.model
        return
    assert str(spoilt) in refusal


@fuzz
@given(data=st.data(), value=json_values)
def test_any_change_of_a_cards_values(folder: Path, data: st.DataObject, value: Any) -> None:
    card, weights = good(folder)
    place = data.draw(st.sampled_from([card, card["model"]]))
    place[data.draw(st.sampled_from([*sorted(place), "new"]))] = value
    loads_or_is_refused(folder, json.dumps(card).encode(), weights)


@fuzz
@given(edits)
def test_any_change_of_a_cards_bytes(folder: Path, changes: list[tuple[int, bytes]]) -> None:
    card, weights = good(folder)
    loads_or_is_refused(folder, overwrite(json.dumps(card).encode(), changes), weights)


@fuzz
@given(in_header=edits, in_body=edits | st.just([]))
def test_any_change_of_weights_that_the_card_vouches_for(
    folder: Path, in_header: list[tuple[int, bytes]], in_body: list[tuple[int, bytes]]
) -> None:
    card, weights = good(folder)
    end = 8 + int.from_bytes(weights[:8], "little")
    weights = overwrite(weights[:end], in_header) + overwrite(weights[end:], in_body)
    card["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    loads_or_is_refused(folder, json.dumps(card).encode(), weights)
