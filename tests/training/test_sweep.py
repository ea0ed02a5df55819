"""`python -m training sweep`: its parts, and the command with real child processes and on a real terminal."""

from __future__ import annotations

import fcntl
import io
import os
import re
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from rich.console import Console

import training
from training.__main__ import main
from training.data import Dataset
from training.recipe import Optimization, Recipe, RecipeError, find_recipe
from training.report.paper import TABLES
from training.runs import Run
from training.state import METRICS_FILE
from training.sweep import (
    LISTS,
    Interruptions,
    Job,
    MetricsFile,
    Options,
    Progress,
    State,
    expand,
    last_line,
    overview,
    run_jobs,
    show_sweep,
    start_process,
    steps_left,
)
from training.trainer import Trainer
from vampprior.card import Card, read_card, write_card
from vampprior.config import ModelConfig

ROOT = Path(training.__file__).parents[1]


def test_table_1_is_every_network_of_the_papers_tables_on_every_split() -> None:
    cells = {row.cell for table in TABLES for row in table.rows if row.cell is not None}
    left = {(cell, name) for cell in cells for name in cell.data.names}
    for recipe in map(find_recipe, LISTS["table1"]):
        shapes = {cell.data.image_shape for cell, name in left if name == recipe.dataset}
        (shape,) = shapes
        config = replace(recipe.model, image_shape=shape)
        (found,) = [(cell, name) for cell, name in left if name == recipe.dataset and cell.fits(config)]
        left.remove(found)
    assert not left


def test_table_1_begins_with_what_matters_most() -> None:
    recipes = LISTS["table1"]
    assert recipes[:5] == [
        "static_mnist-hvae-vampprior",
        "static_mnist-hvae-standard",
        "static_mnist-hvae-mog",
        "static_mnist-hvae-vampprior_data",
        "static_mnist-vae-vampprior",
    ]
    assert list(dict.fromkeys(recipe.partition("-")[0] for recipe in recipes)) == [
        "static_mnist",
        "dynamic_mnist",
        "caltech101_silhouettes",
        "frey_faces_1",
        "frey_faces_2",
        "frey_faces_3",
        "omniglot",
        "histopathology",
    ]


def test_the_components_are_those_of_the_figures() -> None:
    chosen = [find_recipe(name) for name in LISTS["components"]]
    sizes = [1, 10, 50, 100, 200, 500, 1000]
    for prior in ("mog", "vampprior"):
        assert [recipe.model.num_components for recipe in chosen if recipe.model.prior == prior] == sizes
    assert [recipe.name for recipe in chosen if recipe.model.prior == "standard"] == ["static_mnist-hvae-standard"]
    assert "static_mnist-hvae-vampprior" in LISTS["components"]


def test_lists_and_recipes_mix_and_each_recipe_comes_once() -> None:
    recipes = expand(["mine.toml", "components", "table1", "static_mnist-hvae-mog", "mine.toml"])
    assert recipes[:2] == ["mine.toml", "static_mnist-hvae-standard"]
    assert len(recipes) == len(set(recipes)) == 1 + len({*LISTS["components"], *LISTS["table1"]})


SCORED = {"log_likelihood": -85.0}


@pytest.mark.parametrize(
    ("finished", "metrics", "resumable", "steps"),
    [
        (True, SCORED, True, ()),
        (True, SCORED, False, ()),
        (True, {}, False, ("evaluate",)),
        (False, {}, True, ("train", "evaluate")),
        (False, SCORED, True, ("train", "evaluate")),
    ],
)
def test_what_is_left_to_do(finished: bool, metrics: dict[str, Any], resumable: bool, steps: tuple[str, ...]) -> None:
    card = Card("tiny", "1", ModelConfig(), training={"finished": finished}, metrics=metrics)
    assert steps_left(card, resumable=resumable) == steps


@pytest.mark.parametrize("resumable", [True, False])
def test_without_a_checkpoint_all_is_left_to_do(resumable: bool) -> None:
    assert steps_left(None, resumable=resumable) == ("train", "evaluate")


@pytest.mark.parametrize("metrics", [{}, SCORED])
def test_a_checkpoint_that_cannot_go_on_is_not_thrown_away(metrics: dict[str, Any]) -> None:
    card = Card("tiny", "2", ModelConfig(), training={"finished": False}, metrics=metrics)
    with pytest.raises(RecipeError, match="tiny@2 was stopped early, and its run cannot be resumed; remove it"):
        steps_left(card, resumable=False)


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(
        version="1",
        runs=tmp_path / "runs",
        store=tmp_path / "store",
        data_dir=tmp_path / "data",
        device="cpu",
        threads=1,
        num_samples=10,
        max_images=20,
        seed=None,
    )


