"""Checkpoints: float32 weights in safetensors and a `card.json` that describes them. Nothing is ever unpickled.

    <store>/<name>/<version>/model.safetensors
    <store>/<name>/<version>/card.json

A checkpoint that does not fit is refused:

    CheckpointError
     +- CardError       card.json is missing, is not JSON, or lacks or contradicts something
     +- WeightsError    model.safetensors is missing, damaged, or does not fit the card's model
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vampprior.card import CARD_FILE, Card, CardError, CheckpointError, read_card, read_file, write_card
from vampprior.files import atomic_write
from vampprior.latent_model import LatentModel
from vampprior.models import build_model

__all__ = ["WeightsError", "load_checkpoint", "save_checkpoint"]

WEIGHTS_FILE = "model.safetensors"


class WeightsError(CheckpointError):
    """`model.safetensors` is missing, damaged or does not fit the card."""


def save_checkpoint(folder: Path, model: LatentModel, card: Card) -> Card:
    """Write the model's weights as float32 and the card beside them.

    Writes are atomic: after an error each file has its old content or the new one. The card is written last.

    Returns:
        The card with the sha256 of the weights.

    Raises:
        WeightsError: If a weight is not finite.
    """
    tensors = {name: _stored(tensor) for name, tensor in model.state_dict().items()}
    _check_finite(folder / WEIGHTS_FILE, tensors)
    payload = save(tensors)
    with atomic_write(folder / WEIGHTS_FILE) as partial:
        partial.write_bytes(payload)
    return write_card(folder, replace(card, weights_sha256=hashlib.sha256(payload).hexdigest()))


def load_checkpoint(folder: Path) -> tuple[LatentModel, Card]:
    """Load a checkpoint for inference: the model in float32 on the CPU, without gradients, and its card.

    Verifies the card's schema, the sha256 of the weights, and the name, shape, type and finiteness of every tensor.

    Raises:
        CardError: If the card is missing or invalid.
        WeightsError: If the weights are missing, damaged or do not fit the card.

    Example:
        >>> from pathlib import Path
        >>> model, card = load_checkpoint(Path("model_store/digits-vae-vampprior/1"))
        >>> card.name, model.sample(3).shape
        ('digits-vae-vampprior', torch.Size([3, 1, 8, 8]))
    """
    card = read_card(folder)
    path = folder / WEIGHTS_FILE
    try:
        payload = read_file(path)
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
        with torch.device("meta"):  # tensors there have shapes and take no memory
            expected = build_model(card.model).state_dict()
    except Exception as error:  # torch raises many exception types for huge sizes
        raise CardError(f"{folder / CARD_FILE}: the model cannot be built: {error}") from error
    _check_tensors(path, tensors, expected)
    _check_finite(path, tensors)
    with _SkipInitialization():
        model = build_model(card.model)
    model.load_state_dict(tensors)
    return model.requires_grad_(False).eval(), card


def _stored(tensor: Tensor) -> Tensor:
    """The tensor on the CPU, in float32 unless it counts batches for batch normalization."""
    return tensor.detach().to("cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype).contiguous()


class _SkipInitialization(TorchFunctionMode):
    """Skips drawing initial weights, which takes half of the time of loading a checkpoint."""

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
        raise WeightsError(f"{path} has a tensor {unknown[0]} that the card's model lacks")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise WeightsError(f"{path}: {name} has shape {tuple(tensor.shape)}, not {tuple(expected[name].shape)}")
        if tensor.dtype != expected[name].dtype:
            raise WeightsError(f"{path}: {name} is {tensor.dtype}, not {expected[name].dtype}")


def _check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"{path}: {name} holds a value that is not finite")
