from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from vampprior.card import read_card
from vampprior.checkpoint import load_checkpoint

Command = Callable[..., Any]  # what the fixture `command` gives: arguments -> exit code, output, errors


def test_from_a_recipe_to_an_evaluated_checkpoint(command: Command, recipe_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store" / "tiny" / "1"
    trained = command("train", recipe_file)
    assert trained.code == 0
    epochs = [line.split()[1] for line in trained.out.splitlines() if line.startswith("epoch")]
    assert epochs == ["1/4", "2/4", "3/4", "4/4"]
    assert f"python -m training evaluate tiny@1 --store {tmp_path / 'store'}" in trained.out
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "curves.png", "model.safetensors"]
    evaluated = command("evaluate", "tiny", "--num-samples", 10, "--max-images", 20)
    assert evaluated.code == 0
    assert "scored 20/20 images" in evaluated.out
    model, card = load_checkpoint(folder)
    assert card.metrics["num_images"] == 20
    assert card.dataset["sizes"] == {"train": 1297, "valid": 250, "test": 250}
    assert card.training["recipe"]["model"]["hidden_dim"] == model.config.hidden_dim == 16
    listed = command("models")
    assert f"{card.metrics['log_likelihood']:.2f} ± " in listed.out
    again = command("evaluate", "tiny@1", "--num-samples", 10, "--max-images", 20)
    assert "20 done" in again.out
    assert read_card(folder).metrics["log_likelihood"] == card.metrics["log_likelihood"]
    anew = command("evaluate", "tiny@1", "--num-samples", 10, "--max-images", 20, "--no-resume")
    assert "0 done" in anew.out
    assert read_card(folder).metrics["log_likelihood"] == card.metrics["log_likelihood"]


def test_the_exported_weights_are_those_of_the_best_epoch(command: Command, recipe_file: Path, tmp_path: Path) -> None:
    command("train", recipe_file)
    weights = load_file(tmp_path / "store" / "tiny" / "1" / "model.safetensors")
    state = load_file(tmp_path / "runs" / "tiny" / "1" / "state.safetensors")
    assert weights
    assert all(tensor.equal(state[f"best.{name}"]) for name, tensor in weights.items())


