"""Checkpoints: float32 weights in safetensors and a `card.json` that says what they are. Nothing else is ever loaded.

    <store>/<name>/<version>/model.safetensors
    <store>/<name>/<version>/card.json

A checkpoint that does not fit is refused:

    CheckpointError
     +- CardError       card.json is missing, is not JSON, or lacks or contradicts something
     +- WeightsError    model.safetensors is missing, damaged, or does not fit the card's model
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vampprior.config import ModelConfig
from vampprior.models import LatentModel, build_model

__all__ = [
    "Card",
    "CardError",
    "CheckpointError",
    "WeightsError",
    "load_checkpoint",
    "read_card",
    "save_checkpoint",
    "write_card",
]

CARD_FILE, WEIGHTS_FILE = "card.json", "model.safetensors"
SCHEMA_VERSION = 1
CHECKPOINT_NAME = r"[a-z0-9][a-z0-9._-]{0,99}"
MAX_CARD_BYTES = 4 * 1024 * 1024


class CheckpointError(Exception):
    """A checkpoint that must not be used; the message says what is wrong with it."""


class CardError(CheckpointError):
    """`card.json` is missing, unreadable or does not fit."""


class WeightsError(CheckpointError):
    """`model.safetensors` is missing, damaged or does not fit the card."""


@dataclass(frozen=True)
class Card:
    """What a checkpoint is, where it came from and how good it is.

    name, version: its place in a store, `<name>/<version>`
    model:         the network
    dataset:       name, split sizes and hashes of the data
    training:      recipe, seed, epochs, best epoch, wall-clock in seconds, device, library versions
    metrics:       test log-likelihood with its standard error, ELBO, KL, reconstruction (nats), active units per
                   layer, and the number of images scored; empty before evaluation
    log_likelihood_quantiles: `probabilities` and `values` (nats) of the test images' log-likelihoods, both ascending
    weights_sha256: of model.safetensors; filled in by `save_checkpoint`
    """

    name: str
    version: str
    model: ModelConfig
    dataset: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    log_likelihood_quantiles: Mapping[str, list[float]] = field(default_factory=dict)
    weights_sha256: str = ""
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        for key in ("name", "version"):
            value = getattr(self, key)
            if not isinstance(value, str) or not re.fullmatch(CHECKPOINT_NAME, value):
                raise CardError(f"{key} {value!r} must be lower-case letters, digits, '.', '_' and '-'")
        for key in ("dataset", "training", "metrics", "log_likelihood_quantiles"):
            if not isinstance(getattr(self, key), Mapping):
                raise CardError(f"{key} must be an object")
        if self.log_likelihood_quantiles:
            _check_quantiles(self.log_likelihood_quantiles)

    def percentile(self, log_likelihood: float) -> float | None:
        """Per cent of the checkpoint's own test images that score lower, 0 to 100; None before evaluation."""
        if not self.log_likelihood_quantiles:
            return None
        quantiles = self.log_likelihood_quantiles
        return 100.0 * _interpolate(log_likelihood, quantiles["values"], quantiles["probabilities"])

    @classmethod
    def from_dict(cls, values: Any) -> Card:
        """Build a card from plain values; raises `CardError` if they do not fit."""
        if not isinstance(values, dict):
            raise CardError("card.json must hold a JSON object")
        if values.get("schema_version") != SCHEMA_VERSION:
            raise CardError(f"schema_version is {values.get('schema_version')!r}, this program reads {SCHEMA_VERSION}")
        known = {item.name for item in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise CardError(f"unknown key {unknown[0]!r}")
        if missing := sorted({"name", "version", "model", "weights_sha256"} - set(values)):
            raise CardError(f"{missing[0]} is missing")
        if not isinstance(values["model"], dict):
            raise CardError("model must be an object")
        try:
            model = ModelConfig.from_dict(values["model"])
        except (ValueError, TypeError) as error:
            raise CardError(f"model: {error}") from error
        if not isinstance(values["weights_sha256"], str):
            raise CardError("weights_sha256 must be a string")
        return cls(**{**values, "model": model})

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `from_dict` takes back."""
        return asdict(self) | {"model": self.model.to_dict()}


def save_checkpoint(folder: Path, model: LatentModel, card: Card) -> Card:
    """Write the model's weights as float32 and the card beside them; returns the card with the weights' sha256.

    Each file appears whole or not at all, the card last. Raises `WeightsError` if a weight is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: _stored(tensor) for name, tensor in model.state_dict().items()}
    _check_tensors(folder / WEIGHTS_FILE, tensors, tensors)
    payload = save(tensors)
    _write(folder / WEIGHTS_FILE, payload)
    card = Card(**{**_shallow(card), "weights_sha256": hashlib.sha256(payload).hexdigest()})
    write_card(folder, card)
    return card


