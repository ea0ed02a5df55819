"""A recipe on its way to an evaluated checkpoint: how it stands, and the child process that works on it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum

from training.catalogue import find_recipe
from training.datasets import DATASETS, data_directory
from training.recipe import Recipe, RecipeError
from training.report.paper import unit_of
from training.report.results import score
from training.runs import Run
from training.state import METRICS_FILE, STATE_FILE
from training.sweep.child import last_line, start
from training.sweep.progress import MetricsFile
from training.sweep.steps import EVALUATE, Options, Step, steps_left
from vampprior.card import CARD_FILE, Card, CheckpointError, read_card

__all__ = ["LOG_FILE", "Job", "State"]

LOG_FILE = "log.txt"


class State(StrEnum):
    """Where a recipe is, by how much it is worth a look."""

    RUNNING = "running"
    FAILED = "failed"
    WAITING = "waiting"
    DONE = "done"
    SKIPPED = "skipped"


class Job:
    """A recipe of a sweep. Raises `RecipeError` if there is no such recipe.

    note:     what is left to do, what its child says, what came of it, or why it failed
    progress: of its training
    """

    def __init__(self, recipe: str, options: Options) -> None:
        self._recipe, self._options = recipe, options
        chosen = find_recipe(recipe)
        if options.seed is not None:
            chosen = replace(chosen, training=replace(chosen.training, seed=options.seed))
        self.run = Run(chosen, options.version, options.runs, options.store)
        self.log = self.run.folder / LOG_FILE
        self._metrics = MetricsFile(self.run.folder / METRICS_FILE, chosen.training)
        self.progress = self._metrics.read()
        self._child: subprocess.Popen[bytes] | None = None
        self._interrupted = False
        self._steps: tuple[Step, ...] = ()
        self.state, self.note = State.WAITING, ""
        self._plan(otherwise=State.SKIPPED)

    @property
    def name(self) -> str:
        """Of the recipe and of its checkpoint."""
        return self.run.recipe.name

    @property
    def doing(self) -> str:
        """Its state in a word, or what its child does."""
        return self._steps[0].doing if self.state is State.RUNNING else self.state.value

    @property
    def lacks_data(self) -> bool:
        """Whether its child would have to fetch the data set."""
        source = DATASETS.get(self.run.recipe.dataset)
        return source is not None and not source.is_there(self._options.data_dir or data_directory())

    def begin(self) -> None:
        """Start a child for the next step."""
        words = self._steps[0].words(self._recipe, self.run, self._options)
        self._child = start([sys.executable, "-m", "training", *words], self.log)
        self.state, self.note = State.RUNNING, ""

    def look(self) -> None:
        """Take note of what the child did; if it has ended, the job has ended too, or waits for its next step."""
        if self._child is None:
            return
        code = self._child.poll()
        self.progress = self._metrics.read()
        if code is None:
            self.note = last_line(self.log) if self._steps[0] is EVALUATE else ""
            return
        self._child = None
        if code == 0 or self._interrupted:
            self._plan(otherwise=State.DONE)
        else:
            self._fail(last_line(self.log) if code > 0 else f"ended by signal {-code} ({signal.strsignal(-code)})")

    def interrupt(self) -> None:
        """Have the child save what it can, and end."""
        if self._child is not None:
            self._interrupted = True
            self._child.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End the child, if there is one, at once."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def _plan(self, otherwise: State) -> None:
        """Find out what is left to do; if that is nothing, the job is in the other state."""
        folder = self.run.checkpoint
        try:
            card = read_card(folder) if (folder / CARD_FILE).exists() else None
            self._steps = steps_left(card, resumable=(self.run.folder / STATE_FILE).exists())
        except (CheckpointError, RecipeError) as error:
            self._fail(str(error))
            return
        if self._steps:
            self.state, self.note = State.WAITING, "to " + " and ".join(step.name for step in self._steps)
        elif card is not None:
            self.state, self.note = otherwise, _result(card, self.run.recipe)

    def _fail(self, reason: str) -> None:
        self.state, self.note = State.FAILED, reason.removeprefix("error: ")


def _result(card: Card, recipe: Recipe) -> str:
    """The log-likelihood of an evaluated checkpoint, and how its recipe differs from the present one."""
    unit, there = unit_of(card.model.likelihood), card.training.get("recipe")
    found = score(card, unit)
    text = "" if found is None else f"{unit.show(*found)} {unit.name}"
    try:
        change = recipe.change_since(there) if isinstance(there, Mapping) else ""
    except RecipeError as error:
        change = str(error)
    return f"{text}, with another recipe: {change}" if change else text
