"""`python -m training sweep`: train and evaluate many recipes, several at a time, each in a process of its own.

A recipe takes two child processes, `train` and then `evaluate`. What is left to do is read from the store and the runs
folder, so the same command continues a sweep that was stopped in any way.
"""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import torch
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from training.machine import select_device
from training.recipe import NAME_PATTERN, Optimization, Recipe, RecipeError, find_recipe
from training.report.paper import DATA, TABLES, Cell, unit_of
from training.report.results import reference, score
from training.runs import Run
from training.state import METRICS_FILE, STATE_FILE
from training.terminal import DataDir, Device, RunsDir, Store, Threads, console
from vampprior.card import CARD_FILE, Card, CheckpointError, read_card

__all__ = ["LISTS", "Interruptions", "Job", "Options", "Progress", "State", "expand", "overview", "run_jobs", "sweep"]

LOG_FILE = "log.txt"
JOBS_ON_GPU = 4
"""Recipes at a time on a GPU; one of these small networks leaves most of a GPU idle."""
PAUSE_SECONDS = 0.5
OTHER_LINES = 4
"""Lines of a terminal that the rows of the table leave free: header, summary, cursor and a message."""
PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>
LIBC = ctypes.CDLL(None)

# The most important come first, since a sweep may be stopped.
DATA_ORDER = ("static_mnist", "dynamic_mnist", "caltech101_silhouettes", "frey_faces", "omniglot", "histopathology")
MODEL_ORDER = ("hvae", "vae", "conv_hvae", "pixel_hvae")
PRIOR_ORDER = ("vampprior", "standard", "mog", "vampprior_data")
COMPONENTS = (1, 10, 50, 100, 200, 500, 1000)


def _table1() -> list[str]:
    """Every cell of Table 1 and the other priors of the HVAE in Tables 2 and 3; Frey Faces on each of its splits."""

    def place(cell: Cell) -> tuple[int, int, int]:
        data = next(key for key in DATA_ORDER if DATA[key] == cell.data)
        return DATA_ORDER.index(data), MODEL_ORDER.index(cell.model), PRIOR_ORDER.index(cell.prior)

    cells = {row.cell for table in TABLES for row in table.rows if row.cell is not None}
    return [f"{name}-{cell.model}-{cell.prior}" for cell in sorted(cells, key=place) for name in cell.data.names]


def _components() -> list[str]:
    """The recipes that Figures 2 and 3 compare; the name without a number has the paper's K."""
    sizes = ["" if k == DATA["static_mnist"].num_components else f"-{k}" for k in COMPONENTS]
    varied = (f"static_mnist-hvae-{prior}{size}" for prior in ("mog", "vampprior") for size in sizes)
    return ["static_mnist-hvae-standard", *varied]


LISTS = {"table1": _table1(), "components": _components()}


def expand(words: Sequence[str]) -> list[str]:
    """Replace the names of lists by their recipes, and drop repetitions."""
    return list(dict.fromkeys(recipe for word in words for recipe in LISTS.get(word, [word])))


class State(StrEnum):
    """State of a recipe, by the urgency of its row in the table."""

    RUNNING = "running"
    FAILED = "failed"
    WAITING = "waiting"
    DONE = "done"
    SKIPPED = "skipped"


STYLES = {State.RUNNING: "bold", State.FAILED: "red", State.WAITING: "dim", State.DONE: "green", State.SKIPPED: "dim"}


@dataclass(frozen=True)
class Options:
    """Options that all recipes of a sweep share.

    threads: CPU threads of each child process
    seed:    seed of the training that replaces the recipes'
    """

    version: str
    runs: Path
    store: Path
    data_dir: Path | None
    device: str
    threads: int
    num_samples: int
    max_images: int | None
    seed: int | None

    def command(self, name: str, target: str, flags: Sequence[str] = (), **values: object) -> list[str]:
        """A command of `python -m training` with these options."""
        values |= {"data_dir": self.data_dir, "runs_dir": self.runs, "store": self.store}
        values |= {"device": self.device, "threads": self.threads}
        options = [f"--{key.replace('_', '-')}={value}" for key, value in values.items() if value is not None]
        return [sys.executable, "-m", "training", name, target, *flags, *options]