def _stored(tensor: Tensor) -> Tensor:
    """On the CPU, in float32; whole numbers (batch normalization counts its batches) stay what they are."""
    return tensor.detach().to("cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype).contiguous()


def write_card(folder: Path, card: Card) -> None:
    """Write `card.json`, whole or not at all."""
    _write(folder / CARD_FILE, (json.dumps(card.to_dict(), indent=2, allow_nan=False) + "\n").encode())


def read_card(folder: Path) -> Card:
    """Read and check `card.json`; raises `CardError`."""
    path = folder / CARD_FILE
    try:
        payload = _read(path, MAX_CARD_BYTES + 1)
        if len(payload) > MAX_CARD_BYTES:
            raise CardError(f"{path} is larger than {MAX_CARD_BYTES} bytes")
        text = payload.decode("utf-8")
        return Card.from_dict(json.loads(text, parse_float=_finite, parse_constant=_finite))
    except OSError as error:
        raise CardError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # what decoding the text and parsing it may raise
        raise CardError(f"{path} is not JSON: {error}") from error
    except CardError as error:
        raise CardError(f"{path}: {error}") from error


def load_checkpoint(folder: Path) -> tuple[LatentModel, Card]:
    """Load a checkpoint for inference: the model in float32 on the CPU, without gradients, and its card.

    Verifies the card's schema, the sha256 of the weights, and every tensor's name, shape, dtype and finiteness.
    Raises `CardError` or `WeightsError`.
    """
    card = read_card(folder)
    path = folder / WEIGHTS_FILE
    try:
        payload = _read(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    if (digest := hashlib.sha256(payload).hexdigest()) != card.weights_sha256:
        raise WeightsError(
            f"{path} has sha256 {digest}, its card says {card.weights_sha256}: it is damaged, or another model's"
        )
    try:
        tensors = load(payload)
    except Exception as error:  # a forged header makes it raise almost anything
        raise WeightsError(f"{path} is not a safetensors file: {error}") from error
    try:
        with torch.device("meta"):  # which has shapes and takes no memory
            expected = build_model(card.model).state_dict()
    except Exception as error:  # sizes beyond all bounds make torch raise almost anything
        raise CardError(f"{folder / CARD_FILE}: the model cannot be built: {error}") from error
    _check_tensors(path, tensors, expected)
    with _Undrawn():
        model = build_model(card.model)
    model.load_state_dict(tensors)
    return model.requires_grad_(False).eval(), card


class _Undrawn(TorchFunctionMode):
    """Leaves out drawing the initial weights of models that get theirs from a file: half the time of loading one."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.normal_, nn.init.uniform_, nn.init.kaiming_uniform_):
            return next(iter((*args, *kwargs.values())))  # the tensor as it is
        return func(*args, **kwargs)


def _check_tensors(path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    if missing := sorted(set(expected) - set(tensors)):
        raise WeightsError(f"{path} lacks the tensor {missing[0]} of the card's model")
    if unknown := sorted(set(tensors) - set(expected)):
        raise WeightsError(f"{path} has a tensor {unknown[0]} that the card's model has not")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise WeightsError(f"{path}: {name} has shape {tuple(tensor.shape)}, not {tuple(expected[name].shape)}")
        if tensor.dtype != expected[name].dtype:
            raise WeightsError(f"{path}: {name} is {tensor.dtype}, not {expected[name].dtype}")
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"{path}: {name} holds a value that is not finite")


def _check_quantiles(quantiles: Mapping[str, Any]) -> None:
    lengths = set()
    for name in ("probabilities", "values"):
        column = quantiles.get(name)
        if not isinstance(column, list) or not all(isinstance(v, (int, float)) and abs(v) < 1e300 for v in column):
            raise CardError(f"log_likelihood_quantiles must hold a list of finite numbers named {name}")
        if sorted(column) != column:
            raise CardError(f"the {name} of log_likelihood_quantiles must be ascending")
        lengths.add(len(column))
    if not all(0 <= probability <= 1 for probability in quantiles["probabilities"]):
        raise CardError("the probabilities of log_likelihood_quantiles must lie between 0 and 1")
    if len(lengths) != 1 or min(lengths) < 2:
        raise CardError("log_likelihood_quantiles must hold as many probabilities as values, two at least")


def _finite(number: str) -> float:
    """For JSON's reader, which takes `NaN`, `Infinity` and 1e999 for numbers."""
    if abs(value := float(number)) < float("inf"):
        return value
    raise ValueError(f"{number} is not a finite number")


def _interpolate(at: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """Piecewise linear through (xs, ys), constant outside; xs ascends."""
    right = bisect_left(xs, at)
    if right == 0:
        return ys[0]
    if right == len(xs):
        return ys[-1]
    share = (at - xs[right - 1]) / (xs[right] - xs[right - 1])
    return ys[right - 1] + share * (ys[right] - ys[right - 1])


def _shallow(card: Card) -> dict[str, Any]:
    return {item.name: getattr(card, item.name) for item in fields(card)}


def _read(path: Path, max_bytes: int = -1) -> bytes:
    """The content of a regular file, or its first `max_bytes`.

    Raises `OSError` for anything else: a read from a named pipe or a device could block forever.
    """

    def open_without_waiting(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))  # which Windows lacks

    with open(path, "rb", opener=open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("it is not a regular file")
        return file.read(max_bytes)


def _write(path: Path, payload: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
