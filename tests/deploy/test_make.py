"""`make` on a machine that lacks something, and the command line of training without its packages."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# `make test` runs these tests: what it tells the `make` that it starts would change what that one prints.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def package(requirement: str) -> str:
    """The name in a requirement such as `redis[hiredis]>=5.2,<9`."""
    found = re.match(r"[\w-]+", requirement)
    assert found
    return found[0]


def make(folder: Path, target: str, code_first: str) -> subprocess.CompletedProcess[str]:
    """`make` of a target in an empty folder, with a Python that runs `code_first` before each program."""
    (folder / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    (folder / "pyproject.toml").touch()
    python = folder / "python"
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && exec "{sys.executable}" -c "{code_first}; $2"\necho "ran $*"; exit 1\n'
    )
    python.chmod(0o755)
    command = ["make", f"PYTHON={python}", target]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)


@pytest.mark.parametrize("target", ["serve", "train", "test", "check-all"])
def test_a_python_without_ensurepip_is_told_what_to_install(tmp_path: Path, target: str) -> None:
    ended = make(tmp_path, target, "import sys; sys.modules['ensurepip'] = None")
    said, failed = ended.stderr.splitlines()
    assert "apt-get install python3-venv" in said
    assert failed.startswith("make: ***")
    assert ended.stdout == ""


def test_an_old_python_is_told_so(tmp_path: Path) -> None:
    ended = make(tmp_path, "serve", "import sys; sys.version_info = (3, 10)")
    assert "Python 3.11 or newer" in ended.stderr.splitlines()[0]


def test_a_complete_python_creates_the_environment(tmp_path: Path) -> None:
    assert "ran -m venv --clear .venv" in make(tmp_path, "serve", "pass").stdout


@pytest.mark.parametrize("goal", [".venv/.run", ".venv/.test", ".venv/.dev", ".venv/.bench"])
def test_every_environment_serves_and_trains(goal: str) -> None:
    command = ["make", "--dry-run", "--always-make", goal]
    ended = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert re.search(r"install --editable '\.\[service,training[],]", ended.stdout)


def test_training_installs_every_data_set_that_a_recipe_names() -> None:
    """The recipes of `digits` need scikit-learn, the downloads pooch."""
    names = {package(requirement) for requirement in PROJECT["optional-dependencies"]["training"]}
    assert {"scikit-learn", "pooch", "scipy", "pillow"} <= names


def run_training(code_first: str) -> subprocess.CompletedProcess[str]:
    """`python -m training`, in a process that runs `code_first` before."""
    code = f"import sys\n{code_first}\nimport runpy\nrunpy.run_module('training', run_name='__main__', alter_sys=True)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def test_training_without_its_packages_says_what_to_install() -> None:
    ended = run_training("sys.modules.update(dict.fromkeys(('typer', 'rich', 'torch')))")
    assert ended.returncode == 2
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line == "error: not installed: rich, torch, typer; try: pip install rich torch typer"


def test_training_looks_for_every_package_that_it_imports() -> None:
    """Those that it imports at once, among those that pyproject.toml names; their names are those of their modules."""
    requirements = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["training"]
    names = {package(requirement) for requirement in requirements} - {"pillow"}  # imported as PIL, by matplotlib
    code = "import sys, training.__main__ as main; print(*set(sys.modules)); print(*main.REQUIRED)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    imported, looked_for = (set(line.split()) for line in ended.stdout.splitlines())
    assert names & imported == looked_for
