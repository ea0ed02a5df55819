"""`python -m training figure NAME`: the figures of the paper, by their numbers, and others, drawn from checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from training.checkpoints import dataset_of, find_checkpoint
from training.data import data_directory
from training.report.charts import Comparison, draw_active_units, draw_bounds, draw_densities
from training.report.explanations import draw_explanations, explain
from training.report.novel_sets import altered_sets, choose, foreign_sets
from training.report.pictures import Panel, draw_panels, draw_prototypes, pseudo_inputs_of, reconstruct, sample
from training.report.results import Cards, dataset_name, reference
from training.terminal import DataDir, Store
from vampprior.calibration import read_calibration
from vampprior.card import Card, CheckpointError, read_card
from vampprior.checkpoint import load_checkpoint
from vampprior.latent_model import LatentModel
from vampprior.models import MODELS

__all__ = ["app"]

app = typer.Typer(
    help="Draw a figure from checkpoints; those with numbers are figures of the paper.", no_args_is_help=True
)

SHOWN = ("hole", "stroke", "flipped left to right", "Omniglot", "Fashion-MNIST", "blank")
"""Sets of which the figure `novelty` shows an image, beside a test image."""
SIDE = 6
"""Rows and columns of a panel."""
CHOSEN = 3
SHEET_COLUMNS, SHEET_ROWS = 8, 6
"""Columns and rows of the sheet below each chosen pseudo-input."""

Checkpoint = Annotated[str, typer.Argument(help="Folder, or name or name@version in the store.")]
Checkpoints = Annotated[list[str], typer.Argument(help="Folders, or names or name@version in the store.")]
DatasetName = Annotated[str, typer.Option("--dataset", help="Data set of the checkpoints.")]
ModelName = Annotated[str, typer.Option("--model", help=f"Model of the checkpoints: {', '.join(MODELS)}.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of random choices and samples.")]
Output = Annotated[Path, typer.Option(help="PNG file to write.")]


@app.command("2")
def bounds(
    dataset: DatasetName = "static_mnist",
    model: ModelName = "hvae",
    output: Output = Path("figure-2.png"),
    store: Store = Path("model_store"),
) -> None:
    """Test ELBO against the number of components, for mixtures of Gaussians and VampPriors."""
    comparison = Comparison.of(Cards.read(store), dataset, model, {"mog": "MoG", "vampprior": "VampPrior"})
    draw_bounds(comparison, output, title=f"{dataset}, {model}")
    print(output)


@app.command("3")
def active_units(
    dataset: DatasetName = "static_mnist",
    model: ModelName = "hvae",
    output: Output = Path("figure-3.png"),
    store: Store = Path("model_store"),
) -> None:
    """Active units of every layer against the number of pseudo-inputs."""
    comparison = Comparison.of(Cards.read(store), dataset, model, {"vampprior": "VampPrior"})
    draw_active_units(comparison, output, title=f"{dataset}, {model}")
    print(output)


@app.command("4")
def prototypes(
    checkpoint: Checkpoint,
    pseudo_input: Annotated[
        list[int] | None,
        typer.Option(min=0, help=f"Index of a pseudo-input; may be repeated. Without it, {CHOSEN} at random."),
    ] = None,
    seed: Seed = 0,
    output: Output = Path("figure-4.png"),
    store: Store = Path("model_store"),
) -> None:
    """Samples from the components of pseudo-inputs, and a sheet of pseudo-inputs."""
    model, card = load_checkpoint(find_checkpoint(checkpoint, store))
    inputs = pseudo_inputs_of(model)
    shuffled = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    chosen = pseudo_input or shuffled[:CHOSEN].tolist()
    if max(chosen) >= len(inputs):
        raise CheckpointError(
            f"{reference(card)} has pseudo-inputs 0 to {len(inputs) - 1}, none numbered {max(chosen)}"
        )
    drawn = {index: sample(model, SIDE * SIDE - 1, seed, component=index) for index in chosen}
    groups = [
        Panel(f"pseudo-input {index}", torch.cat([inputs[index : index + 1], images]), SIDE)
        for index, images in drawn.items()
    ]
    columns = SHEET_COLUMNS * len(groups)
    shown = inputs[shuffled[: columns * SHEET_ROWS]]
    sheet = Panel(f"{len(shown)} of {len(inputs)} pseudo-inputs, each scaled to full brightness", shown, columns)
    draw_prototypes(groups, sheet, output, title=card.name)
    print(output)


@app.command("5")
def generations(
    checkpoints: Checkpoints,
    seed: Seed = 0,
    output: Output = Path("figure-5.png"),
    data_dir: DataDir = None,
    store: Store = Path("model_store"),
) -> None:
    """Test images beside samples of the checkpoints."""
    _compare(checkpoints, lambda model, real: sample(model, len(real), seed), seed, output, data_dir, store)


@app.command("6")
def reconstructions(
    checkpoints: Checkpoints,
    seed: Seed = 0,
    output: Output = Path("figure-6.png"),
    data_dir: DataDir = None,
    store: Store = Path("model_store"),
) -> None:
    """Test images beside their reconstructions by the checkpoints."""
    _compare(checkpoints, lambda model, real: reconstruct(model, real, seed), seed, output, data_dir, store)


@app.command("7")
def densities(
    checkpoints: Checkpoints,
    output: Output = Path("figure-7.png"),
    store: Store = Path("model_store"),
) -> None:
    """Histograms of the test images' log-likelihoods."""
    rows: dict[str, list[Card]] = {}
    for card in (read_card(find_checkpoint(checkpoint, store)) for checkpoint in checkpoints):
        if not card.quantiles():
            raise CheckpointError(f"{reference(card)} is not evaluated; run `python -m training evaluate`")
        rows.setdefault(dataset_name(card), []).append(card)
    draw_densities(list(rows.values()), output)
    print(output)