@dataclass(frozen=True)
class Progress:
    """Progress of a training run.

    epoch, max_epochs:     epochs done, and their largest number
    best_elbo, best_epoch: best validation bound in nats, and its epoch
    seconds:               duration of the last epoch
    epochs_left:           epochs until training stops if the validation bound does not improve
    """

    epoch: int
    max_epochs: int
    best_elbo: float
    best_epoch: int
    seconds: float
    epochs_left: int

    @classmethod
    def of(cls, history: Sequence[Mapping[str, Any]], settings: Optimization) -> Progress:
        """From the metrics of all epochs so far; there must be at least one."""
        last = history[-1]
        best = last if settings.keep == "last" else max(history, key=lambda line: line["valid_elbo"])
        left = settings.epochs_left(last["epoch"], best["epoch"])
        return cls(last["epoch"], settings.max_epochs, best["valid_elbo"], best["epoch"], last["seconds"], left)

    @property
    def time_left(self) -> timedelta:
        """Time until training stops if the validation bound does not improve."""
        return timedelta(seconds=round(self.epochs_left * self.seconds))


class MetricsFile:
    """The metrics file of a run, which is read again whenever its size has changed."""

    def __init__(self, path: Path, settings: Optimization) -> None:
        self._path, self._settings = path, settings
        self._size = 0
        self._progress: Progress | None = None

    def read(self) -> Progress | None:
        """The progress of the run; None before the end of the first epoch and if the file is damaged."""
        try:
            if (size := self._path.stat().st_size) != self._size:
                lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
                history = [json.loads(line) for line in lines if line.endswith("\n")]  # the last may be incomplete
                self._progress = Progress.of(history, self._settings) if history else None
                self._size = size
        except (FileNotFoundError, ValueError, KeyError):
            self._progress, self._size = None, 0
        return self._progress


class Job:
    """A recipe of a sweep; raises `RecipeError` if there is no such recipe.

    note:     what is left to do, the last output of the child, the result, or the reason of a failure
    progress: progress of the training
    """

    def __init__(self, recipe: str, options: Options) -> None:
        self._recipe, self._options = recipe, options
        chosen = find_recipe(recipe, [] if options.seed is None else [f"training.seed={options.seed}"])
        self.run = Run(chosen, options.version, options.runs, options.store)
        self.log = self.run.folder / LOG_FILE
        self._metrics = MetricsFile(self.run.folder / METRICS_FILE, chosen.training)
        self.progress = self._metrics.read()
        self._child: subprocess.Popen[bytes] | None = None
        self._interrupted = False
        self.steps: tuple[str, ...] = ()
        self.state, self.note = State.WAITING, ""
        self._plan(otherwise=State.SKIPPED)

    @property
    def name(self) -> str:
        """Name of the recipe and of its checkpoint."""
        return self.run.recipe.name

    @property
    def status(self) -> str:
        """The state in a word or, while it runs, its step."""
        if self.state is State.RUNNING:
            return {"train": "training", "evaluate": "evaluating"}[self.steps[0]]
        return self.state.value

    def start(self) -> None:
        """Start a child process for the next step."""
        self._child = start_process(self.command(self.steps[0]), self.log)
        self.state, self.note = State.RUNNING, ""

    def command(self, step: str) -> list[str]:
        """The command of a step, `train` or `evaluate`."""
        options = self._options
        if step == "evaluate":
            target = f"{self.name}@{self.run.version}"
            return options.command(step, target, num_samples=options.num_samples, max_images=options.max_images)
        # the log file has created the run's folder; without a state in it, --resume starts at the first epoch
        return options.command(step, self._recipe, ["--resume"], version=options.version, seed=options.seed)

    def poll(self) -> None:
        """Update state, note and progress from the child process."""
        if self._child is None:
            return
        code = self._child.poll()
        self.progress = self._metrics.read()
        if code is None:
            self.note = last_line(self.log) if self.steps[0] == "evaluate" else ""
            return
        self._child = None
        if code == 0 or self._interrupted:
            self._plan(otherwise=State.DONE)
        else:
            self._fail(last_line(self.log) if code > 0 else f"ended by signal {-code} ({signal.strsignal(-code)})")

    def interrupt(self) -> None:
        """Let the child, if there is one, save its state and exit."""
        if self._child is not None:
            self._interrupted = True
            self._child.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """Kill the child, if there is one."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def _plan(self, otherwise: State) -> None:
        """Find out which steps are left; if none is, the job takes the other state."""
        folder = self.run.checkpoint
        try:
            card = read_card(folder) if (folder / CARD_FILE).exists() else None
            self.steps = steps_left(card, resumable=(self.run.folder / STATE_FILE).exists())
        except (CheckpointError, RecipeError) as error:
            self._fail(str(error))
            return
        if self.steps:
            self.state, self.note = State.WAITING, f"to {' and '.join(self.steps)}"
        elif card is not None:
            self.state, self.note = otherwise, _result(card, self.run.recipe)

    def _fail(self, reason: str) -> None:
        self.state, self.note = State.FAILED, reason.removeprefix("error: ")


def steps_left(card: Card | None, *, resumable: bool) -> tuple[str, ...]:
    """The steps left for a checkpoint with that card, if there is one, and a run that can be resumed or not.

    Raises `RecipeError` if a checkpoint would have to be trained from the beginning, which would replace it.
    """
    if card is not None and card.training.get("finished"):
        return () if card.metrics else ("evaluate",)
    if card is None or resumable:
        return "train", "evaluate"
    raise RecipeError(
        f"{reference(card)} was stopped early, and its run cannot be resumed; remove it, or give another --version"
    )


def _result(card: Card, recipe: Recipe) -> str:
    """The log-likelihood of an evaluated checkpoint, and the first difference of its recipe from the present one."""
    unit, there = unit_of(card.model.likelihood), card.training.get("recipe")
    found = score(card, unit)
    text = "" if found is None else f"{unit.show(*found)} {unit.name}"
    try:
        change = recipe.change_since(there) if isinstance(there, Mapping) else ""
    except RecipeError as error:
        change = str(error)
    return f"{text}, with another recipe: {change}" if change else text


def start_process(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command that appends itself and its output to a log.

    Ctrl-C does not reach it, since it has its own process group. On Linux it is killed when its parent ends.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab", buffering=0) as file:
        file.write(f"$ {shlex.join(command)}\n".encode())
        return subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )


def _end_with_parent() -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def last_line(log: Path) -> str:
    """The last line that is not blank of a command's output; empty if there is none."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    found = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return "" if found.startswith("$ ") else found


