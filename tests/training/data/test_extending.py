"""The data set and the callback of the guide to extending work."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import training.data
from training.data import Pixels, load_dataset
from training.data.archive import Archive
from training.recipe import Optimization, PseudoInputs, find_recipe
from training.trainer import Trainer

GUIDE = (Path(__file__).parents[3] / "docs" / "extending.md").read_text(encoding="utf-8")


def example(title: str) -> dict[str, Any]:
    """The names that the code of a section defines."""
    section = GUIDE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    (program,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(program, "docs/extending.md", "exec"), names)
    return names


def test_the_data_set_of_the_guide_is_downloaded_and_split(
    at_home: Callable[[Archive, Mapping[str, bytes], Mapping[str, Pixels]], Archive],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (1000, 8, 8), dtype=np.uint8)
    with BytesIO() as file:
        np.save(file, images)
        content = file.getvalue()
    shapes = at_home(example("A data set")["SHAPES"], {"shapes": content}, {"all": images})
    monkeypatch.setitem(training.data.DATASETS, shapes.name, shapes)
    dataset = load_dataset("shapes", tmp_path)
    assert [len(dataset.train), len(dataset.valid), len(dataset.test)] == [800, 100, 100]
    together = np.concatenate([dataset.train, dataset.valid, dataset.test])[:, 0]
    assert sorted(image.tobytes() for image in together) == sorted(image.tobytes() for image in images)


def test_the_data_set_of_the_guide_has_recipes_without_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(training.data.DATASETS, "shapes", example("A data set")["SHAPES"])
    recipe = find_recipe("shapes-conv_hvae-mog-7")
    assert (recipe.dataset, recipe.model.likelihood, recipe.model.num_components) == ("shapes", "logistic", 7)
    assert (recipe.pseudo_inputs, recipe.training) == (PseudoInputs(), Optimization())


def test_the_callback_of_the_guide_sees_an_epoch(trainer: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = trainer.run_epoch()
    example("A callback")["print_kl"](trainer, metrics)
    assert capsys.readouterr().out == f"epoch 1: KL {metrics.valid_kl:.2f} nats, prior vampprior\n"
