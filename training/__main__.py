"""`python -m training`: train a recipe, evaluate a checkpoint, and see which data sets and checkpoints there are."""

# ruff: noqa: E402
from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NoReturn

REQUIRED = ("filelock", "matplotlib", "numpy", "rich", "safetensors", "torch", "typer")  # packages of every command

if missing := [name for name in REQUIRED if find_spec(name) is None]:
    print(f"error: not installed: {', '.join(missing)}; try: pip install {' '.join(missing)}", file=sys.stderr)
    raise SystemExit(2)

import typer
from rich.console import Console
from rich.table import Table
from safetensors import SafetensorError

from hardware import device_name
from training.catalogue import SHAPE, find_recipe
from training.checkpoints import find_checkpoint, list_checkpoints
from training.datasets import DATASETS, Dataset, DatasetError, data_directory, load_dataset, load_suited
from training.display import show_scoring, show_training
from training.evaluation import Evaluation, default_max_bytes
from training.machine import DeviceChoice, prepare
from training.options import DataDir, Device, RunsDir, Store, Threads
from training.recipe import RecipeError
from training.report.figures import app as figures
from training.report.paper import unit_of
from training.report.results import score
from training.report.table import table
from training.runs import Run
from training.scoring import Plan
from training.sweep.command import sweep
from training.trainer import Trainer
from vampprior.card import Card, CheckpointError, read_card
from vampprior.likelihoods import LIKELIHOODS

app = typer.Typer(
    name="python -m training", help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
console = Console(markup=False, width=None if sys.stdout.isatty() else 200)  # nothing is cut short in a file


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help=f"{SHAPE}, or the path of a .toml file.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run where it stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the checkpoint if there is one.")] = False,
    version: Annotated[str, typer.Option(help="Version of the checkpoint.")] = "1",
    seed: Annotated[int | None, typer.Option(help="Seed to use instead of the recipe's.")] = None,
    data_dir: DataDir = None,
    runs_dir: RunsDir = Path("runs"),
    store: Store = Path("model_store"),
    device: Device = DeviceChoice.AUTO,
    threads: Threads = 0,
) -> None:
    """Train a recipe and write its checkpoint. Ctrl-C stops it; --resume goes on, with the same result."""
    chosen = find_recipe(recipe)
    if seed is not None:
        chosen = replace(chosen, training=replace(chosen.training, seed=seed))
    run = Run(chosen, version, runs_dir, store)
    if not overwrite:
        run.keep_checkpoint()
    if not resume:
        run.keep_folder()
    with _interruptible(lambda: "go on with --resume" if run.folder.exists() else "nothing had begun"):
        machine = prepare(device, threads)
        dataset = load_suited(chosen.dataset, LIKELIHOODS[chosen.model.likelihood], data_dir)
        with run.alone():
            trainer = run.resume(dataset, machine) if resume else run.start(dataset, machine)
            if chosen.training.compile and not trainer.compiled:
                print("torch.compile does not work here, perhaps for want of a C++ compiler; training is slower")
            print(f"{run.folder}: {_sizes(dataset)} on {device_name(machine)}, {trainer.epoch} epochs done", flush=True)
            with show_training(console) as show:
                run.fit(trainer, show)
            card = run.export(trainer)
    _say_next(run, trainer, card)


@app.command()
def export(
    recipe: Annotated[str, typer.Argument(help="Recipe of the run.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the checkpoint if there is one.")] = False,
    version: Annotated[str, typer.Option(help="Version of the run and of its checkpoint.")] = "1",
    data_dir: DataDir = None,
    runs_dir: RunsDir = Path("runs"),
    store: Store = Path("model_store"),
) -> None:
    """Write the checkpoint of a run as it stands, with the best weights so far; the run can still go on."""
    chosen = find_recipe(recipe)
    run = Run(chosen, version, runs_dir, store)
    if not overwrite:
        run.keep_checkpoint()
    dataset = load_suited(chosen.dataset, LIKELIHOODS[chosen.model.likelihood], data_dir)
    trainer = run.resume(dataset, prepare(DeviceChoice.CPU))
    card = run.export(trainer)
    _say_next(run, trainer, card)


def _say_next(run: Run, trainer: Trainer, card: Card) -> None:
    bound, store = run.recipe.training.bound_name("valid"), run.store
    there = store == Path("model_store")
    print(f"{run.checkpoint}: best validation {bound} {trainer.best_elbo:.2f} nats at epoch {trainer.best_epoch}")
    print("next:")
    print(f"  python -m training evaluate {card.name}@{card.version}{'' if there else f' --store {store}'}")
    print(f"  {'' if there else f'VAMP_MODEL_STORE={store} '}make serve")