def test_an_evaluated_checkpoint_is_skipped_with_its_score(
    options: Options, put_card: Callable[..., Card], recipe_file: Path
) -> None:
    put_card("tiny", log_likelihood=-85.0)
    job = Job(str(recipe_file), options)
    assert (job.state, job.note) == (State.SKIPPED, "-85.00 ± 0.25 nats")


def test_a_skipped_checkpoint_of_another_recipe_is_told_apart(
    options: Options, checkpoint: Path, recipe_file: Path
) -> None:
    write_card(checkpoint, replace(read_card(checkpoint), metrics={"log_likelihood": -85.0}))
    assert "another recipe" not in Job(str(recipe_file), options).note
    other = Job(str(recipe_file), replace(options, seed=7))
    assert other.state is State.SKIPPED
    assert other.note.endswith("with another recipe: training.seed was 1 and is now 7")
    assert Job(str(recipe_file), replace(options, seed=7, version="2")).state is State.WAITING


def test_a_card_whose_recipe_is_none_says_so(
    options: Options, put_card: Callable[..., Card], recipe_file: Path
) -> None:
    put_card("tiny", training={"recipe": {"name": "tiny"}})
    assert Job(str(recipe_file), options).note == "-85.00 ± 0.25 nats, with another recipe: missing key `dataset`"


def test_a_damaged_card_fails_its_recipe(options: Options, checkpoint: Path, recipe_file: Path) -> None:
    (checkpoint / "card.json").write_text("{")
    job = Job(str(recipe_file), options)
    assert job.state is State.FAILED
    assert "card.json is not JSON" in job.note


def test_a_stopped_run_goes_on_and_replaces_what_it_exported(
    options: Options, recipe: Recipe, recipe_file: Path, digits: Dataset
) -> None:
    run = Run(recipe, "1", options.runs, options.store)
    trainer = run.start(digits, torch.device("cpu"))
    trainer.run_epoch()
    trainer.folder.wait()
    run.export(trainer)
    job = Job(str(recipe_file), options)
    command = job.command("train")
    assert "--resume" in command
    assert "--overwrite" not in command
    assert (job.state, job.note) == (State.WAITING, "to train and evaluate")
    assert job.progress is not None
    assert (job.progress.epoch, job.progress.epochs_left) == (1, 3)


SETTINGS = Optimization(warmup_epochs=3, patience=4, max_epochs=9)


def history(best: int, epochs: int) -> list[dict[str, float]]:
    return [{"epoch": n, "valid_elbo": -100.0 - abs(n - best), "seconds": 30.0} for n in range(1, epochs + 1)]


def test_the_epochs_left_are_those_of_the_trainer(trainer: Trainer) -> None:
    trainer.recipe = msgspec.structs.replace(trainer.recipe, training=SETTINGS)
    left = set()
    for epochs in range(1, SETTINGS.max_epochs + 1):
        for best in range(1, epochs + 1):
            trainer.epoch, trainer.best_epoch = epochs, best
            progress = Progress.of(history(best, epochs), SETTINGS)
            assert (progress.epoch, progress.best_epoch, progress.best_elbo) == (epochs, best, -100.0)
            assert progress.epochs_left == trainer.epochs_left
            left.add(progress.epochs_left)
    assert left == {0, 1, 2, 3, 4, 5, 6}


def test_where_the_last_weights_are_kept_every_epoch_is_the_best() -> None:
    progress = Progress.of(history(best=1, epochs=8), msgspec.structs.replace(SETTINGS, keep="last"))
    assert (progress.best_epoch, progress.best_elbo, progress.epochs_left) == (8, -107.0, 1)


def test_the_time_left_is_that_of_the_epochs_left() -> None:
    assert Progress.of(history(best=5, epochs=6), SETTINGS).time_left == timedelta(seconds=90)


def test_the_metrics_are_followed_as_they_grow_and_are_trimmed(trainer: Trainer) -> None:
    path = trainer.folder.path / METRICS_FILE
    metrics = MetricsFile(path, trainer.recipe.training)
    assert metrics.read() is None
    for _ in range(2):
        last = trainer.run_epoch()
        trainer.folder.wait()
        progress = metrics.read()
        assert progress is not None
        assert (progress.epoch, progress.seconds) == (trainer.epoch, last.seconds)
        assert (progress.best_epoch, progress.best_elbo) == (trainer.best_epoch, trainer.best_elbo)
    whole = path.read_text()
    path.write_text(whole + '{"epoch": 3, "val')  # caught in the middle of writing
    assert metrics.read() == progress
    path.write_text(whole.splitlines(keepends=True)[0])
    assert (first := metrics.read()) is not None
    assert first.epoch == 1
    path.unlink()
    assert metrics.read() is None


