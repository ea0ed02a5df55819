"""A few training steps of every phase give the weights and metrics that the first version of the trainer gave.

`reference/numbers.json` holds, per case, the metrics of every epoch and two numbers per weight tensor: its L2 norm and
its inner product with cos(0), cos(1), ... After a change that is meant to alter the numbers, write the file again with
`python -m tests.training.test_reference_numbers`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from training.data import Dataset
from training.recipe import Recipe
from training.trainer import Trainer
from vampprior import LIKELIHOODS, ModelConfig, build_model

FILE = Path(__file__).parent / "reference" / "numbers.json"
TOLERANCE = 1e-6
"""Relative for numbers above 1 and absolute below. The steps run in float64, because in float32 the rounding of another
CPU's vector units grows beyond this within six steps."""
SIZES = {"z1_dim": 3, "z2_dim": 3, "hidden_dim": 8, "num_components": 4}
CASES: dict[str, dict[str, Any]] = {
    "wake, VAE, standard": {"model": {"model": "vae", "prior": "standard"}},
    "wake, HVAE, VampPrior, dynamic, average": {
        "model": {"model": "hvae", "prior": "vampprior"},
        "training": {"ema_decay": 0.9},
        "images": "dynamic",
    },
    "wake, HVAE, mixture, gray, annealing, decay": {
        "model": {"model": "hvae", "prior": "mog", "likelihood": "logistic"},
        "training": {"annealing": True, "weight_decay": 0.3, "normalize_gradients": False},
        "images": "gray",
    },
    "wake, ConvHVAE, weighted VampPrior, several draws": {
        "model": {"model": "conv_hvae", "prior": "weighted_vampprior"},
        "training": {"importance_samples": 3, "validation_samples": 5},
    },
    "wake, PixelHVAE, VampPrior data, dynamic": {
        "model": {"model": "pixel_hvae", "prior": "vampprior_data"},
        "images": "dynamic",
    },
    "wake, HVAE, VampPrior from images, gray": {
        "model": {"model": "hvae", "prior": "vampprior", "likelihood": "logistic"},
        "pseudo_inputs": {"start": "images"},
        "images": "gray",
    },
    "sleep, HVAE, VampPrior": {
        "model": {"model": "hvae", "prior": "vampprior"},
        "training": {"phase": "sleep", "warmup_epochs": 0},
    },
    "sleep, VAE, mixture": {
        "model": {"model": "vae", "prior": "mog"},
        "training": {"phase": "sleep", "warmup_epochs": 0, "keep": "last"},
    },
    "sleep, PixelHVAE, weighted VampPrior": {
        "model": {"model": "pixel_hvae", "prior": "weighted_vampprior"},
        "training": {"phase": "sleep", "warmup_epochs": 0},
    },
    "wake-sleep, HVAE, VampPrior, several draws": {
        "model": {"model": "hvae", "prior": "vampprior"},
        "training": {"phase": "wake-sleep", "warmup_epochs": 0, "importance_samples": 2, "keep": "last"},
    },
    "wake-sleep, ConvHVAE, standard, dynamic": {
        "model": {"model": "conv_hvae", "prior": "standard"},
        "training": {"phase": "wake-sleep", "warmup_epochs": 0, "normalize_gradients": False, "ema_decay": 0.5},
        "images": "dynamic",
    },
}


def images(kind: str) -> Dataset:
    """70 training and 20 validation images of 8x8 pixels."""
    gray = np.random.default_rng(0).integers(0, 256, (110, 1, 8, 8)).astype(np.uint8)
    binary = (gray > 127).astype(np.uint8)
    train, rest = (gray, gray) if kind == "gray" else (gray, binary) if kind == "dynamic" else (binary, binary)
    return Dataset(kind, train[:70], rest[70:90], rest[90:], 255 if kind == "gray" else 1, dynamic=kind == "dynamic")


def numbers_of(case: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Train for two epochs of three steps, the last on fewer images, and summarize what came out."""
    training = {"batch_size": 30, "learning_rate": 2e-3, "warmup_epochs": 2, "max_epochs": 2, "seed": 4}
    asleep = "sleep" in case.get("training", {}).get("phase", "wake")
    recipe = Recipe.from_dict(
        {
            "name": "reference",
            "dataset": "reference",
            "init_checkpoint": "reference@0" if asleep else "",
            "model": SIZES | case["model"],
            "pseudo_inputs": case.get("pseudo_inputs", {}),
            "training": training | case.get("training", {}),
        }
    )
    start = None
    if asleep:
        torch.manual_seed(9)
        start = build_model(ModelConfig(**SIZES, **case["model"], image_shape=(1, 8, 8)))
    trainer = Trainer(recipe, images(case.get("images", "binary")), folder, torch.device("cpu"), start)
    metrics = [asdict(trainer.run_epoch()) for _ in range(2)]
    trainer.folder.wait()
    for line in metrics:
        del line["seconds"]
    weights = {f"model.{name}": tensor for name, tensor in trainer.model.state_dict().items()}
    weights |= {f"best.{name}": tensor for name, tensor in trainer.best_model().state_dict().items()}
    return {"metrics": metrics, "weights": {name: fingerprint(tensor) for name, tensor in weights.items()}}


def fingerprint(tensor: Tensor) -> list[float]:
    values = tensor.detach().double().flatten()
    return [values.norm().item(), (values @ torch.arange(len(values)).double().cos()).item()]


@contextmanager
def double_precision() -> Iterator[None]:
    """Let new tensors and images be float64."""
    with pytest.MonkeyPatch.context() as patch:
        for likelihood in LIKELIHOODS.values():
            single = type(likelihood).from_bytes
            patch.setattr(
                likelihood, "from_bytes", lambda gray, single=single, it=likelihood: single(it, gray).double()
            )
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", CASES)
def test_training_gives_the_numbers_of_the_first_version(name: str, tmp_path: Path) -> None:
    expected = json.loads(FILE.read_text())[name]
    with double_precision():
        found = numbers_of(CASES[name], tmp_path)
    assert [line.keys() for line in found["metrics"]] == [line.keys() for line in expected["metrics"]]
    for line, wanted in zip(found["metrics"], expected["metrics"], strict=True):
        assert line == pytest.approx(wanted, rel=TOLERANCE, abs=TOLERANCE)
    assert found["weights"].keys() == expected["weights"].keys()
    for tensor, (norm, product) in expected["weights"].items():
        scale = TOLERANCE * max(norm, 1.0)
        assert found["weights"][tensor] == pytest.approx([norm, product], rel=0, abs=scale), tensor


def write_again() -> None:
    """Replace the committed numbers by those of the present code."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, double_precision():
        found = {name: numbers_of(case, Path(folder, str(index))) for index, (name, case) in enumerate(CASES.items())}
    FILE.write_text(json.dumps(found, separators=(",", ":")).replace("},", "},\n").replace("],", "],\n") + "\n")


if __name__ == "__main__":
    write_again()