def test_own_images_train_and_evaluate(command: Command, recipe_file: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", images=np.random.default_rng(0).integers(0, 256, (40, 6, 7), dtype=np.uint8))
    text = recipe_file.read_text().replace('"digits"', f'"{(tmp_path / "own.npz").as_posix()}"')
    recipe_file.write_text(text)
    assert command("train", recipe_file).code == 0
    assert command("evaluate", "tiny", "--num-samples", 2).code == 0
    card = read_card(tmp_path / "store" / "tiny" / "1")
    assert card.dataset["image_shape"] == [1, 6, 7]
    assert card.metrics["num_images"] == 4


def test_nothing_is_overwritten_unasked(command: Command, recipe_file: Path, tmp_path: Path) -> None:
    command("train", recipe_file)
    weights = tmp_path / "store" / "tiny" / "1" / "model.safetensors"
    before = weights.read_bytes()
    assert "there is a checkpoint in" in command("train", recipe_file).err
    assert "there is a run in" in command("train", recipe_file, "--overwrite").err
    assert "continue it with --resume" in command("train", recipe_file, "--overwrite").err
    assert command("train", recipe_file, "--version", "2", "--seed", 2).code == 0
    assert read_card(tmp_path / "store" / "tiny" / "2").training["seed"] == 2
    assert weights.read_bytes() == before
    shutil.rmtree(tmp_path / "runs" / "tiny" / "1")
    assert command("train", recipe_file, "--overwrite", "--seed", 3).code == 0
    assert weights.read_bytes() != before


def test_a_finished_run_is_exported_again_with_resume(command: Command, recipe_file: Path, tmp_path: Path) -> None:
    command("train", recipe_file)
    weights = tmp_path / "store" / "tiny" / "1" / "model.safetensors"
    before = weights.read_bytes()
    shutil.rmtree(tmp_path / "store")
    assert command("train", recipe_file, "--resume").code == 0
    assert weights.read_bytes() == before


def test_a_new_checkpoint_has_no_metrics_of_the_old_one(command: Command, recipe_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store" / "tiny" / "1"
    command("train", recipe_file)
    command("evaluate", "tiny", "--num-samples", 2, "--max-images", 5)
    assert (folder / "log_likelihoods.png").exists()
    command("train", recipe_file, "--resume", "--overwrite")
    assert read_card(folder).metrics == {}
    assert not (folder / "log_likelihoods.png").exists()


def one_line(answer: Any, code: int) -> str:
    """The only line on standard error of a command that failed as it should."""
    assert answer.code == code
    (line,) = answer.err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nope"], "no recipe 'nope'; give the path of a .toml file, or "),
        (["train", "missing.toml"], "missing.toml cannot be read: No such file or directory"),
        (["train", "RECIPE", "--version", "../1"], "the version '../1' must be lower-case letters"),
        (["train", "RECIPE", "--seed", "-1"], "training.seed must be between 0 and"),
        (["train", "RECIPE", "--resume"], "there is no run to resume in"),
        (["evaluate", "nope"], "no checkpoint 'nope' in"),
        (["models"], "there is no checkpoint in"),
        (["data", "nope"], "no data set 'nope'; there are static_mnist, digits"),
    ],
)
def test_a_mistake_is_answered_in_one_line(
    arguments: list[str], message: str, command: Command, recipe_file: Path
) -> None:
    answer = command(*(str(recipe_file) if word == "RECIPE" else word for word in arguments))
    assert message in one_line(answer, code=2)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_epochs", "epochs", "unknown key training.epochs"),
        ('"digits"', '"cifar"', "no data set 'cifar'"),
        ('"digits"', '"no/such/folder"', "no/such/folder is neither a folder of images nor an .npz file"),
        ("z1_dim = 4", 'model = "gan"', "unknown model 'gan'"),
        ("z1_dim = 4", 'likelihood = "poisson"', "unknown likelihood 'poisson'"),
    ],
)
def test_a_mistake_in_a_recipe_is_answered_in_one_line(
    old: str, new: str, message: str, command: Command, recipe_file: Path, tmp_path: Path
) -> None:
    recipe_file.write_text(recipe_file.read_text().replace(old, new))
    assert message in one_line(command("train", recipe_file), code=2)
    assert not (tmp_path / "runs").exists()


def test_a_bound_that_is_not_finite_ends_in_one_line(command: Command, recipe_file: Path, tmp_path: Path) -> None:
    recipe_file.write_text(recipe_file.read_text() + "learning_rate = 1e38\n")
    assert "not finite; try a smaller learning rate" in one_line(command("train", recipe_file), code=1)
    assert not (tmp_path / "store").exists()


def test_a_damaged_checkpoint_is_named_and_the_others_are_listed(
    command: Command, recipe_file: Path, tmp_path: Path
) -> None:
    command("train", recipe_file)
    shutil.copytree(tmp_path / "store" / "tiny" / "1", tmp_path / "store" / "tiny" / "2")
    (tmp_path / "store" / "tiny" / "2" / "card.json").write_text("{")
    listed = command("models")
    assert listed.code == 0
    assert "tiny@1" in listed.out
    assert "card.json is not JSON" in listed.out
    assert "card.json is not JSON" in one_line(command("evaluate", "tiny@2"), code=2)


def test_the_data_sets_are_listed_and_fetched(command: Command) -> None:
    lines = {line.split()[1]: line for line in command("data").out.splitlines() if line.startswith("│")}
    assert " no " in lines["static_mnist"]
    assert " yes " in lines["digits"]
    assert "digits, 1297 / 250 / 250 binary images of 1x8x8" in command("data", "digits").out