@pytest.mark.parametrize("text", ['{"epoch": 1', "\0\0\0\n", '{"epoch": 1}\n'])
def test_metrics_that_say_nothing_are_none(text: str, tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_text(text)
    assert MetricsFile(tmp_path / METRICS_FILE, SETTINGS).read() is None


PROGRESS = Progress(epoch=120, max_epochs=2000, best_elbo=-91.234, best_epoch=118, seconds=2.04, epochs_left=48)


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    """One in each state."""
    options = Options("1", tmp_path, tmp_path, tmp_path, "cpu", 1, 5000, None, None)
    jobs = [Job(f"static_mnist-hvae-mog-{number}", options) for number in range(1, 6)]
    for job, state in zip(jobs, ("done", "skipped", "running", "failed", "waiting"), strict=True):
        job.state, job.note = State(state), f"note of {state}"
    jobs[2].progress = PROGRESS
    return jobs


def shown(jobs: list[Job], most: int) -> list[str]:
    console = Console(file=io.StringIO(), width=150)
    console.print(overview(jobs, most))
    assert isinstance(console.file, io.StringIO)
    return [line.strip() for line in console.file.getvalue().splitlines()]


def test_a_row_says_where_a_recipe_is(jobs: list[Job]) -> None:
    header, *rows, summary = shown(jobs, most=10)
    assert header.split() == ["recipe", "epoch", "best", "ELBO", "at", "s/epoch", "left"]
    assert " ".join(rows[2].split()) == (
        "static_mnist-hvae-mog-3 training 120/2000 -91.23 118 2.0 0:01:38 note of running"
    )
    assert " ".join(rows[3].split()) == "static_mnist-hvae-mog-4 failed note of failed"
    assert summary == "1 running, 1 failed, 1 waiting, 1 done, 1 skipped"


def test_where_there_is_no_room_what_runs_and_what_failed_is_shown(jobs: list[Job]) -> None:
    _, *rows, summary = shown(jobs, most=3)
    assert [row.split()[0][-1] for row in rows] == ["3", "4", "5"]
    assert summary.count("1 ") == 5


def test_a_terminal_shows_the_rows_that_fit(jobs: list[Job]) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=150, height=6, color_system=None)
    with show_sweep(terminal) as show:
        show(jobs)
    assert isinstance(terminal.file, io.StringIO)
    text = terminal.file.getvalue()
    assert "120/2000" in text
    assert "note of failed" in text
    assert "note of waiting" not in text


def test_a_file_gets_a_line_for_each_change(jobs: list[Job], capsys: pytest.CaptureFixture[str]) -> None:
    with show_sweep(Console(file=io.StringIO())) as show:
        show(jobs)
        jobs[2].progress = None
        show(jobs)
        jobs[2].state, jobs[2].note = State.DONE, ""
        show(jobs)
    assert capsys.readouterr().out.splitlines() == [
        "static_mnist-hvae-mog-1: done, note of done",
        "static_mnist-hvae-mog-2: skipped, note of skipped",
        "static_mnist-hvae-mog-3: training, note of running",
        "static_mnist-hvae-mog-4: failed, note of failed",
        "static_mnist-hvae-mog-3: done",
    ]


PARENT = """
import sys
from pathlib import Path
from training.sweep import start_process
child = "import time; print('begun', flush=True); time.sleep(60); print('survived')"
start_process([sys.executable, "-c", child], Path(sys.argv[1])).wait()
"""


def test_a_log_keeps_every_command_and_what_it_said(tmp_path: Path) -> None:
    log = tmp_path / "run" / "log.txt"
    said = []
    for words in ("print(1)\nprint()", "import sys; sys.exit('a mistake')", "pass"):
        child = start_process([sys.executable, "-c", words], log)
        said.append((child.wait(), last_line(log)))
    assert said == [(0, "1"), (1, "a mistake"), (0, "")]
    assert log.read_text().count(f"$ {sys.executable} -c ") == 3


