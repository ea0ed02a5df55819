from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from rich.console import Console

from training.data import Dataset
from training.recipe import Recipe
from training.terminal import print_table, show_scoring, show_training
from training.trainer import Trainer


@pytest.fixture
def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)


def test_a_terminal_shows_how_training_stands(terminal: Console, trainer: Trainer) -> None:
    with show_training(terminal) as show:
        metrics = trainer.run_epoch()
        show(trainer, metrics)
    assert isinstance(terminal.file, io.StringIO)
    shown = terminal.file.getvalue().splitlines()
    (best,) = [line for line in shown if line.startswith("best")]
    assert best.split() == ["best", f"{metrics.valid_elbo:.2f}", "nats", "epoch", "1"]
    assert any(line.startswith("left") and "3 epochs" in line for line in shown)


def test_a_bound_of_several_samples_is_not_called_an_elbo(
    terminal: Console, recipe: Recipe, digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(recipe, training=replace(recipe.training, importance_samples=3, validation_samples=9))
    trainer = Trainer(recipe, digits, tmp_path / "run", torch.device("cpu"))
    metrics = trainer.run_epoch()
    for console in (terminal, Console(file=io.StringIO())):
        with show_training(console) as show:
            show(trainer, metrics)
    assert isinstance(terminal.file, io.StringIO)
    for shown in (terminal.file.getvalue(), capsys.readouterr().out):
        assert "3-sample bound, validation 9-sample bound" in shown
        assert "ELBO" not in shown


def test_a_terminal_shows_how_an_evaluation_stands(terminal: Console) -> None:
    with show_scoring(terminal, total=10, done=2) as show:
        show(7, -12.345)
    assert isinstance(terminal.file, io.StringIO)
    assert "7/10 mean -12.35 nats" in terminal.file.getvalue()


def test_a_file_gets_a_line_an_epoch(trainer: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    with show_training(Console(file=io.StringIO())) as show:
        for _ in range(2):
            show(trainer, trainer.run_epoch())
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/4", "epoch 2/4"]


def test_a_file_gets_a_line_at_the_end_of_an_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    with show_scoring(Console(file=io.StringIO()), total=3, done=0) as show:
        for done in (1, 2, 3):
            show(done, -10.0)
    assert capsys.readouterr().out == "scored 3/3 images  mean -10.00 nats  time left 0:00:00\n"


HEADER = ("checkpoint", "log-likelihood", "ELBO", "epochs")
ROW = ("static_mnist-hvae-vampprior@3", "-83.43 ± 0.22 nats", "-89.00", "200/200 stopped early")


def printed(width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_table(console, HEADER, [ROW], title="a title")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_a_table_cuts_nothing_and_names_the_columns_that_do_not_fit(width: int) -> None:
    text = printed(width)
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())
    *lines, last = text.splitlines()
    missing = last.removeprefix("Columns that do not fit: ").rstrip(".").split(", ") if "do not fit" in last else []
    cells = [line.split("│")[1:-1] for line in lines if line.startswith("│")]
    columns = [" ".join(part.strip() for part in column).split() for column in zip(*cells, strict=True)]
    shown = len(HEADER) - len(missing)
    assert list(HEADER[shown:]) == missing
    for name, cell, words in zip(HEADER, ROW, columns, strict=False):
        assert "".join(words).replace(name, "") == cell.replace(" ", "")
        assert all(number in words for number in cell.split() if number.lstrip("-")[0].isdigit())
    assert shown == 4 or width < 80


def test_a_narrow_table_has_less_columns_and_a_wide_one_has_all() -> None:
    assert "Columns that do not fit: epochs." in printed(40)
    assert all(text in printed(200) for text in (*HEADER, *ROW))
