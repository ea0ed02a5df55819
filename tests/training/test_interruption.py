"""Real processes, stopped in the middle of a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import training
from training.data import Dataset, load_dataset
from training.recipe import find_recipe
from training.trainer import Trainer

ROOT = Path(training.__file__).parents[1]
PATIENCE_SECONDS = 300.0
EPOCHS = 40


@pytest.fixture
def own_digits(digits: Dataset, tmp_path: Path) -> Dataset:
    """The digits as a file, which a process reads sooner than it imports scikit-learn."""
    np.savez(tmp_path / "digits.npz", train=digits.train, valid=digits.valid, test=digits.test)
    return load_dataset(str(tmp_path / "digits.npz"))


@pytest.fixture
def long_recipe(recipe_file: Path, own_digits: Dataset) -> Path:
    text = recipe_file.read_text().replace("max_epochs = 4", f"max_epochs = {EPOCHS}")
    recipe_file.write_text(text.replace('"digits"', f'"{recipe_file.with_name("digits.npz").as_posix()}"'))
    return recipe_file


@contextmanager
def training_process(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """`python -m training train`, ended after a while whatever happens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "training", "train", *(str(word) for word in arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # pytest may run where Ctrl-C is ignored, which a child inherits
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    guard = threading.Timer(PATIENCE_SECONDS, process.kill)
    guard.start()
    try:
        yield process
    finally:
        guard.cancel()
        process.kill()
        process.communicate()


def wait_for_epoch(process: subprocess.Popen[str], epoch: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"epoch {epoch}/"):
            return
    raise AssertionError(f"ended before epoch {epoch}")


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_checkpoint(
    long_recipe: Path, own_digits: Dataset, tmp_path: Path, metrics_of: Callable[[Path], list[dict[str, float]]]
) -> None:
    arguments = [long_recipe, "--runs-dir", tmp_path / "runs", "--store", tmp_path / "store", "--threads", 1]
    with training_process(*arguments) as process:
        wait_for_epoch(process, 4)  # before which the state of epoch 3 was written
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "store").exists()

    with training_process(*arguments, "--resume") as process:
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert f"epoch {EPOCHS}/{EPOCHS}" in out
    assert "epoch 3/" not in out

    whole = Trainer(find_recipe(str(long_recipe)), own_digits, tmp_path / "whole", torch.device("cpu"))
    while not whole.finished:
        whole.run_epoch()
    whole.folder.wait()
    assert metrics_of(tmp_path / "runs" / "tiny" / "1") == metrics_of(tmp_path / "whole")
    weights = load_file(tmp_path / "store" / "tiny" / "1" / "model.safetensors")
    assert all(torch.equal(weights[name], tensor) for name, tensor in whole.best_model().state_dict().items())


def test_ctrl_c_says_how_to_go_on(long_recipe: Path, own_digits: Dataset, tmp_path: Path) -> None:
    arguments = [long_recipe, "--runs-dir", tmp_path / "runs", "--store", tmp_path / "store", "--threads", 1]
    with training_process(*arguments) as process:
        wait_for_epoch(process, 3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    assert err == "interrupted: continue with --resume\n"
    assert not (tmp_path / "store").exists()
    trainer = Trainer(find_recipe(str(long_recipe)), own_digits, tmp_path / "runs" / "tiny" / "1", torch.device("cpu"))
    trainer.resume()
    assert trainer.epoch >= 3


@pytest.mark.slow
def test_two_processes_do_not_train_in_one_folder(long_recipe: Path, own_digits: Dataset, tmp_path: Path) -> None:
    arguments = [long_recipe, "--runs-dir", tmp_path / "runs", "--store", tmp_path / "store", "--threads", 1]
    folder = tmp_path / "runs" / "tiny" / "1"
    with training_process(*arguments) as process:
        wait_for_epoch(process, 1)
        process.send_signal(signal.SIGSTOP)  # as one that was forgotten
        with training_process(*arguments, "--resume") as second:
            out, err = second.communicate()
        assert (second.returncode, out) == (2, "")
        assert f"another process is training in {folder}" in err.replace("\n", " ")
        process.kill()
    with training_process(*arguments, "--resume") as third:  # a lock does not outlive its process
        wait_for_epoch(third, 2)