class Interruptions:
    """Number of requests to stop: Ctrl-C, SIGTERM, and SIGHUP unless it is ignored, as under `nohup`."""

    def __init__(self) -> None:
        self.count = 0

    @classmethod
    @contextmanager
    def counted(cls) -> Iterator[Interruptions]:
        """Count the requests within the block instead of ending the process."""
        interruptions = cls()
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, interruptions._count) for number in numbers}
        try:
            yield interruptions
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _count(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.count += 1


def run_jobs(
    jobs: Sequence[Job], at_once: int, interruptions: Interruptions, show: Callable[[Sequence[Job]], None]
) -> None:
    """Run the jobs in order, `at_once` at a time, and show their states until all have ended.

    On a request to stop, the children are interrupted and waited for; on a second one they are killed. Then raises
    `KeyboardInterrupt`. No child outlives this function.
    """
    try:
        while not interruptions.count:
            for job in jobs:
                job.poll()
            waiting = [job for job in jobs if job.state is State.WAITING]
            for job in waiting[: at_once - len(_running(jobs))]:
                job.start()
            show(jobs)
            if not _running(jobs):
                return
            time.sleep(PAUSE_SECONDS)
        for job in jobs:
            job.interrupt()
        print("waiting for the running recipes to stop; interrupt again to kill them", flush=True)
        while _running(jobs) and interruptions.count == 1:
            for job in jobs:
                job.poll()
            show(jobs)
            time.sleep(PAUSE_SECONDS)
        raise KeyboardInterrupt
    finally:
        for job in jobs:
            job.kill()


def _running(jobs: Sequence[Job]) -> list[Job]:
    return [job for job in jobs if job.state is State.RUNNING]


@contextmanager
def show_sweep(console: Console) -> Iterator[Callable[[Sequence[Job]], None]]:
    """A function that shows jobs: a live table on a terminal, a line per change of state elsewhere."""
    if not console.is_terminal:
        last_status: dict[str, str] = {}
        yield lambda jobs: _print_changes(jobs, last_status)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda jobs: live.update(overview(jobs, console.height - OTHER_LINES), refresh=True)


def _print_changes(jobs: Sequence[Job], last_status: dict[str, str]) -> None:
    for job in jobs:
        if last_status.get(job.name, State.WAITING.value) != job.status:
            last_status[job.name] = job.status
            print(f"{job.name}: {job.status}{f', {job.note}' if job.note else ''}", flush=True)


def overview(jobs: Sequence[Job], most: int) -> Group:
    """A table with a row per job, at most `most`, and below it the number of jobs in each state."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("recipe", overflow="fold", min_width=22)
    table.add_column("", no_wrap=True)
    for title in ("epoch", "best ELBO", "at", "s/epoch", "left"):
        table.add_column(title, no_wrap=True, justify="right")
    table.add_column("")
    chosen = sorted(jobs, key=lambda job: list(State).index(job.state))[: max(0, most)]
    for job in (job for job in jobs if job in chosen):
        note = Text(job.note, no_wrap=True, overflow="ellipsis")
        table.add_row(job.name, Text(job.status, STYLES[job.state]), *_progress(job.progress), note)
    counts = Counter(job.state for job in jobs)
    return Group(table, Text(", ".join(f"{counts[state]} {state}" for state in State if counts[state]), "dim"))


def _progress(progress: Progress | None) -> tuple[str, str, str, str, str]:
    if progress is None:
        return "", "", "", "", ""
    return (
        f"{progress.epoch}/{progress.max_epochs}",
        f"{progress.best_elbo:.2f}",
        str(progress.best_epoch),
        f"{progress.seconds:.1f}",
        str(progress.time_left) if progress.epochs_left else "",
    )


def sweep(
    what: Annotated[
        list[str], typer.Argument(help=f"{', '.join(LISTS)}, or recipes: {NAME_PATTERN}, or paths of .toml files.")
    ],
    jobs: Annotated[
        int | None, typer.Option(min=1, help=f"Recipes at a time; by default {JOBS_ON_GPU} on a GPU and 1 on a CPU.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    num_samples: Annotated[int, typer.Option(min=2, help="Importance samples per test image.")] = 5000,
    max_images: Annotated[int | None, typer.Option(min=2, help="Score this many random test images.")] = None,
    version: Annotated[str, typer.Option(help="Version of the checkpoints.")] = "1",
    seed: Annotated[int | None, typer.Option(help="Seed of training, instead of the recipes'.")] = None,
    data_dir: DataDir = None,
    runs_dir: RunsDir = Path("runs"),
    store: Store = Path("model_store"),
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Train and evaluate many recipes, several at a time. Ctrl-C stops it; the same command continues.

    Recipes with an evaluated checkpoint are skipped, and a failure does not
    stop the others. Recipes that run at the same time share the threads.
    Their output is in <runs>/<name>/<version>/log.txt.
    """
    at_once = jobs or (JOBS_ON_GPU if select_device(device, threads).type == "cuda" else 1)
    per_child = max(1, torch.get_num_threads() // at_once)
    options = Options(version, runs_dir, store, data_dir, device, per_child, num_samples, max_images, seed)
    chosen = [Job(recipe, options) for recipe in expand(what)]
    names = [job.name for job in chosen]
    if twice := [name for name in names if names.count(name) > 1]:
        raise RecipeError(f"two recipes are named {twice[0]!r}; give each a name of its own")
    terminal = console()
    if not dry_run:
        try:
            with Interruptions.counted() as interruptions, show_sweep(terminal) as show:
                run_jobs(chosen, at_once, interruptions, show)
        except KeyboardInterrupt:
            print("interrupted: the same command continues", file=sys.stderr)
            raise typer.Exit(130) from None
    terminal.print(overview(chosen, most=len(chosen)))
    if failed := [job for job in chosen if job.state is State.FAILED]:
        print(f"{len(failed)} of {len(chosen)} failed; their output is in {LOG_FILE} of their runs:", file=sys.stderr)
        for job in failed:
            print(f"  {job.name}: {job.note}", file=sys.stderr)
        raise typer.Exit(1)
