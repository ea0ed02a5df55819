"""Every checkpoint that does not fit is refused with a CheckpointError that says what is wrong."""

from __future__ import annotations

import hashlib
import io
import json
import math
import pickle
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from vampprior import LatentModel, ModelConfig, build_model
from vampprior.card import MAX_CARD_BYTES, Card, CardError, CheckpointError, read_card
from vampprior.checkpoint import WeightsError, load_checkpoint, save_checkpoint

CONFIG = ModelConfig(image_shape=(1, 4, 4), z1_dim=3, z2_dim=2, hidden_dim=7, num_components=5)


class Checkpoint:
    """A good checkpoint in a folder, and ways to spoil it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.card_path, self.weights_path = folder / "card.json", folder / "model.safetensors"
        save_checkpoint(folder, build_model(CONFIG), Card("digits", "1", CONFIG))
        self.card: dict[str, Any] = json.loads(self.card_path.read_text())
        self.weights = self.weights_path.read_bytes()

    def set_card(self, **changes: Any) -> None:
        self.card_path.write_text(json.dumps(self.card | changes))

    def set_model(self, **changes: Any) -> None:
        self.set_card(model=self.card["model"] | changes)

    def set_weights(self, payload: bytes) -> None:
        """A file that its card vouches for."""
        self.weights_path.write_bytes(payload)
        self.set_card(weights_sha256=hashlib.sha256(payload).hexdigest())

    def set_tensors(self, change: Callable[[dict[str, Tensor]], object]) -> None:
        tensors = load(self.weights)
        change(tensors)
        self.set_weights(save(tensors))

    def load(self) -> tuple[LatentModel, Card]:
        return load_checkpoint(self.folder)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["card.json", "model.safetensors"])
def test_a_missing_file_is_named(checkpoint: Checkpoint, name: str) -> None:
    (checkpoint.folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} cannot be read: No such file"):
        checkpoint.load()
    (checkpoint.folder / name).mkdir()
    with pytest.raises(CheckpointError, match=f"{name} cannot be read: Is a directory"):
        checkpoint.load()


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_truncated_weights_are_refused(checkpoint: Checkpoint, keep: int) -> None:
    checkpoint.weights_path.write_bytes(checkpoint.weights[:keep])
    with pytest.raises(WeightsError, match=r"sha256 .* damaged"):
        checkpoint.load()
    checkpoint.set_weights(checkpoint.weights[:keep])
    with pytest.raises(WeightsError, match="not a safetensors file"):
        checkpoint.load()


def test_one_flipped_bit_is_noticed(checkpoint: Checkpoint) -> None:
    for position in (0, 8, len(checkpoint.weights) // 2, len(checkpoint.weights) - 1):
        flipped = bytearray(checkpoint.weights)
        flipped[position] ^= 1
        checkpoint.weights_path.write_bytes(flipped)
        with pytest.raises(WeightsError, match=r"sha256 .* damaged"):
            checkpoint.load()


def test_the_weights_of_another_model_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "other", build_model(CONFIG), Card("other", "1", CONFIG))
    checkpoint.weights_path.write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(WeightsError, match="or another model's"):
        checkpoint.load()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("p_x.pixels.bias"), r"lacks the tensor p_x\.pixels\.bias"),
        (lambda t: t.update(extra=torch.zeros(3)), "has a tensor extra that"),
        (lambda t: t.update({"p_x.pixels.bias": torch.zeros(17)}), r"p_x\.pixels\.bias has shape \(17,\), not \(16,\)"),
        (lambda t: t.update({"p_x.pixels.bias": torch.zeros(16).half()}), r"p_x\.pixels\.bias is torch\.float16, not"),
        (lambda t: t.update({"p_x.pixels.bias": torch.zeros(16).int()}), r"p_x\.pixels\.bias is torch\.int32, not"),
        (lambda t: t["p_x.pixels.bias"].fill_(math.nan), r"p_x\.pixels\.bias holds a value that is not finite"),
        (lambda t: t["p_x.pixels.bias"][3:4].fill_(-math.inf), r"p_x\.pixels\.bias holds a value that is not finite"),
    ],
    ids=["missing", "extra", "shape", "half", "integer", "nan", "infinite"],
)
def test_a_tensor_that_does_not_fit_is_named(checkpoint: Checkpoint, change: Any, message: str) -> None:
    checkpoint.set_tensors(change)
    with pytest.raises(WeightsError, match=message):
        checkpoint.load()


def test_a_pickle_is_refused_and_never_run(checkpoint: Checkpoint, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "went-off",))

    archive = io.BytesIO()
    torch.save(Bomb(), archive)
    for payload in (pickle.dumps(Bomb()), archive.getvalue()):
        checkpoint.set_weights(payload)
        with pytest.raises(WeightsError, match="not a safetensors file"):
            checkpoint.load()
        assert not (tmp_path / "went-off").exists()
    pickle.loads(pickle.dumps(Bomb()))
    assert (tmp_path / "went-off").exists()


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "is not JSON"),
        (b"\x80\x04N.", "is not JSON"),
        (b'{"name": "digits"', "is not JSON"),
        ('{"name": "\u00e9"}'.encode("utf-16"), "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"model":' * 100_000, "is not JSON"),
        (b"null", "must hold a JSON object"),
        (b"[]", "must hold a JSON object"),
        (b'"card"', "must hold a JSON object"),
        (b"{}", "schema_version is None"),
        (b" " * (MAX_CARD_BYTES + 1), "is larger than"),
    ],
    ids=["empty", "pickle", "cut", "utf-16", "deep-list", "deep-object", "null", "list", "string", "bare", "huge"],
)
def test_a_file_that_is_no_card_is_refused(checkpoint: Checkpoint, payload: bytes, message: str) -> None:
    checkpoint.card_path.write_bytes(payload)
    with pytest.raises(CardError, match=message) as refusal:
        checkpoint.load()
    assert str(checkpoint.card_path) in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 0}, "schema_version is 0, this program reads 1"),
        ({"schema_version": 2}, "schema_version is 2, this program reads 1"),
        ({"schema_version": "1"}, "schema_version is '1', this program reads 1"),
        ({"schema_version": None}, "schema_version is None"),
        ({"acuracy": 1}, "unknown key 'acuracy'"),
        ({"name": "../../etc"}, r"name '\.\./\.\./etc' must be"),
        ({"version": "1/.."}, r"version '1/\.\.' must be"),
        ({"version": 1}, "version 1 must be"),
        ({"model": None}, "model must be an object"),
        ({"model": {"hidden": 3}}, "model: unknown model setting 'hidden'"),
        ({"model": {"hidden_dim": 3.0}}, r"model: hidden_dim must be a positive whole number, not 3\.0"),
        ({"model": {"model": "gan"}}, "unknown model 'gan'"),
        ({"model": {"prior": "flow"}}, "unknown prior 'flow'"),
        ({"metrics": [1]}, "metrics must be an object"),
        ({"weights_sha256": None}, "weights_sha256 must be a string"),
        ({"log_likelihood_quantiles": {"values": [1]}}, "log_likelihood_quantiles must hold"),
    ],
)
def test_a_card_that_does_not_fit_says_where(checkpoint: Checkpoint, changes: dict[str, Any], message: str) -> None:
    checkpoint.set_card(**changes)
    with pytest.raises(CardError, match=message) as refusal:
        checkpoint.load()
    assert str(checkpoint.card_path) in str(refusal.value)


@pytest.mark.parametrize("key", ["name", "version", "model", "weights_sha256"])
def test_a_card_without_a_key_says_which(checkpoint: Checkpoint, key: str) -> None:
    del checkpoint.card[key]
    checkpoint.set_card()
    with pytest.raises(CardError, match=f"{key} is missing"):
        checkpoint.load()


def test_an_empty_digest_vouches_for_nothing(checkpoint: Checkpoint) -> None:
    checkpoint.set_card(weights_sha256="")
    with pytest.raises(WeightsError, match="sha256"):
        checkpoint.load()


ABSURD = {"hidden_dim": "has shape", "z1_dim": "has shape", "z2_dim": "has shape", "num_components": "free_inputs has"}


@pytest.mark.parametrize("name", sorted(ABSURD))
def test_an_absurd_size_is_refused_without_the_memory(checkpoint: Checkpoint, name: str) -> None:
    """10^9 units would take 28 GB and more; the peak of this process may grow by the 256 MB of a lazy import."""
    checkpoint.set_model(**{name: 10**9})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsError, match=ABSURD[name]):
        checkpoint.load()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024


@pytest.mark.parametrize(
    "sizes",
    [{"hidden_dim": 10**12}, {"z2_dim": 10**18}, {"num_components": 10**30}, {"image_shape": [10**9] * 3}],
    ids=str,
)
def test_a_size_beyond_64_bits_is_refused(checkpoint: Checkpoint, sizes: dict[str, Any]) -> None:
    checkpoint.set_model(**sizes)
    with pytest.raises(CheckpointError):
        checkpoint.load()


def test_a_number_of_five_thousand_digits_is_refused(checkpoint: Checkpoint) -> None:
    checkpoint.card_path.write_text('{"schema_version": ' + "1" * 5000 + "}")
    with pytest.raises(CardError, match="not JSON"):
        checkpoint.load()


def test_a_quantile_beyond_float_is_refused(checkpoint: Checkpoint) -> None:
    checkpoint.set_card(log_likelihood_quantiles={"probabilities": [0, 1], "values": [0, 10**400]})
    with pytest.raises(CardError, match="log_likelihood_quantiles"):
        checkpoint.load()


def test_a_metric_that_is_not_a_number_is_refused(checkpoint: Checkpoint) -> None:
    checkpoint.set_card(metrics={"elbo": math.nan})
    with pytest.raises(CardError, match="NaN"):
        read_card(checkpoint.folder)


def test_a_message_can_be_printed(checkpoint: Checkpoint) -> None:
    checkpoint.set_card(**{"\ud800": 1})
    with pytest.raises(CardError) as refusal:
        checkpoint.load()
    assert str(refusal.value).encode()


def tensor_file(dtype: str, shape: list[int], data: bytes) -> bytes:
    header = json.dumps({"x": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}}).encode()
    return len(header).to_bytes(8, "little") + header + data


@pytest.mark.parametrize(
    "payload",
    [tensor_file("F8_E8M0", [8], bytes(8)), tensor_file("F4", [8], bytes(4)), tensor_file("F32", [0, 2**63], b"")],
    ids=["F8_E8M0", "F4", "shape"],
)
def test_a_tensor_that_torch_cannot_hold_is_refused(checkpoint: Checkpoint, payload: bytes) -> None:
    checkpoint.set_weights(payload)
    with pytest.raises(WeightsError):
        checkpoint.load()
