"""A loaded model, and what its computations share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.engine.protocol import Encode, Interpolate, Reconstruct, Score
from vampprior.calibration import Calibration
from vampprior.card import Card
from vampprior.distributions import Mixture
from vampprior.heatmap import Prototypes
from vampprior.importance import chunk_rows
from vampprior.latent_model import LatentModel

__all__ = ["BLOCK_ROWS", "MAX_BYTES", "Array", "Runtime", "decimals", "padded"]

BLOCK_ROWS = 16
"""Batches are padded to a multiple of this, so that matrix products take the same path, and a row gives the same bits,
whatever it is batched with."""
MAX_ROWS, MAX_BYTES = 512, 1 << 21
"""Rows that go through the networks at once on a CPU, and the memory of their largest tensor: more is no faster."""
GPU_ROWS, GPU_BYTES = 1 << 15, 1 << 28
"""The same on a GPU."""

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Runtime:
    """A loaded model and what is computed once for it."""

    card: Card
    model: LatentModel
    mixture: Mixture
    device: torch.device
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.card.model.image_shape

    @property
    def num_pixels(self) -> int:
        """Values of an image."""
        return self.card.model.num_pixels

    @cached_property
    def max_rows(self) -> int:
        """Rows that go through the networks at once."""
        rows, size = (MAX_ROWS, MAX_BYTES) if self.device.type == "cpu" else (GPU_ROWS, GPU_BYTES)
        return min(rows, max(BLOCK_ROWS, chunk_rows(self.model, size) // BLOCK_ROWS * BLOCK_ROWS))

    @cached_property
    def weights(self) -> Array:
        """Weights of the prior's components, (K,), which sum to 1."""
        return self.mixture.log_weights.exp().cpu().numpy().astype(np.float32)

    @cached_property
    def prototypes(self) -> Prototypes | None:
        """An image for each component of the prior; None if there is no way to have them."""
        try:
            return Prototypes.of(self.model, self.mixture)
        except ValueError:
            return None

    @cached_property
    def edges(self) -> NDArray[np.float64]:
        """Where the unit interval is cut into the components' weights, as in `Mixture.sample_index`."""
        return self.mixture.log_weights.double().exp().cumsum(0).cpu().numpy()

    def images(self, payloads: Sequence[Reconstruct | Encode | Score | Interpolate]) -> Tensor:
        """The pixels of all payloads as the model sees them, (N, C, H, W), padded."""
        levels = np.frombuffer(b"".join(payload.levels for payload in payloads), np.uint8)
        return self.model.likelihood.from_bytes(self.tensor(padded(levels.reshape(-1, *self.image_shape))))

    def tensor(self, array: NDArray[Any]) -> Tensor:
        """The array on the model's device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def padded(rows: NDArray[Any]) -> NDArray[Any]:
    """Rows repeated from the last up to a multiple of `BLOCK_ROWS`."""
    missing = -len(rows) % BLOCK_ROWS
    return np.concatenate([rows, rows[-1:].repeat(missing, axis=0)]) if missing else rows


def decimals(values: Tensor | Array) -> NDArray[np.float64]:
    """Values with six decimals: more than a pixel or a latent can tell, at half the bytes."""
    array = values.cpu().numpy() if isinstance(values, Tensor) else values
    return array.astype(np.float64).round(6)
