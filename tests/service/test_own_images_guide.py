"""The commands of docs/your-own-images.md, on a small folder of JPEGs, up to decisions about new images."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "your-own-images.md").read_text(encoding="utf-8")
QUICK = ["training.max_epochs=1", "training.warmup_epochs=0", "model.width=8"]


def photo(index: int, size: tuple[int, int]) -> Image.Image:
    """Smooth colours, others for each index."""
    colours = np.random.default_rng(index).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the name that the guide has, of 110 JPEGs of three sizes."""
    path = tmp_path / "tissue"
    path.mkdir()
    for index in range(110):
        photo(index, [(20, 24), (30, 20), (16, 16)][index % 3]).save(path / f"{index}.jpg")
    return path


@pytest.mark.slow
def test_the_commands_of_the_guide_lead_to_decisions(folder: Path, serve: Any, tmp_path: Path) -> None:
    commands = [shlex.split(line, comments=True)[1:] for line in re.findall(r"^\$ (\.venv\S+ -m .*)$", GUIDE, re.M)]
    assert [command[2] for command in commands] == ["init", "train"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for command, extra in zip(commands, ([], QUICK), strict=True):
        ended = subprocess.run(
            [sys.executable, *command, *extra, "--threads", "1"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, ended.stderr
    assert re.search(r"^\$ VAMP_DEFAULT_MODEL=tissue make serve$", GUIDE, re.M)
    photo(1000, (300, 200)).save(tmp_path / "new.jpg")
    with serve(model_store=tmp_path / "model_store", default_model="tissue") as service:
        answer = service.client.post("/novelty", files={"file": (tmp_path / "new.jpg").read_bytes()})
        assert answer.status_code == 200, answer.text
        gallery = service.client.get("/pseudo-inputs?format=json").json()
    assert answer.json()["num_calibration"] == 20
    assert 1 / 21 <= answer.json()["results"][0]["p_value"] <= 1
    assert np.shape(gallery["pseudo_inputs"][0]["image"]) == (3, 16, 16)
