from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training.datasets import Dataset
from training.machine import DeviceChoice
from training.recipe import Recipe
from training.runs import Run
from training.sweep.jobs import Job, State
from training.sweep.steps import TRAIN, Options
from vampprior.card import Card, read_card, write_card


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(
        version="1",
        runs=tmp_path / "runs",
        store=tmp_path / "store",
        data_dir=tmp_path / "data",
        device=DeviceChoice.CPU,
        threads=1,
        num_samples=10,
        max_images=20,
        seed=None,
    )


def test_an_evaluated_checkpoint_is_skipped_with_its_score(
    options: Options, put_card: Callable[..., Card], recipe_file: Path
) -> None:
    put_card("tiny", log_likelihood=-85.0)
    job = Job(str(recipe_file), options)
    assert (job.state, job.note) == (State.SKIPPED, "-85.00 ± 0.25 nats")


def test_a_skipped_checkpoint_of_another_recipe_is_told_apart(
    options: Options, checkpoint: Path, recipe_file: Path
) -> None:
    write_card(checkpoint, replace(read_card(checkpoint), metrics={"log_likelihood": -85.0}))
    assert "another recipe" not in Job(str(recipe_file), options).note
    other = Job(str(recipe_file), replace(options, seed=7))
    assert other.state is State.SKIPPED
    assert other.note.endswith("with another recipe: training.seed was 1 and now is 7")
    assert Job(str(recipe_file), replace(options, seed=7, version="2")).state is State.WAITING


def test_a_card_whose_recipe_is_none_says_so(
    options: Options, put_card: Callable[..., Card], recipe_file: Path
) -> None:
    put_card("tiny", training={"recipe": {"name": "tiny"}})
    assert Job(str(recipe_file), options).note == "-85.00 ± 0.25 nats, with another recipe: a recipe needs a dataset"


def test_a_damaged_card_fails_its_recipe(options: Options, checkpoint: Path, recipe_file: Path) -> None:
    (checkpoint / "card.json").write_text("{")
    job = Job(str(recipe_file), options)
    assert job.state is State.FAILED
    assert "card.json is not JSON" in job.note


def test_a_stopped_run_goes_on_and_replaces_what_it_exported(
    options: Options, recipe: Recipe, recipe_file: Path, digits: Dataset
) -> None:
    run = Run(recipe, "1", options.runs, options.store)
    trainer = run.start(digits, torch.device("cpu"))
    trainer.run_epoch()
    assert "--overwrite" not in TRAIN.words(str(recipe_file), run, options)
    run.export(trainer)
    assert {"--resume", "--overwrite"} <= set(TRAIN.words(str(recipe_file), run, options))
    job = Job(str(recipe_file), options)
    assert (job.state, job.note) == (State.WAITING, "to train and evaluate")
    assert job.progress is not None
    assert (job.progress.epoch, job.progress.epochs_left) == (1, 3)


def test_only_a_data_set_of_ours_can_be_lacking(options: Options, recipe_file: Path) -> None:
    job = Job("static_mnist-hvae-standard", options)
    assert job.lacks_data
    assert options.data_dir is not None
    options.data_dir.mkdir()
    (options.data_dir / "static_mnist.npz").touch()
    assert not job.lacks_data
    recipe_file.write_text(recipe_file.read_text().replace('"digits"', '"no/such/folder"'))
    assert not Job(str(recipe_file), options).lacks_data
