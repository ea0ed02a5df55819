"""What every alternative serves: the shipped checkpoint, loaded once, its prior computed once."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks import naive
from benchmarks.machine import CHECKPOINT
from vampprior.checkpoint import load_checkpoint
from vampprior.importance import log_likelihood
from vampprior.models import HVAE

__all__ = ["NAIVE", "NUM_SAMPLES", "THREADS", "Model", "decode_png", "encode_png"]

THREADS, NAIVE = "BENCHMARK_THREADS", "BENCHMARK_NAIVE"  # variables that the harness sets
NUM_SAMPLES = 500


class Model:
    """The model with as many compute threads as every contestant has."""

    def __init__(self) -> None:
        torch.set_num_threads(int(os.environ[THREADS]))
        model, _ = load_checkpoint(CHECKPOINT)
        assert isinstance(model, HVAE)
        self.model = model
        with torch.inference_mode():
            self.mixture = self.model.prior_mixture()

    def sample(self, pseudo_inputs: Sequence[int], temperature: float = 1.0) -> NDArray[np.float32]:
        """An image from the prior component of each pseudo-input, in one pass: (N, 1, 28, 28)."""
        components = torch.tensor(pseudo_inputs)
        return self.model.sample(len(components), components, temperature, mixture=self.mixture).numpy()

    def score(self, images: Sequence[Tensor]) -> list[dict[str, Any]]:
        """The log-likelihood of each image, in one call of the library, or by the naive estimate."""
        x = torch.stack([*images])
        if os.environ.get(NAIVE):
            values = naive.log_likelihood(self.model, x, num_samples=NUM_SAMPLES)
            return [{"log_likelihood": value} for value in values.tolist()]
        found = log_likelihood(self.model, x, num_samples=NUM_SAMPLES, mixture=self.mixture)
        scores = zip(found.value.tolist(), found.standard_error.tolist(), strict=True)
        return [{"log_likelihood": value, "standard_error": error} for value, error in scores]


def decode_png(data: bytes) -> Tensor:
    """The image as the model sees it, (1, H, W), 0 or 1."""
    with Image.open(io.BytesIO(data)) as image:
        return torch.from_numpy(np.asarray(image.convert("L")) >= 128).float().unsqueeze(0)


def encode_png(image: NDArray[np.float32]) -> bytes:
    """PNG of an image (1, H, W) with values in [0, 1]."""
    buffer = io.BytesIO()
    Image.fromarray((255 * image[0]).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
