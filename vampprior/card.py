"""Cards: what a checkpoint is, where it came from and how good it is.

Does not import torch, so that a server can read cards without it.

<store>/<name>/<version>/card.json
<store>/<name>/<version>/scores.safetensors   scores of each test image, if the checkpoint was evaluated

Calibrations lie beside them, see `vampprior.calibration`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from vampprior.config import ModelConfig
from vampprior.files import atomic_write
from vampprior.preparation import Preparation

__all__ = [
    "CARD_FILE",
    "CHECKPOINT_NAME",
    "SCORES_FILE",
    "Card",
    "CardError",
    "CheckpointError",
    "Scores",
    "read_card",
    "read_file",
    "write_card",
]

CARD_FILE, SCORES_FILE = "card.json", "scores.safetensors"
SCHEMA_VERSION = 1
CHECKPOINT_NAME = r"[a-z0-9][a-z0-9._-]{0,99}"
MAX_CARD_BYTES = 4 * 1024 * 1024


class CheckpointError(Exception):
    """A checkpoint that must not be used; the message says what is wrong with it."""


class CardError(CheckpointError):
    """`card.json` or the scores beside it are missing, unreadable or do not fit."""


class Scores(NamedTuple):
    """Scores of the test images, in their order; each array has shape (N,) and is float32.

    Args:
        log_likelihood: Importance-sampling estimates in nats.
        pareto_k: Shape of the tail of the importance weights.
        effective_sample_size: Effective number of importance samples, between 1 and S.
    """

    log_likelihood: NDArray[np.float32]
    pareto_k: NDArray[np.float32]
    effective_sample_size: NDArray[np.float32]


@dataclass(frozen=True)
class Card:
    """What a checkpoint is, where it came from and how good it is.

    Args:
        name, version: Place in a store, `<name>/<version>`.
        model: Architecture of the network.
        dataset: Name, split sizes and hashes of the data.
        training: Recipe, seed, epochs, best epoch, wall-clock in seconds, device and library versions.
        metrics: Test log-likelihood with its standard error, ELBO, KL and reconstruction in nats, active units per
            layer, and the number of images scored; empty before evaluation.
        log_likelihood_quantiles: Ascending `probabilities` and `values` (nats) of the test log-likelihoods, in cards
            without scores.
        weights_sha256: Hash of `model.safetensors`, filled in by `save_checkpoint`.
        scores_sha256: Hash of `scores.safetensors`, filled in by `write_card`; empty if there is no such file.
        calibrations: Hash of each calibration beside the card by its name, filled in by `write_calibration`.
        preparation: How the training images were prepared, and uploaded images are; None if uploads must have the
            model's size.
        pseudo_input_view: How galleries show pseudo-inputs unless they are asked otherwise: as they are (`input`), or
            by the images to which their components' means are decoded (`decoded`).
        scores: The scores, if they lie beside the card. They are no part of `card.json`.

    Raises:
        CardError: If a value does not fit.

    Example:
        >>> card = Card("mnist", "1", ModelConfig())
        >>> Card.from_dict(card.to_dict()) == card
        True
    """

    name: str
    version: str
    model: ModelConfig
    dataset: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    log_likelihood_quantiles: Mapping[str, list[float]] = field(default_factory=dict)
    weights_sha256: str = ""
    scores_sha256: str = ""
    calibrations: Mapping[str, str] = field(default_factory=dict)
    preparation: Preparation | None = None
    pseudo_input_view: Literal["input", "decoded"] = "input"
    schema_version: int = SCHEMA_VERSION
    scores: Scores | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        for key in ("name", "version"):
            value = getattr(self, key)
            if not isinstance(value, str) or not re.fullmatch(CHECKPOINT_NAME, value):
                raise CardError(f"{key} {value!r} must be lower-case letters, digits, '.', '_' and '-'")
        for key in ("dataset", "training", "metrics", "log_likelihood_quantiles", "calibrations"):
            if not isinstance(getattr(self, key), Mapping):
                raise CardError(f"{key} must be an object")
        for name, digest in self.calibrations.items():
            if not re.fullmatch(CHECKPOINT_NAME, name) or not isinstance(digest, str):
                raise CardError(f"calibrations must give a sha256 per name, not {digest!r} for {name!r}")
        if self.preparation and self.preparation.image_shape != self.model.image_shape:
            raise CardError(
                f"preparation gives images of {self.preparation.image_shape}, the model takes {self.model.image_shape}"
            )
        if self.pseudo_input_view not in ("input", "decoded"):
            raise CardError(f"pseudo_input_view must be input or decoded, not {self.pseudo_input_view!r}")
        if self.log_likelihood_quantiles:
            _check_quantiles(self.log_likelihood_quantiles)

    def percentile(self, log_likelihood: float) -> float | None:
        """Percentage of the checkpoint's test images that score lower, 0 to 100; None before evaluation."""
        if self.scores is not None:
            return 100.0 * float(np.mean(self.scores.log_likelihood < np.float32(log_likelihood)))
        if not self.log_likelihood_quantiles:
            return None
        quantiles = self.log_likelihood_quantiles
        return 100.0 * _interpolate(log_likelihood, quantiles["values"], quantiles["probabilities"])

    def quantiles(self, number: int = 101) -> Mapping[str, list[float]]:
        """Equally spaced `probabilities` and the `values` (nats) of the test log-likelihoods; empty if not known."""
        if self.scores is None:
            return self.log_likelihood_quantiles
        probabilities = np.linspace(0.0, 1.0, number)
        values = np.quantile(self.scores.log_likelihood.astype(np.float64), probabilities)
        # interpolation may round two equal values so that they descend
        return {"probabilities": probabilities.tolist(), "values": np.maximum.accumulate(values).tolist()}

    @classmethod
    def from_dict(cls, values: Any) -> Card:
        """Build a card from plain values; raises `CardError` if they do not fit."""
        if not isinstance(values, dict):
            raise CardError("card.json must hold a JSON object")
        if values.get("schema_version") != SCHEMA_VERSION:
            raise CardError(f"schema_version is {values.get('schema_version')!r}, this program reads {SCHEMA_VERSION}")
        known = {item.name for item in fields(cls)} - {"scores"}
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
        preparation = values.get("preparation")
        try:
            preparation = None if preparation is None else Preparation.from_dict(preparation)
        except ValueError as error:
            raise CardError(f"preparation: {error}") from error
        for key in ("weights_sha256", "scores_sha256"):
            if not isinstance(values.get(key, ""), str):
                raise CardError(f"{key} must be a string")
        return cls(**{**values, "model": model, "preparation": preparation})

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `from_dict` takes back, without the scores."""
        values = asdict(replace(self, scores=None)) | {"model": self.model.to_dict()}
        del values["scores"]
        values["preparation"] = self.preparation and self.preparation.to_dict()
        for key, default in (("calibrations", {}), ("preparation", None), ("pseudo_input_view", "input")):
            if values[key] == default:  # so that older programs still read the card
                del values[key]
        return values


def write_card(folder: Path, card: Card) -> Card:
    """Write `card.json`, and before it the scores if the card has them; returns the card with the scores' sha256.

    Writes are atomic: after an error each file has its old content or the new one.
    """
    json.dumps(card.to_dict(), allow_nan=False)  # raises before anything is written
    if card.scores is not None:
        arrays = {name: np.ascontiguousarray(column, np.float32) for name, column in card.scores._asdict().items()}
        payload = save(arrays)
        with atomic_write(folder / SCORES_FILE) as partial:
            partial.write_bytes(payload)
        card = replace(card, scores_sha256=hashlib.sha256(payload).hexdigest())
    with atomic_write(folder / CARD_FILE) as partial:
        partial.write_text(json.dumps(card.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8", newline="\n")
    return card


def read_card(folder: Path) -> Card:
    """Read and check `card.json`, with the scores if they lie beside it; raises `CardError`."""
    path = folder / CARD_FILE
    try:
        payload = read_file(path, MAX_CARD_BYTES + 1)
        if len(payload) > MAX_CARD_BYTES:
            raise CardError(f"{path} is larger than {MAX_CARD_BYTES} bytes")
        card = Card.from_dict(json.loads(payload.decode("utf-8"), parse_float=_finite, parse_constant=_finite))
    except OSError as error:
        raise CardError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # decoding the text and parsing it may raise these
        raise CardError(f"{path} is not JSON: {error}") from error
    except CardError as error:
        raise CardError(f"{path}: {error}") from error
    return replace(card, scores=_read_scores(folder / SCORES_FILE, card.scores_sha256)) if card.scores_sha256 else card


def read_file(path: Path, max_bytes: int = -1) -> bytes:
    """The content of a regular file, or its first `max_bytes`.

    Raises `OSError` for anything else: a read from a named pipe or a device could block forever.
    """

    def open_without_waiting(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))  # which Windows lacks

    with open(path, "rb", opener=open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("it is not a regular file")
        return file.read(max_bytes)


def _read_scores(path: Path, sha256: str) -> Scores | None:
    try:
        payload = read_file(path)
    except FileNotFoundError:  # a card may be kept alone, to be shown in a table
        return None
    except OSError as error:
        raise CardError(f"{path} cannot be read: {error.strerror or error}") from error
    if (digest := hashlib.sha256(payload).hexdigest()) != sha256:
        raise CardError(f"{path} has sha256 {digest}, its card says {sha256}: it is damaged, or another checkpoint's")
    try:
        columns = load(payload)
        scores = Scores(**{name: columns[name] for name in Scores._fields})
    except Exception as error:  # a forged header makes it raise almost anything
        raise CardError(f"{path} does not hold scores: {error}") from error
    lengths = {column.shape for column in scores}
    if len(lengths) != 1 or scores.log_likelihood.ndim != 1 or not np.isfinite(scores.log_likelihood).all():
        raise CardError(f"{path} must hold columns of one length with finite log-likelihoods")
    return scores


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
    """Parse a number of a JSON file; refuses `NaN`, `Infinity` and 1e999, which Python's reader takes."""
    if abs(value := float(number)) < float("inf"):
        return value
    raise ValueError(f"{number} is not a finite number")


def _interpolate(at: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """Piecewise linear function through (xs, ys) with ascending xs, constant outside of them."""
    right = bisect_left(xs, at)
    if right == 0:
        return ys[0]
    if right == len(xs):
        return ys[-1]
    share = (at - xs[right - 1]) / (xs[right] - xs[right - 1])
    return ys[right - 1] + share * (ys[right] - ys[right - 1])
