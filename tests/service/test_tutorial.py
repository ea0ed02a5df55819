"""The tutorial's commands run as they are printed, and answer what is printed below them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs" / "odd-ones-out.md").read_text(encoding="utf-8")
MODEL = "digits-hvae-vampprior"


class Step(NamedTuple):
    command: str
    output: str


def steps() -> list[Step]:
    """Each command of the tutorial, which begins with a dollar and may have a quoted program, and its output."""
    blocks = re.findall(r"^```\n(\$ .*?)^```", TUTORIAL, re.DOTALL | re.MULTILINE)
    found = [step for block in blocks for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    return [Step(*re.fullmatch(r"((?:[^'\n]|'[^']*')*\n)(.*)", step, re.DOTALL).groups()) for step in found]


def rounded(text: str) -> str:
    """The text with its numbers rounded, since another processor may add in another order."""
    return re.sub(r"\b\d+\.\d+", lambda number: f"{float(number.group()):.1f}", text)


@pytest.fixture
def shell(serve: Any, tmp_path: Path) -> Iterator[Any]:
    """Runs a command in a folder with a store of the tutorial's model, which a service serves."""
    shutil.copytree(ROOT / "model_store" / MODEL, tmp_path / "model_store" / MODEL)
    with serve(model_store=tmp_path / "model_store", default_model=MODEL, admin_keys="secret") as service:

        def run(command: str) -> str:
            command = command.replace(".venv/bin/python", sys.executable).replace("http://localhost:8000", service.url)
            command = command.replace("localhost:8000", service.url)
            ended = subprocess.run(
                ["bash", "-c", command],
                cwd=tmp_path,
                env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
                capture_output=True,
                text=True,
            )
            assert ended.returncode == 0, ended.stderr
            return ended.stdout

        yield run


@pytest.mark.slow
def test_the_tutorial_answers_what_it_prints(shell: Any) -> None:
    commands = steps()
    assert len(commands) == 10
    for command, output in commands:
        assert rounded(shell(command)) == rounded(output)