@app.command()
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint's folder, or its name or name@version in the store.")],
    num_samples: Annotated[int, typer.Option(min=2, help="Importance samples an image.")] = 5000,
    max_images: Annotated[int | None, typer.Option(min=2, help="Score so many test images, drawn at random.")] = None,
    max_bytes: Annotated[
        int | None,
        typer.Option(min=1, help="Memory of the largest tensor, instead of what suits the device."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the images drawn and of all noise.")] = 0,
    resume: Annotated[bool, typer.Option(help="Continue an equal evaluation that was interrupted.")] = True,
    data_dir: DataDir = None,
    runs_dir: RunsDir = Path("runs"),
    store: Store = Path("model_store"),
    device: Device = DeviceChoice.AUTO,
    threads: Threads = 0,
) -> None:
    """Score test images and write the metrics into the checkpoint's card. Ctrl-C stops it; the same command goes on."""
    folder = find_checkpoint(checkpoint, store)
    with _interruptible(lambda: "the same command goes on"):
        machine = prepare(device, threads)
        memory = max_bytes or default_max_bytes(machine)
        evaluation = Evaluation(folder, Plan(num_samples, max_images, memory, seed, machine.type), runs_dir, data_dir)
        scores, total = evaluation.scores, len(evaluation.chosen)
        if resume:
            scores.load()
        print(f"{folder}: {total} test images, {num_samples} samples each, {scores.done} done", flush=True)
        with show_scoring(console, total, scores.done) as show:
            evaluation.score(show)
        card = evaluation.write()
    for name, value in card.metrics.items():
        print(f"  {name:<30} {value:.3f}" if isinstance(value, float) else f"  {name:<30} {value}")


@app.command()
def data(
    name: Annotated[str | None, typer.Argument(help="Data set to fetch; without it, list them.")] = None,
    data_dir: DataDir = None,
) -> None:
    """List the data sets and whether each is there, or fetch one."""
    directory = data_dir or data_directory()
    if name is not None:
        with _interruptible(lambda: "files that were complete stay"):
            dataset = load_dataset(name, directory)
        print(f"{directory} has {_sizes(dataset)}")
        return
    table = Table("name", "there", "what it is", title=str(directory))
    for known, source in DATASETS.items():
        table.add_row(known, "yes" if source.is_there(directory) else "no", source.summary)
    console.print(table)


@app.command()
def models(store: Store = Path("model_store")) -> None:
    """List the checkpoints of a store with their metrics."""
    table = Table(
        "checkpoint", "data", "log-likelihood", "ELBO (nats)", "KL (nats)", "active units", "images", "epochs"
    )
    problems: list[str] = []
    for folder in list_checkpoints(store):
        reference = f"{folder.parent.name}@{folder.name}"
        try:
            table.add_row(reference, *_describe(read_card(folder)))
        except CheckpointError as error:
            problems.append(f"{reference}: {error}")
    if not table.rows and not problems:
        raise CheckpointError(f"there is no checkpoint in {store}; `python -m training train` makes one")
    console.print(table)
    for problem in problems:
        console.print(problem, style="red", soft_wrap=True)


app.command()(sweep)
app.command()(table)
app.add_typer(figures, name="figure")


def _describe(card: Card) -> list[str]:
    def number(key: str) -> str:
        value = card.metrics.get(key, "")
        return f"{value:.2f}" if isinstance(value, float) else str(value)

    unit = unit_of(card.model.likelihood)
    found = score(card, unit)
    scored = f"{unit.show(*found)} {unit.name}" if found else "not evaluated"
    units = ", ".join(f"{layer} {count}" for layer, count in dict(card.metrics.get("active_units", {})).items())
    epochs = f"{card.training.get('best_epoch', '?')} of {card.training.get('epochs', '?')}"
    return [
        str(card.dataset.get("name", "")),
        scored,
        number("elbo"),
        number("kl"),
        units,
        number("num_images"),
        epochs,
    ]


def _sizes(dataset: Dataset) -> str:
    sides = "x".join(str(side) for side in dataset.image_shape)
    numbers = " / ".join(str(len(images)) for images in (dataset.train, dataset.valid, dataset.test))
    return f"{dataset.name}, {numbers} {dataset.kind} images of {sides}"


@contextmanager
def _interruptible(hint: Callable[[], str]) -> Iterator[None]:
    """Answer Ctrl-C with one line, which says what to do next, and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"interrupted: {hint()}", file=sys.stderr)
        raise typer.Exit(130) from None


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; what a user can put right ends in one line on standard error, never in a traceback."""
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
