"""The examples of the guide to extending the library work on the command line from the files that it names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from vampprior.card import read_card

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
PLACES = dict(re.findall(r"^\| (prior|network|likelihood|data set) \| `([^`]+)`", GUIDE, re.MULTILINE))
RECIPE = """
name = "extended"
dataset = "gray.npz"

[model]
model = "linear_hvae"
prior = "trained_normal"
likelihood = "gaussian"
z1_dim = 4
z2_dim = 4
hidden_dim = 16

[training]
warmup_epochs = 1
max_epochs = 1
"""


def example(title: str) -> str:
    """The Python under a heading of the guide."""
    found = re.search(rf"^## {title}\n.*?```python\n(.*?)```", GUIDE, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def test_the_command_line_finds_what_the_named_files_define(tmp_path: Path) -> None:
    for package in ("vampprior", "training"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "hardware.py", tmp_path)
    for part in ("prior", "network", "likelihood", "data set"):
        with open(tmp_path / PLACES[part], "a", encoding="utf-8") as file:
            file.write("\n\n" + example(f"A {part}"))
    sources = tmp_path / "training" / "data" / "__init__.py"
    text = re.sub(r"(SOURCES: .*?)\n\)", r"\1\n    SHAPES,\n)", sources.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = text.replace(
        "from training.data.static", "from training.data.shapes import SHAPES\nfrom training.data.static"
    )
    sources.write_text(text, encoding="utf-8")
    (tmp_path / "extended.toml").write_text(RECIPE, encoding="utf-8")
    images = np.random.default_rng(0).integers(0, 256, (40, 6, 7), dtype=np.uint8)
    np.savez(tmp_path / "gray.npz", images=images)

    def python(*words: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        ended = subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    python("-m", "training", "train", "extended.toml", "--threads=1")
    python("-m", "training", "evaluate", "extended", "--num-samples=2", "--threads=1")
    assert read_card(tmp_path / "model_store" / "extended" / "1").metrics["num_images"] == 4
    assert "│ shapes " in python("-m", "training", "data", "--data-dir=data")
    (name,) = re.findall(r"`(shapes-linear\S+) model.likelihood=gaussian`", GUIDE)
    python("-c", f"from training.recipe import find_recipe; find_recipe({name!r}, ['model.likelihood=gaussian'])")
