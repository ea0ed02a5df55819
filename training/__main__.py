"""`python -m training`: train recipes, evaluate and calibrate checkpoints, list data sets and checkpoints."""

# ruff: noqa: E402
from __future__ import annotations

import sys
from contextlib import ExitStack
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NoReturn

REQUIRED = ("filelock", "matplotlib", "msgspec", "numpy", "rich", "safetensors", "torch", "typer")
"""Packages that every command needs."""

if missing := [name for name in REQUIRED if find_spec(name) is None]:
    print(f"error: not installed: {', '.join(missing)}; try: pip install {' '.join(missing)}", file=sys.stderr)
    raise SystemExit(2)

import typer
from safetensors import SafetensorError

from hardware import device_name
from training.calibrate import calibrate, calibrate_by_default
from training.calibration import validation_images
from training.callbacks import tensorboard
from training.checkpoints import dataset_of, find_checkpoint, list_checkpoints
from training.data import DATASETS, Dataset, DatasetError, data_directory, load_dataset
from training.evaluation import Evaluation, Plan
from training.init import init
from training.machine import default_max_bytes, select_device
from training.recipe import NAME_PATTERN, Recipe, RecipeError, find_recipe
from training.report.figures import app as figures
from training.report.paper import unit_of
from training.report.results import reference, score
from training.report.table import table
from training.runs import Run
from training.sweep import sweep
from training.terminal import (
    DataDir,
    Device,
    RunsDir,
    Store,
    Threads,
    console,
    interruptible,
    print_table,
    show_scoring,
    show_training,
)
from training.trainer import Trainer
from vampprior.calibration import DEFAULT_NAME
from vampprior.card import Card, CheckpointError, read_card
from vampprior.likelihoods import LIKELIHOODS

app = typer.Typer(
    name="python -m training", help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help=f"{NAME_PATTERN}, or the path of a .toml file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings to use instead of the recipe's: training.max_epochs=10."),
]


class Split(StrEnum):
    """Images that a checkpoint can be evaluated on."""

    TEST = "test"
    VALID = "valid"


Calibrate = Annotated[
    bool, typer.Option("--calibrate/--no-calibrate", help="At the end, calibrate the checkpoint; see calibrate.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the checkpoint if there is one.")]


