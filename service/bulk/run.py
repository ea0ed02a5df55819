"""A bulk run: images are found and scored, and the output and the report are written."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from service.bulk.journal import Journal
from service.bulk.outputs import OUTPUTS, write_output
from service.bulk.report import write_report
from service.bulk.rows import Row, What, columns_of
from service.bulk.scorers import Scorer, Scoring
from service.bulk.scoring import score_all
from service.bulk.sources import SourceError, find_items
from service.images import Target

__all__ = ["Counts", "Plan", "run"]


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Args:
        paths: Images, folders, and files with several images.
        output: Where results go, in the format that its suffix names. The journal lies beside it.
        html: Where the report goes, if one is wanted.
        what: What is computed.
        scoring: Parameters of the scores.
        resize: Stretch images of another size, for models without a preparation.
        invert: Swap dark and light.
        novel_only: Leave images out of the output that are not new to the model.
        column: Column of Parquet files that holds images.
        overwrite: Replace an output that is there, and forget its journal.
    """

    paths: list[Path]
    output: Path
    html: Path | None
    what: What
    scoring: Scoring
    resize: bool
    invert: bool
    novel_only: bool
    column: str | None
    overwrite: bool

    @property
    def journal(self) -> Path:
        """Path of the journal."""
        return self.output.with_name(self.output.name + ".journal")

    def check(self) -> None:
        """Raise `SourceError` for options that contradict each other, or an output that is there."""
        rate = self.scoring.false_alarm_rate
        if self.output.suffix.lower() not in OUTPUTS:
            raise SourceError(f"--output is {self.output}; its suffix must be {', '.join(OUTPUTS)}")
        if self.novel_only and not self.what.novelty:
            raise SourceError("--novel-only needs --what novelty or both")
        if rate is not None and not 0 < rate < 1:
            raise SourceError("--false-alarm-rate must be between 0 and 1")
        if self.html is not None and self.html.resolve() == self.output.resolve():
            raise SourceError("--html and --output are the same file")
        parquet = any(path.suffix.lower() == ".parquet" for path in (self.output, *self.paths))
        if parquet and importlib.util.find_spec("pyarrow") is None:
            raise SourceError("Parquet files need pyarrow; try: pip install pyarrow")
        if self.output.exists() and not self.journal.exists() and not self.overwrite:
            raise SourceError(f"there is a file {self.output} already; --overwrite replaces it")

    def check_model(self, scorer: Scorer) -> None:
        """Raise `SourceError` if the model cannot decide about novelty as the plan wants it."""
        count, rate = scorer.num_calibration, self.scoring.false_alarm_rate
        if count is None or not self.what.novelty:
            return
        if not count:
            raise SourceError(f"{scorer.reference} has no calibration, so only --what loglik can be computed")
        if rate is not None and rate < 1 / (count + 1):
            raise SourceError(
                f"--false-alarm-rate is {rate:g}, but {count:,} calibration images can give no p-value below "
                f"{1 / (count + 1):.2g}"
            )

    def parameters(self, scorer: Scorer) -> dict[str, object]:
        """What results depend on, which a journal keeps."""
        return {
            "model": scorer.reference,
            "what": self.what.value,
            "num_samples": self.scoring.num_samples if self.what.loglik else None,
            "seed": self.scoring.seed,
            "false_alarm_rate": self.scoring.false_alarm_rate,
            "resize": self.resize,
            "invert": self.invert,
        }


@dataclass(frozen=True)
class Counts:
    """How many images were scored, are new to the model, and could not be scored."""

    model: str
    scored: int
    novel: int
    broken: int


async def run(plan: Plan, scorer: Scorer) -> Counts:
    """Score what the journal lacks, then write the output and the report, and delete the journal.

    Raises `SourceError` if there is nothing that could be scored as the plan wants it.
    """
    plan.check_model(scorer)
    items = find_items(plan.paths, scorer.image_shape, plan.column)
    target = Target(scorer.image_shape, scorer.preparation, plan.resize, plan.invert)
    if plan.overwrite:
        plan.journal.unlink(missing_ok=True)
    with Journal(plan.journal, plan.parameters(scorer)) as journal:
        with _progress(len(items), len(journal.done)) as progress:
            (bar,) = progress.task_ids
            await score_all(scorer, items, journal, plan.what, target, lambda count: progress.advance(bar, count))
        rows = (row for row in journal.rows() if not plan.novel_only or row.novel or row.error)
        write_output(plan.output, rows, columns_of(plan.what))
        if plan.html is not None:
            await write_report(plan.html, journal, items, scorer, plan.what, target)
        counts = _counts(scorer.reference, journal.rows())
        journal.delete()
    return counts


def _counts(model: str, rows: Iterable[Row]) -> Counts:
    scored = novel = broken = 0
    for row in rows:
        scored, novel, broken = scored + (row.error is None), novel + bool(row.novel), broken + (row.error is not None)
    return Counts(model, scored, novel, broken)


def _progress(total: int, done: int) -> Progress:
    """A progress bar on standard error; `done` images were scored by an earlier run."""
    console = Console(stderr=True)
    if done:
        console.print(f"continuing: {done:,} of {total:,} images have been scored", highlight=False)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("images"), TimeElapsedColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console)
    progress.add_task("", total=total, completed=done)
    return progress