@app.command()
def novelty(
    checkpoint: Checkpoint,
    seed: Seed = 0,
    output: Output = Path("novelty.png"),
    data_dir: DataDir = None,
    store: Store = Path("model_store"),
) -> None:
    """A test image and images that should be new, with p-values, closest prototypes and heat maps."""
    folder = find_checkpoint(checkpoint, store)
    model, card = load_checkpoint(folder)
    calibration, dataset = read_calibration(folder, card), dataset_of(card, data_dir)
    if dataset.image_shape[0] > 1:
        raise CheckpointError(f"{reference(card)} is a model of color images; this figure shows gray ones")
    random, binary = np.random.default_rng(seed), model.likelihood.binary
    # every set is altered from other images
    test = choose(dataset.gray("test")[:, 0], 1 + len(SHOWN), random)
    altered = altered_sets(test, binary, random, margin=min(test.shape[1:]) // 4 - 1)
    directory = data_dir or data_directory()
    foreign = foreign_sets(dataset.name, test.shape[1:], binary, 1, directory, random)
    images = {"test image": test[0]}
    for index, name in enumerate(SHOWN, start=1):
        if name in foreign:
            images[name] = foreign[name][0]
        elif name in altered:
            images[name] = altered[name][index]
    draw_explanations(explain(model, calibration, images, seed), output)
    print(output)


def _compare(
    checkpoints: Sequence[str],
    make: Callable[[LatentModel, Tensor], Tensor],
    seed: int,
    output: Path,
    data_dir: Path | None,
    store: Path,
) -> None:
    """Draw test images of each data set beside the images that `make` computes with each model."""
    rows: dict[str, list[Panel]] = {}
    for checkpoint in checkpoints:
        model, card = load_checkpoint(find_checkpoint(checkpoint, store))
        dataset = dataset_of(card, data_dir)
        chosen = torch.randperm(len(dataset.test), generator=torch.Generator().manual_seed(seed))[: SIDE * SIDE]
        real = model.likelihood.from_bytes(torch.from_numpy(dataset.gray("test"))[chosen])
        row = rows.setdefault(card.dataset["sha256"]["test"], [Panel(f"{dataset.name}: test images", real, SIDE)])
        row.append(Panel(card.name, make(model, real), SIDE))
    draw_panels(list(rows.values()), output)
    print(output)