@app.command()
def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue the run and replace its checkpoint. A larger training.max_epochs or training.patience "
            "extends a finished run: train digits-hvae-mog training.max_epochs=2000 --resume.",
        ),
    ] = False,
    overwrite: Overwrite = False,
    version: Annotated[str, typer.Option(help="Version of the checkpoint.")] = "1",
    seed: Annotated[int | None, typer.Option(help="Seed to use instead of the recipe's.")] = None,
    log_to_tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Log scalars, samples and pseudo-inputs into <run>/tensorboard.")
    ] = False,
    calibration: Calibrate = True,
    data_dir: DataDir = None,
    runs_dir: RunsDir = Path("runs"),
    store: Store = Path("model_store"),
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Train a recipe and write its checkpoint. Ctrl-C stops it; with --resume it continues to the same result."""
    changes = [*(overrides or ()), *([] if seed is None else [f"training.seed={seed}"])]
    run = Run(find_recipe(recipe, changes), version, runs_dir, store, overrides or ())
    if resume and not overwrite:
        run.check_own_checkpoint()
    elif not overwrite:
        run.check_new_checkpoint()
    if not resume:
        run.check_new_run()
    with interruptible(lambda: "continue with --resume" if run.folder.exists() else "nothing was saved"):
        machine = select_device(device, threads)
        dataset = _load(run.recipe, data_dir)
        with run.locked(), ExitStack() as stack:
            # fails without the package, so it comes before the folder of the run is created
            callbacks = [stack.enter_context(tensorboard(run.folder / "tensorboard"))] if log_to_tensorboard else []
            trainer = run.resume(dataset, machine) if resume else run.start(dataset, machine)
            if not overwrite:
                run.check_extended(trainer)
            if run.recipe.training.compile and not trainer.compiled:
                print("torch.compile does not work here, perhaps because there is no C++ compiler; training is slower")
            print(f"{run.folder}: {_sizes(dataset)} on {device_name(machine)}, {trainer.epoch} epochs done", flush=True)
            for notice in dataset.notices:
                print(f"note: {notice}", flush=True)
            callbacks.append(stack.enter_context(show_training(console())))
            run.fit(trainer, callbacks)
            card = run.export(trainer)
    if calibration:
        with interruptible(lambda: f"the checkpoint is complete; python -m training calibrate {run.checkpoint}"):
            calibrate_by_default(run.checkpoint, validation_images(dataset), machine)
    _print_next_steps(run, trainer, card)


@app.command()
def export(
    recipe: RecipeName,
    overrides: Overrides = None,
    overwrite: Overwrite = False,
    version: Annotated[str, typer.Option(help="Version of the run and of its checkpoint.")] = "1",
    data_dir: DataDir = None,
    runs_dir: RunsDir = Path("runs"),
    store: Store = Path("model_store"),
) -> None:
    """Write a checkpoint with the best weights of an unfinished run, which can still be resumed."""
    run = Run(find_recipe(recipe, overrides or ()), version, runs_dir, store, overrides or ())
    if not overwrite:
        run.check_new_checkpoint()
    dataset = _load(run.recipe, data_dir)
    trainer = run.load(dataset, select_device("cpu"))
    card = run.export(trainer)
    _print_next_steps(run, trainer, card)


def _load(recipe: Recipe, data_dir: Path | None) -> Dataset:
    """The data set of a recipe, as its model takes it."""
    return load_dataset(recipe.dataset, data_dir, LIKELIHOODS[recipe.model.likelihood], recipe.images.wanted)


def _print_next_steps(run: Run, trainer: Trainer, card: Card) -> None:
    if card.pseudo_input_view == "decoded":
        print(
            "note: the pseudo-inputs look like noise, so GET /pseudo-inputs shows them decoded; to get pseudo-inputs "
            'that resemble images, train with start = "kmeans" in [pseudo_inputs], and with fewer of them'
        )
    bound, store = run.recipe.training.bound_name("valid"), run.store
    is_default = store == Path("model_store")
    print(f"{run.checkpoint}: best validation {bound} {trainer.best_elbo:.2f} nats at epoch {trainer.best_epoch}")
    print("next:")
    print(f"  python -m training evaluate {reference(card)}{'' if is_default else f' --store {store}'}")
    print(f"  {'' if is_default else f'VAMP_MODEL_STORE={store} '}VAMP_DEFAULT_MODEL={card.name} make serve")


@app.command()
def evaluate(
    checkpoint: Annotated[
        str, typer.Argument(help="Folder of a checkpoint, or its name or name@version in the store.")
    ],
    split: Annotated[Split, typer.Option(help="Images to score; metrics of validation images are only printed.")] = (
        Split.TEST
    ),
    num_samples: Annotated[int, typer.Option(min=2, help="Importance samples per image.")] = 5000,
    refine: Annotated[
        int,
        typer.Option(
            min=0, max=1000, help="Steps that fit the proposal to each image first; written apart in the card."
        ),
    ] = 0,
    max_images: Annotated[int | None, typer.Option(min=2, help="Score this many random images instead of all.")] = None,
    max_bytes: Annotated[
        int | None, typer.Option(min=1, help="Memory of the largest tensor, instead of the device's default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the choice of images and of all noise.")] = 0,
    resume: Annotated[bool, typer.Option(help="Continue an equal evaluation that was interrupted.")] = True,
    force: Annotated[
        bool, typer.Option("--force", help="Replace metrics of more images or samples in the card.")
    ] = False,
    calibration: Calibrate = True,
    data_dir: DataDir = None,
    runs_dir: RunsDir = Path("runs"),
    store: Store = Path("model_store"),
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Score images and write the metrics into the card. Ctrl-C stops it; the same command continues.

    Metrics in the card that are of more images or samples are kept, and the
    new ones are only printed, unless --force is given. A checkpoint without a
    calibration is then calibrated.
    """
    folder = find_checkpoint(checkpoint, store)
    with interruptible(lambda: "the same command continues"):
        machine = select_device(device, threads)
        plan = Plan(num_samples, max_images, max_bytes or default_max_bytes(machine), seed, split.value, refine)
        evaluation = Evaluation(folder, plan, runs_dir, machine, data_dir)
        scores, total = evaluation.scores, len(evaluation.indices)
        if resume:
            scores.load()
        print(f"{folder}: {total} {split} images, {num_samples} samples each, {scores.done} done", flush=True)
        with show_scoring(console(), total, scores.done) as show:
            evaluation.score(show)
        metrics = evaluation.metrics()
    for name, value in metrics.items():
        print(f"  {name:<30} {value:.3f}" if isinstance(value, float) else f"  {name:<30} {value}")
    reason = evaluation.reason_not_to_write()
    if reason and not (force and split is Split.TEST):
        print(f"not written: {reason}")
    else:
        evaluation.write(metrics)
    if calibration and split is Split.TEST and DEFAULT_NAME not in evaluation.card.calibrations:
        with interruptible(lambda: "not calibrated, but the metrics are complete"):
            dataset = dataset_of(evaluation.card, data_dir, "valid")
            calibrate_by_default(folder, validation_images(dataset), machine)


