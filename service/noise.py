"""Random numbers from a request's seed: the same on any replica, and whatever a job is batched with."""

from __future__ import annotations

import threading

import numpy as np
import torch
from numpy.typing import NDArray

from vampprior.latent_model import LatentModel

__all__ = ["component_noise", "latent_noise", "pixel_noise", "seeded_generator"]

LATENTS, PIXELS, COMPONENTS = range(3)  # what a seed's streams are for


class _Streams(threading.local):
    """Independent streams of random numbers by seed and number, one in use at a time.

    Of Philox (Salmon et al., 2011), which is at the start of any stream at once; `default_rng` takes longer to digest a
    seed than to draw the noise of an image.
    """

    def __init__(self) -> None:
        self._bits = np.random.Philox(0)
        self._generator = np.random.Generator(self._bits)
        self._start = self._bits.state

    def __call__(self, seed: int, number: int) -> np.random.Generator:
        self._start["state"]["key"][:] = seed, number
        self._bits.state = self._start
        return self._generator


_stream = _Streams()


def latent_noise(model: LatentModel, n: int, seed: int) -> NDArray[np.float32]:
    """Standard-normal numbers (n, noise_dim), a row an image; drawn in order, so the first do not depend on n."""
    return _stream(seed, LATENTS).standard_normal((n, model.noise_dim), dtype=np.float32)


def pixel_noise(model: LatentModel, n: int, seed: int, *, draw: bool) -> list[NDArray[np.float32]]:
    """Uniform numbers (n, D), likewise, where pixels are to be drawn: always, if the model has no mean image."""
    if not (draw or model.autoregressive):
        return []
    return [_stream(seed, PIXELS).random((n, model.config.num_pixels), dtype=np.float32)]


def component_noise(n: int, seed: int) -> NDArray[np.float64]:
    """Uniform numbers (n,), likewise, which choose components of the prior."""
    return _stream(seed, COMPONENTS).random(n)


def seeded_generator(seed: int) -> torch.Generator:
    """A generator of torch, twice as fast as numpy's; it takes 32 bits, in which all of the seed has its part."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
