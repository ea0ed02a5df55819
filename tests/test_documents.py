"""The Python of the README and of the guides runs as it is printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vampprior import LIKELIHOODS, MODELS, PRIORS

ROOT = Path(__file__).parent.parent


def python_of(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)


def test_the_readmes_example_of_the_library_runs() -> None:
    program = python_of("README.md")[1]
    assert len(program.strip().splitlines()) <= 12
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("static_mnist-hvae-vampprior ")
    assert re.search(r"tensor\(\[-\d+\.\d+.*\) \['(good|low)'", ended.stdout)


def test_the_example_of_novelty_runs() -> None:
    (program,) = python_of("docs/novelty.md")
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("True 0.004\nThis image is new to the model: ")


@pytest.fixture
def registered() -> object:
    """Takes out what the guide registers."""
    before = [dict(registry) for registry in (MODELS, PRIORS, LIKELIHOODS)]
    yield
    for registry, entries in zip((MODELS, PRIORS, LIKELIHOODS), before, strict=True):
        registry.clear()
        registry.update(entries)


def test_what_the_guide_adds_is_a_model_like_the_others(registered: object) -> None:
    names: dict[str, object] = {"__name__": "guide"}
    torch.manual_seed(0)
    for program in python_of("docs/extending.md"):
        exec(compile(program, "docs/extending.md", "exec"), names)
    model, scores, images = names["model"], names["scores"], names["images"]
    assert images.shape == (16, 1, 8, 8)
    assert torch.isfinite(scores.value).all()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert (scores.value > scores.elbo).all()