@app.command()
def data(
    name: Annotated[str | None, typer.Argument(help="Data set to download; without it, list all.")] = None,
    data_dir: DataDir = None,
) -> None:
    """List the data sets and which are available, or download one."""
    directory = data_dir or data_directory()
    if name is not None:
        with interruptible(lambda: "complete files are kept"):
            dataset = load_dataset(name, directory)
        print(f"{directory} has {_sizes(dataset)}")
        return
    rows = [
        (known, "yes" if source.is_available(directory) else "no", source.summary) for known, source in DATASETS.items()
    ]
    print_table(console(), ("name", "available", "description"), rows, title=str(directory))


@app.command()
def models(store: Store = Path("model_store")) -> None:
    """List the checkpoints of a store with their metrics."""
    header = ("checkpoint", "log-likelihood", "ELBO (nats)", "KL (nats)", "active units", "images", "epochs", "data")
    rows: list[tuple[str, ...]] = []
    problems: list[str] = []
    for folder in list_checkpoints(store):
        try:
            rows.append(_describe(read_card(folder)))
        except CheckpointError as error:
            problems.append(f"{folder.parent.name}@{folder.name}: {error}")
    if not rows and not problems:
        raise CheckpointError(f"there is no checkpoint in {store}; `python -m training train` makes one")
    terminal = console()
    print_table(terminal, header, rows)
    for problem in problems:
        terminal.print(problem, style="red", soft_wrap=True)


app.command()(init)
app.command()(calibrate)
app.command()(sweep)
app.command()(table)
app.add_typer(figures, name="figure")


def _describe(card: Card) -> tuple[str, ...]:
    def number(key: str) -> str:
        value = card.metrics.get(key, "")
        return f"{value:.2f}" if isinstance(value, float) else str(value)

    unit = unit_of(card.model.likelihood)
    found = score(card, unit)
    return (
        reference(card),
        f"{unit.show(*found)} {unit.name}" if found else "not evaluated",
        number("elbo"),
        number("kl"),
        ", ".join(f"{layer} {count}" for layer, count in dict(card.metrics.get("active_units", {})).items()),
        number("num_images"),
        f"{card.training.get('best_epoch', '?')} of {card.training.get('epochs', '?')}",
        str(card.dataset.get("name", "")),
    )


def _sizes(dataset: Dataset) -> str:
    sides = "x".join(str(side) for side in dataset.image_shape)
    numbers = " / ".join(str(len(images)) for images in (dataset.train, dataset.valid, dataset.test))
    return f"{dataset.name}, {numbers} {dataset.kind} images of {sides}"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; an error that a user can correct ends in one line on standard error."""
    try:
        app(arguments)
    except (RecipeError, DatasetError, CheckpointError, OSError, SafetensorError) as error:  # the last: a full disk
        _fail(error, code=2)
    except FloatingPointError as error:
        _fail(error, code=1)


def _fail(error: Exception, code: int) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
