"""The package loads what is asked for: cards and configurations need no torch."""

from __future__ import annotations

import doctest
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import vampprior

ROOT = Path(vampprior.__file__).parents[1]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "vampprior").rglob("*.py")
)


def run(program: str) -> str:
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_cards_and_configurations_are_read_without_torch() -> None:
    program = """
import sys
from pathlib import Path
import vampprior
from vampprior import Card, CheckpointError, ModelConfig
from vampprior.card import read_card, write_card
from vampprior.config import ModelConfig
from vampprior.files import atomic_write
card = read_card(Path("model_store/digits-vae-vampprior/1"))
print(card.name, card.percentile(0.0), "torch" in sys.modules)
"""
    assert run(program) == "digits-vae-vampprior 100.0 False"


def test_every_public_name_is_there_and_no_other() -> None:
    for name in vampprior.__all__:
        assert getattr(vampprior, name) is not None
    assert set(vampprior.__all__) <= set(dir(vampprior))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = vampprior.nothing
    for name in MODULES:
        module = import_module(name)
        assert all(hasattr(module, public) for public in getattr(module, "__all__", []))


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_docstrings_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    module = import_module(name)
    failed, _ = doctest.testmod(module, extraglobs={"torch": import_module("torch")})
    assert failed == 0


def test_most_modules_have_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    lacking = [
        name
        for name in MODULES
        if not any(test.examples for test in finder.find(import_module(name)))
        and getattr(import_module(name), "__all__", None)
    ]
    assert set(lacking) <= {"vampprior", "vampprior.networks.mlp", "vampprior.networks.conv"}
