from __future__ import annotations

import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click import Context, Group
from rich.console import Console
from safetensors.torch import load_file
from typer.main import get_command

from training.__main__ import app
from training.data import Dataset
from training.recipe import Recipe, find_recipe
from training.runs import Run
from vampprior.calibration import read_calibrations
from vampprior.card import read_card
from vampprior.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[2]
Command = Callable[..., Any]  # what the fixture `command` gives: arguments -> exit code, output, errors


def test_from_a_recipe_to_an_evaluated_checkpoint(command: Command, recipe_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store" / "tiny" / "1"
    trained = command("train", recipe_file)
    assert trained.code == 0
    epochs = [line.split()[1] for line in trained.out.splitlines() if line.startswith("epoch")]
    assert epochs == ["1/4", "2/4", "3/4", "4/4"]
    assert f"python -m training evaluate tiny@1 --store {tmp_path / 'store'}" in trained.out
    files = ["calibration.safetensors", "card.json", "curves.png", "model.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == files
    assert list(read_calibrations(folder, read_card(folder))) == ["default"]
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
        (["train", "RECIPE", "--seed", "-1"], "training.seed: expected `int` >= 0"),
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
        ('"digits"', '"no/such/folder"', "no/such/folder is neither a folder of images nor an .npz or .npy file"),
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


def test_overrides_and_the_seed_are_on_the_card(command: Command, recipe_file: Path, tmp_path: Path) -> None:
    answer = command("train", recipe_file, "training.max_epochs=2", "model.hidden_dim=8", "name=short", "--seed", 5)
    assert (answer.code, answer.err) == (0, "")
    card = read_card(tmp_path / "store" / "short" / "1")
    assert card.training["overrides"] == ["training.max_epochs=2", "model.hidden_dim=8", "name=short"]
    assert (card.training["epochs"], card.training["seed"], card.model.hidden_dim) == (2, 5, 8)
    assert card.training["recipe"]["training"]["max_epochs"] == 2
    message = one_line(command("train", recipe_file, "training.epochs=2", "--version", 2), code=2)
    assert "unknown key training.epochs" in message


def epochs_of(answer: Any) -> list[str]:
    """The epochs that a command trained, such as `5/6`."""
    return [line.split()[1] for line in answer.out.splitlines() if line.startswith("epoch")]


def test_a_finished_run_is_extended_with_resume(command: Command, recipe_file: Path, tmp_path: Path) -> None:
    command("train", recipe_file)
    answer = command("train", recipe_file, "training.max_epochs=6", "training.patience=60", "--resume")
    assert (answer.code, answer.err) == (0, "")
    assert epochs_of(answer) == ["5/6", "6/6"]
    assert read_card(tmp_path / "store" / "tiny" / "1").training["epochs"] == 6
    shorter = command("train", recipe_file, "--resume")
    assert "was started with another recipe: training.max_epochs was 6 and is now 4" in one_line(shorter, code=2)


def test_a_finished_run_without_more_epochs_keeps_its_evaluated_checkpoint(
    command: Command, recipe_file: Path, tmp_path: Path
) -> None:
    command("train", recipe_file)
    command("evaluate", "tiny", "--num-samples", 2, "--max-images", 5)
    again = one_line(command("train", recipe_file), code=2)
    assert "extend its run with --resume and a larger training.max_epochs or training.patience" in again
    resumed = one_line(command("train", recipe_file, "--resume"), code=2)
    assert "is finished after 4 epochs, and its checkpoint is written; extend it with a larger" in resumed
    assert read_card(tmp_path / "store" / "tiny" / "1").metrics["num_images"] == 5


def test_an_annealed_run_is_not_said_to_be_extendable(command: Command, recipe_file: Path) -> None:
    command("train", recipe_file, "training.annealing=true")
    resumed = one_line(command("train", recipe_file, "training.annealing=true", "--resume"), code=2)
    assert resumed.endswith("with annealing it cannot be extended")


def test_resume_replaces_the_checkpoint_that_its_run_exported(
    command: Command, recipe_file: Path, recipe: Recipe, digits: Dataset, tmp_path: Path
) -> None:
    run = Run(recipe, "1", tmp_path / "runs", tmp_path / "store")
    trainer = run.start(digits, torch.device("cpu"))
    trainer.run_epoch()
    trainer.folder.wait()
    run.export(trainer)
    answer = command("train", recipe_file, "--resume")
    assert (answer.code, answer.err) == (0, "")
    assert epochs_of(answer) == ["2/4", "3/4", "4/4"]
    assert read_card(run.checkpoint).training["epochs"] == 4


def test_resume_keeps_the_checkpoint_of_another_run(command: Command, recipe_file: Path, tmp_path: Path) -> None:
    command("train", recipe_file, "--seed", 2)
    weights = tmp_path / "store" / "tiny" / "1" / "model.safetensors"
    before = weights.read_bytes()
    (tmp_path / "store").rename(tmp_path / "other")
    shutil.rmtree(tmp_path / "runs")
    command("train", recipe_file)
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "other").rename(tmp_path / "store")
    longer = ("train", recipe_file, "training.max_epochs=5", "--resume")
    assert "is not from the run in" in one_line(command(*longer), code=2)
    run = tmp_path / "runs" / "tiny" / "1"
    run.rename(tmp_path / "finished")
    run.mkdir()  # as a run that was stopped in its first epoch
    assert "is not from the run in" in one_line(command(*longer), code=2)
    run.rmdir()
    (tmp_path / "finished").rename(run)
    assert weights.read_bytes() == before
    assert command(*longer, "--overwrite").code == 0
    assert weights.read_bytes() != before


def test_export_changes_nothing_in_a_run_that_another_process_trains(
    command: Command, recipe_file: Path, recipe: Recipe, digits: Dataset, tmp_path: Path
) -> None:
    run = Run(recipe, "1", tmp_path / "runs", tmp_path / "store")
    trainer = run.start(digits, torch.device("cpu"))
    for _ in range(2):
        trainer.run_epoch()
    trainer.folder.wait()
    metrics = run.folder / "metrics.jsonl"
    with open(metrics, "a") as file:  # the trainer has written the metrics of epoch 3 but not yet its state
        file.write(metrics.read_text().splitlines()[-1].replace('"epoch": 2', '"epoch": 3') + '\n{"epoch": 4, "kl_w')
    before = metrics.read_bytes()
    with run.locked():
        answer = command("export", recipe_file)
    assert (answer.code, answer.err) == (0, "")
    assert read_card(run.checkpoint).training["epochs"] == 2
    assert metrics.read_bytes() == before


def test_a_missing_tensorboard_leaves_no_run_behind(
    command: Command, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch.utils.tensorboard", None)
        message = one_line(command("train", recipe_file, "--tensorboard"), code=2)
    assert message.endswith("pip install '.[tensorboard]'")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert any(package.startswith("tensorboard") for package in extras["tensorboard"])
    assert command("train", recipe_file).code == 0


def test_a_recipe_that_does_not_fit_leaves_no_run_behind(command: Command, recipe_file: Path, tmp_path: Path) -> None:
    answer = command("train", recipe_file, "model.likelihood=logistic", "--tensorboard")
    assert "logistic takes gray images" in one_line(answer, code=2)
    assert not (tmp_path / "runs" / "tiny" / "1").exists()


def test_tensorboard_logs_into_the_run(command: Command, recipe_file: Path, tmp_path: Path) -> None:
    assert command("train", recipe_file, "--tensorboard").code == 0
    (events,) = (tmp_path / "runs" / "tiny" / "1" / "tensorboard").iterdir()
    assert events.stat().st_size > 1000


def test_metrics_of_more_images_are_replaced_only_by_force(command: Command, recipe_file: Path, tmp_path: Path) -> None:
    card = tmp_path / "store" / "tiny" / "1"
    command("train", recipe_file)
    command("evaluate", "tiny", "--num-samples", 4, "--max-images", 20)
    before = (card / "card.json").read_bytes()
    fewer = command("evaluate", "tiny", "--num-samples", 4, "--max-images", 5)
    assert fewer.code == 0
    assert "num_images                     5" in fewer.out
    assert "not written: the card has metrics of 20 images with 4 samples; --force replaces them" in fewer.out
    assert (card / "card.json").read_bytes() == before
    valid = command("evaluate", "tiny", "--num-samples", 9, "--max-images", 30, "--split", "valid", "--force")
    assert "30 valid images, 9 samples each" in valid.out
    assert "not written: the card is for metrics of test images" in valid.out
    assert (card / "card.json").read_bytes() == before
    forced = command("evaluate", "tiny", "--num-samples", 4, "--max-images", 5, "--force")
    assert "not written" not in forced.out
    assert read_card(card).metrics["num_images"] == 5


def test_a_narrow_terminal_cuts_no_number_of_a_checkpoint(
    command: Command, put_card: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "caltech101_silhouettes-pixel_hvae-weighted_vampprior"
    put_card(name, "caltech101_silhouettes", -108.91, metrics={"elbo": -120.25, "kl": 30.5})
    for width in (80, 60):
        narrow = partial(Console, width=width, markup=False, highlight=False)
        monkeypatch.setattr("training.__main__.console", narrow)
        shown = command("models").out
        assert "…" not in shown
        assert max(map(len, shown.splitlines())) <= width
        for number in ("-108.91", "0.25", "-120.25"):
            assert number in shown
        assert "".join(line[1:].split("│")[0].strip() for line in shown.splitlines() if line[0] == "│") == f"{name}@1"


def test_a_table_in_a_pipe_has_whole_cells(
    command: Command, put_card: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    name = "caltech101_silhouettes-pixel_hvae-weighted_vampprior"
    put_card(name, "caltech101_silhouettes", -108.91, metrics={"elbo": -120.25, "kl": 30.5})
    rows = [re.split(" *│ *", line) for line in command("models").out.splitlines() if line.startswith("│")]
    active = "z2 26, z1 39"
    cells = [
        f"{name}@1",
        "-108.91 ± 0.25 nats",
        "-120.25",
        "30.50",
        active,
        "10000",
        "250 of 300",
        "caltech101_silhouettes",
    ]
    assert rows == [["", *cells, ""]]
    for options in ((), ("--output", tmp_path / "tables.txt")):
        shown = command("table", *options).out or (tmp_path / "tables.txt").read_text(encoding="utf-8")
        assert "│ Caltech 101 Silhouettes │ PixelHVAE (L = 2) + standard" in shown
        assert f" {name}@1 " in shown
        assert "…" not in shown
        assert "do not fit" not in shown


DOCUMENT = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^(?:\.venv/bin/)?python -m training (.*?)(?:  +#.*)?$", DOCUMENT, re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_of_the_readme_exist_with_their_options(line: str) -> None:
    context, words = Context(get_command(app), info_name="training"), shlex.split(line)
    found = context.command
    while isinstance(found, Group):
        name = words.pop(0)
        found = found.get_command(context, name)
        assert found, f"there is no command {name}"
        context = Context(found, parent=context, info_name=name)
    found.make_context(found.name, words)
    if found.name == "train" and not words[0].endswith(".toml"):
        find_recipe(words[0], [word for word in words[1:] if "=" in word])


def test_the_example_of_an_extended_run_works(command: Command, tmp_path: Path) -> None:
    first, second = (shlex.split(line) for line in COMMANDS if "name=short" in line)
    for words, epochs in ((first, 10), (second, 20)):
        answer = command(*words)
        assert (answer.code, answer.err) == (0, "")
        assert len(epochs_of(answer)) == 10
        assert read_card(tmp_path / "store" / "short" / "1").training["epochs"] == epochs


def test_the_readme_shows_every_command() -> None:
    assert {line.split()[0] for line in COMMANDS} >= {"data", "evaluate", "figure", "models", "sweep", "table", "train"}
