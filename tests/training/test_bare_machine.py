"""A machine without the packages that only downloads, scikit-learn's digits and the service need."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import training
from training.data.dataset import Dataset
from vampprior.card import read_card

ROOT = Path(training.__file__).parents[1]
MISSING = ("fastapi", "platformdirs", "pooch", "sklearn")  # matplotlib brings Pillow, a late typer pydantic
COMMANDS = f"""
import sys
sys.modules.update(dict.fromkeys({MISSING}))
from training.__main__ import main
for command in map(str.split, sys.stdin):
    try:
        main(command)
    except SystemExit as end:
        print("exit code", end.code or 0)
"""

Bare = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def bare(tmp_path: Path) -> Bare:
    """Runs commands of `python -m training` in one process of such a machine."""

    def run(*commands: str, **environment: str) -> subprocess.CompletedProcess[str]:
        known = {name: value for name, value in os.environ.items() if name != "VAMP_DATA_DIR"}
        return subprocess.run(
            [sys.executable, "-c", COMMANDS],
            input="\n".join(commands),
            cwd=tmp_path,
            env=known | {"PYTHONPATH": str(ROOT)} | environment,
            capture_output=True,
            text=True,
        )

    return run


def test_what_is_at_hand_trains_and_is_evaluated(bare: Bare, recipe_file: Path, digits: Dataset) -> None:
    folder = recipe_file.parent
    np.savez(folder / "digits.npz", train=digits.train, valid=digits.valid, test=digits.test)
    recipe_file.write_text(recipe_file.read_text().replace('"digits"', '"./digits.npz"'))
    ended = bare(
        "data",
        "train tiny.toml --threads 1 --store store",
        "evaluate tiny --num-samples 2 --max-images 5 --store store",
        "models --store store",
        "table --store store",
        VAMP_DATA_DIR="data",
    )
    assert (ended.stdout.count("exit code 0"), ended.stderr) == (5, "")
    assert read_card(folder / "store" / "tiny" / "1").metrics["num_images"] == 5


def test_what_is_missing_is_named_in_one_line(bare: Bare) -> None:
    ended = bare("data", "data static_mnist --data-dir data", "data digits --data-dir data")
    where, fetch, digits = ended.stderr.splitlines()
    assert "--data-dir or VAMP_DATA_DIR" in where
    assert "pip install pooch, or put the files by hand into" in fetch
    assert "pip install scikit-learn" in digits
    assert ended.stdout.count("exit code 2") == 3
