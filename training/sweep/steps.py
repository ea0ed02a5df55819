"""What it takes to bring a recipe to an evaluated checkpoint: commands for child processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from training.machine import DeviceChoice
from training.recipe import RecipeError
from training.report.results import reference
from training.runs import Run
from vampprior.card import Card

__all__ = ["EVALUATE", "TRAIN", "Options", "Step", "steps_left"]


@dataclass(frozen=True)
class Options:
    """What every recipe of a sweep is trained and evaluated with.

    threads: CPU threads of each child
    seed:    of the training, instead of the recipes'
    """

    version: str
    runs: Path
    store: Path
    data_dir: Path | None
    device: DeviceChoice
    threads: int
    num_samples: int
    max_images: int | None
    seed: int | None


@dataclass(frozen=True)
class Step:
    """A command of `python -m training` for a child process.

    doing: what the child does, in a word
    words: of the command, for a recipe as the user named it, and its run
    """

    name: str
    doing: str
    words: Callable[[str, Run, Options], list[str]]


def _train(recipe: str, run: Run, options: Options) -> list[str]:
    # --resume always: the log has made the run's folder, and where there is no state it starts at the first epoch
    flags = ["--resume", "--overwrite"] if run.checkpoint.exists() else ["--resume"]
    return ["train", recipe, *flags, *_words({"--version": options.version, "--seed": options.seed}, options)]


def _evaluate(_: str, run: Run, options: Options) -> list[str]:
    chosen: dict[str, object] = {"--num-samples": options.num_samples, "--max-images": options.max_images}
    return ["evaluate", f"{run.recipe.name}@{run.version}", *_words(chosen, options)]


def _words(values: dict[str, object], options: Options) -> list[str]:
    common: dict[str, object] = {
        "--data-dir": options.data_dir,
        "--runs-dir": options.runs,
        "--store": options.store,
        "--device": options.device,
        "--threads": options.threads,
    }
    return [f"{name}={value}" for name, value in (values | common).items() if value is not None]


TRAIN, EVALUATE = Step("train", "training", _train), Step("evaluate", "evaluating", _evaluate)


def steps_left(card: Card | None, *, resumable: bool) -> tuple[Step, ...]:
    """What is left to do for a checkpoint with that card, if there is one, and a run that can be resumed or not.

    Raises `RecipeError` if a checkpoint would have to be trained anew: nobody asked for it to be thrown away.
    """
    if card is None:
        return TRAIN, EVALUATE
    if card.training.get("finished"):
        return () if card.metrics else (EVALUATE,)
    if resumable:
        return TRAIN, EVALUATE
    raise RecipeError(
        f"{reference(card)} was stopped early, and there is no run to go on with; remove it, or give another --version"
    )
