"""Numbers that every shipped checkpoint gives for fixed noise; `python tests/vampprior/reference.py` writes them anew.

The noise comes from NumPy generators with fixed seeds, and the images are the model's own, drawn in float64. So the
numbers depend on the weights and the code alone. `checkpoints.json` beside this file holds them for both precisions.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vampprior.checkpoint import load_checkpoint
from vampprior.latent_model import LatentModel

FILE = Path(__file__).with_name("checkpoints.json")
STORE = Path(__file__).parents[2] / "model_store"
DTYPES = {"float64": torch.float64, "float32": torch.float32}
NUM_IMAGES, NUM_SAMPLES = 2, 8


def own_images(model: LatentModel) -> Tensor:
    """Gray levels (N, C, H, W) of images from the first components of the prior."""
    rng = np.random.default_rng(1)
    noise = torch.from_numpy(rng.standard_normal((NUM_IMAGES, model.noise_dim)))
    uniform = torch.from_numpy(rng.random((NUM_IMAGES, model.config.num_pixels)))
    components, pixel_noise = torch.arange(NUM_IMAGES), uniform if model.autoregressive else None
    images = model.sample(component=components, noise=noise, pixel_noise=pixel_noise)
    return (255.0 * images).round().to(torch.uint8)


@torch.inference_mode()
def numbers_of(folder: Path, dtype: torch.dtype) -> dict[str, list[float]]:
    """What a checkpoint gives, a list of numbers for each quantity."""
    model, _ = load_checkpoint(folder)
    gray = own_images(model.double())
    model = model.to(dtype)
    rng = np.random.default_rng(2018)

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal(shape)).to(dtype)

    x = model.likelihood.from_bytes(gray).to(dtype)
    mixture = model.prior_mixture()
    noise = normal(NUM_IMAGES, NUM_SAMPLES, model.noise_dim)
    log_weights = torch.stack([model.elbo(x, noise=noise[:, s]).value for s in range(NUM_SAMPLES)], 1)
    score = model.log_likelihood(x, num_samples=NUM_SAMPLES, noise=noise)
    elbo = model.elbo(x, noise=noise[:, 0])
    components = torch.arange(2) % len(mixture.mean)
    noise = normal(2, model.noise_dim)
    uniform = torch.from_numpy(rng.random((2, model.config.num_pixels))).to(dtype)
    # gray levels are not drawn here, since their sampler may change where the density does not
    drawn = [model.sample(component=components, noise=noise, pixel_noise=uniform)] if model.likelihood.binary else []
    shown = drawn if model.autoregressive else [model.sample(component=components, noise=noise), *drawn]
    posteriors = model.encode(x)
    top = next(iter(posteriors.values()))
    numbers = {
        "log_weights": log_weights.flatten(),
        "log_likelihood": score.value,
        "elbo": elbo.value,
        "reconstruction": elbo.reconstruction,
        "log_prior": mixture.log_prob(top.mean),
        "posterior": torch.stack([part.square().mean() for q in posteriors.values() for part in (q.mean, q.std)]),
        "sample": torch.stack([part for image in shown for part in (image.mean(), image.std(), image[0, 0, 4, 4])]),
    }
    return {name: values.double().tolist() for name, values in numbers.items()}


def checkpoints() -> list[str]:
    """Every checkpoint of the store, `name/version`."""
    return sorted(str(card.parent.relative_to(STORE)) for card in STORE.glob("*/*/card.json"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {name: {dtype: numbers_of(STORE / name, DTYPES[dtype]) for dtype in DTYPES} for name in checkpoints()}
    lines = [
        f'"{name}": {{\n'
        + ",\n".join(f' "{dtype}": {json.dumps(numbers)}' for dtype, numbers in by_dtype.items())
        + "\n}"
        for name, by_dtype in found.items()
    ]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