def test_the_last_line_of_a_long_log_is_whole(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("é" * 100_000 + "\nthe end\n\n")
    assert last_line(tmp_path / "log.txt") == "the end"
    assert last_line(tmp_path / "gone" / "log.txt") == ""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent is gone")
def test_a_child_ends_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    os.mkfifo(log)  # which comes to its end when the last process that writes into it has ended
    parent = subprocess.Popen([sys.executable, "-c", PARENT, log], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    guard = threading.Timer(60.0, parent.kill)
    guard.start()
    with open(log) as written:
        assert "begun\n" in written
        parent.kill()
        assert written.read() == ""
    parent.wait()
    guard.cancel()


class Fake(Job):
    """A job whose child ends at the next poll, unless it is endless."""

    def __init__(self, *, endless: bool = False) -> None:
        self.state, self.note, self.progress = State.WAITING, "", None
        self.endless, self.alive = endless, False

    def start(self) -> None:
        self.state, self.alive = State.RUNNING, True

    def poll(self) -> None:
        if self.alive and not self.endless:
            self.state, self.alive = State.DONE, False

    def interrupt(self) -> None:
        pass

    def kill(self) -> None:
        self.alive = False


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.sweep.PAUSE_SECONDS", 0.0)


def running(jobs: Sequence[Job]) -> list[int]:
    return [index for index, job in enumerate(jobs) if job.state is State.RUNNING]


def test_jobs_run_in_order_so_many_at_a_time(no_pause: None) -> None:
    jobs, seen = [Fake() for _ in range(5)], []
    run_jobs(jobs, 2, Interruptions(), lambda jobs: seen.append(running(jobs)))
    assert seen == [[0, 1], [2, 3], [4], []]
    assert all(job.state is State.DONE for job in jobs)


def test_nothing_begins_once_somebody_asks_to_stop(no_pause: None, capsys: pytest.CaptureFixture[str]) -> None:
    jobs, interruptions = [Fake(), Fake(), Fake()], Interruptions()

    def ask(jobs: Sequence[Job]) -> None:
        interruptions.count = 1

    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, 1, interruptions, ask)
    assert [job.state for job in jobs] == [State.DONE, State.WAITING, State.WAITING]
    assert "interrupt again to kill them" in capsys.readouterr().out


def test_asking_again_does_not_wait(no_pause: None) -> None:
    jobs, interruptions = [Fake(endless=True)], Interruptions()

    def ask(jobs: Sequence[Job]) -> None:
        interruptions.count += 1

    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, 1, interruptions, ask)
    assert not jobs[0].alive


def test_a_mistake_of_ours_leaves_no_child_behind(no_pause: None) -> None:
    def break_down(jobs: Sequence[Job]) -> None:
        raise OSError("no space left on device")

    jobs = [Fake(endless=True)]
    with pytest.raises(OSError, match="no space"):
        run_jobs(jobs, 1, Interruptions(), break_down)
    assert not jobs[0].alive


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_counted_and_later_mean_what_they_meant(number: signal.Signals) -> None:
    handler = signal.default_int_handler
    before = signal.signal(number, handler)  # whatever it is where the tests run
    try:
        with Interruptions.counted() as interruptions:
            os.kill(os.getpid(), number)
            assert interruptions.count == 1
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)


def test_under_nohup_the_end_of_the_terminal_stops_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruptions.counted() as interruptions:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interruptions.count == 0
    finally:
        signal.signal(signal.SIGHUP, before)


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


@pytest.mark.slow
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
    assert re.fullmatch("  broken: .*nothing.npz is neither a folder of images nor an .npz or .npy file", failed)
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


@pytest.mark.slow
def test_it_goes_on_where_it_was_and_ctrl_c_stops_it(
    recipe_file: Path, digits: Dataset, places: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = recipe_file.read_text().replace("max_epochs = 4", f"max_epochs = {ENDLESS}\npatience = {ENDLESS}")
    recipe_file.write_text(text)
    run = Run(find_recipe(str(recipe_file)), "1", tmp_path / "runs", tmp_path / "store")
    begun = run.start(digits, torch.device("cpu"))
    for _ in range(3):
        begun.run_epoch()
    begun.folder.wait()

    with on_a_terminal(recipe_file, *places) as (process, person):
        read_until(person, rf"tiny +training +([4-9]|\d\d+)/{ENDLESS} ")
        os.write(person, b"\x03")
        assert "interrupted: the same command continues" in read_until(person, None)
        assert process.wait() == 130

    said = (run.folder / "log.txt").read_text()
    assert "3 epochs done" in said
    assert said.endswith("interrupted: continue with --resume\n")
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
        (["table1", "--seed", "-1"], "training.seed: expected"),
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
