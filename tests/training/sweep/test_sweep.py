"""`python -m training sweep` with real children, and on a real terminal."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

import training
from training.__main__ import main
from training.data.splits import Dataset
from training.recipe import Recipe
from training.runs import Run
from vampprior.card import read_card

ROOT = Path(training.__file__).parents[1]
PATIENCE_SECONDS = 300.0
ENDLESS = 1_000_000


@pytest.fixture
def recipe_file(recipe_file: Path, digits: Dataset) -> Path:
    """The tiny recipe, with the digits from a file, which a child reads sooner than it imports scikit-learn."""
    path = recipe_file.with_name("digits.npz")
    np.savez(path, train=digits.train, valid=digits.valid, test=digits.test)
    recipe_file.write_text(recipe_file.read_text().replace('"digits"', f'"{path.as_posix()}"'))
    return recipe_file


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    return [f"--runs-dir={tmp_path / 'runs'}", f"--store={tmp_path / 'store'}", "--threads=1", "--device=cpu"]


def sweep(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["sweep", *map(str, words)])
    return int(ended.value.code or 0)


def test_one_that_fails_stops_no_other_and_what_is_done_is_skipped(
    recipe_file: Path,
    places: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    broken = recipe_file.with_name("broken.toml")
    broken.write_text(recipe_file.read_text().replace('"tiny"', '"broken"').replace("digits.npz", "nothing.npz"))
    arguments = [broken, recipe_file, "--num-samples", 2, "--max-images", 5, *places]

    assert sweep(*arguments, "--jobs", 2, "--seed", 3) == 1
    out, err = capsys.readouterr()
    states = [line for line in out.splitlines() if re.match("(tiny|broken): ", line)]
    assert states[:2] == ["broken: training", "tiny: training"]
    assert [line for line in states if line.startswith("tiny")][1] == "tiny: evaluating"
    assert "1 failed, 1 done" in out
    counted, failed = err.splitlines()
    assert counted.startswith("1 of 2 failed")
    assert re.fullmatch("  broken: .*nothing.npz is neither a folder of images nor an .npz file", failed)
    card = read_card(tmp_path / "store" / "tiny" / "1")
    assert (card.metrics["num_samples"], card.metrics["num_images"], card.training["seed"]) == (2, 5, 3)
    said = (tmp_path / "runs" / "tiny" / "1" / "log.txt").read_text()
    assert "epoch 4/4" in said
    assert "scored 5/5 images" in said

    assert sweep(recipe_file, *places) == 0
    assert "tiny: skipped, " in capsys.readouterr().out
    assert sweep(*arguments, "--dry-run") == 0
    assert "1 waiting, 1 skipped" in capsys.readouterr().out
    assert (tmp_path / "runs" / "tiny" / "1" / "log.txt").read_text() == said


@contextmanager
def on_a_terminal(*words: object) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`python -m training sweep` in the foreground of a terminal, and the end of that where a person sits."""
    person, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "training", "sweep", *map(str, words)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "150", "LINES": "20"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(terminal)
    guard = threading.Timer(PATIENCE_SECONDS, process.kill)
    guard.start()
    try:
        yield process, person
    finally:
        guard.cancel()
        process.kill()
        process.wait()
        os.close(person)


def read_until(person: int, pattern: str | None) -> str:
    """What the terminal shows, without colors and the like, up to a pattern, or to the end."""
    text = ""
    while pattern is None or not re.search(pattern, text):
        try:
            more = os.read(person, 65536)
        except OSError:  # so Linux says that nobody has the terminal open any more
            more = b""
        if not more:
            break
        text = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", text + more.decode(errors="replace"))
    return text


def test_it_goes_on_where_it_was_and_ctrl_c_stops_it(
    recipe_file: Path, digits: Dataset, places: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = recipe_file.read_text().replace("max_epochs = 4", f"max_epochs = {ENDLESS}\npatience = {ENDLESS}")
    recipe_file.write_text(text)
    run = Run(Recipe.from_toml(recipe_file), "1", tmp_path / "runs", tmp_path / "store")
    begun = run.start(digits, torch.device("cpu"))
    for _ in range(3):
        begun.run_epoch()

    with on_a_terminal(recipe_file, *places) as (process, person):
        read_until(person, rf"tiny +training +([4-9]|\d\d+)/{ENDLESS} ")
        os.write(person, b"\x03")
        assert "interrupted: the same command goes on" in read_until(person, None)
        assert process.wait() == 130

    said = (run.folder / "log.txt").read_text()
    assert "3 epochs done" in said
    assert said.endswith("interrupted: go on with --resume\n")
    assert "Traceback" not in said
    assert not (tmp_path / "store").exists()
    then = run.resume(digits, torch.device("cpu"))
    assert then.epoch > 3
    assert sweep(recipe_file, *places, "--dry-run") == 0
    assert f"waiting  {then.epoch}/{ENDLESS}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nope"], "no recipe 'nope'; give the path of a .toml file, or "),
        (["table1", "--seed", "-1"], "training.seed"),
        (["RECIPE", "COPY"], "two recipes are named 'tiny'; give each a name of its own"),
        (["RECIPE", "--version", "../1"], "the version '../1' must be lower-case letters"),
    ],
)
def test_a_mistake_is_answered_in_one_line_before_anything_begins(
    words: list[str],
    message: str,
    recipe_file: Path,
    places: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = recipe_file.with_name("copy.toml")
    copy.write_text(recipe_file.read_text())
    paths = {"RECIPE": recipe_file, "COPY": copy}
    assert sweep(*(paths.get(word, word) for word in words), *places) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "runs").exists()
