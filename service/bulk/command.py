"""`python -m service score`: score many images; resumable, with broken images named in the output."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from service.bulk.journal import Journal
from service.bulk.outputs import OUTPUTS, write_output
from service.bulk.report import write_report
from service.bulk.rows import Row, What, columns_of
from service.bulk.scorers import Scorer, Scoring, local_scorer, remote_scorer
from service.bulk.scoring import Preparation, score_all
from service.bulk.sources import SourceError, find_items
from service.errors import Problem
from service.settings import SettingsError, load_settings
from vampprior_client import ClientError, RequestError

__all__ = ["app"]

BROKEN, REFUSED, STOPPED, INTERRUPTED = 1, 2, 3, 130
"""Exit status: some images could not be scored; the command cannot run; the run ended early; Ctrl-C."""

app = typer.Typer(name="python -m service", add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Without a command: serve the model store over HTTP."""


@app.command()
def score(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...", help="Images, folders, .npy, .npz and .parquet files, and .txt lists of paths."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Where results go: .csv, .jsonl or .parquet.")] = Path("scores.csv"),
    what: Annotated[What, typer.Option(help="What is computed for each image.")] = What.BOTH,
    url: Annotated[str, typer.Option(help="Service that computes; without one, this machine does.")] = "",
    api_key: Annotated[str, typer.Option(envvar="VAMPPRIOR_API_KEY", help="Key of the service.")] = "",
    model: Annotated[str, typer.Option(help="name or name@version, instead of the default model.")] = "",
    num_samples: Annotated[int, typer.Option(min=1, help="Importance samples of a log-likelihood.")] = 5000,
    seed: Annotated[int, typer.Option(min=0, max=2**53 - 1, help="The same seed gives the same results.")] = 0,
    false_alarm_rate: Annotated[
        float | None, typer.Option(help="Share of known images that may be called new; 0.01 if left out.")
    ] = None,
    novel_only: Annotated[
        bool, typer.Option("--novel-only", help="Write only images that are new to the model, and broken ones.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Where to write a report, a page that needs no other file.")] = None,
    column: Annotated[str | None, typer.Option(help="Column of Parquet files that holds image files.")] = None,
    resize: Annotated[bool, typer.Option("--resize", help="Fit images of another size to the model's.")] = False,
    invert: Annotated[bool, typer.Option("--invert", help="Swap dark and light.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an output that is there, and begin anew.")
    ] = False,
) -> None:
    """Score images, with a service or on this machine; both give the same results.

    After a kill, the same command continues: results are kept in OUTPUT.journal until the output is complete.

    Exit status: 0 if all images were scored, 1 if some could not be (the column "error" says why), 2 if the command
    cannot run, and 3 if the run ended early.
    """
    scoring = Scoring(num_samples, seed, false_alarm_rate)
    journal_path = output.with_name(output.name + ".journal")
    try:
        _check(output, html, what, novel_only, false_alarm_rate, paths)
        if output.exists() and not journal_path.exists() and not overwrite:
            raise SourceError(f"there is a file {output} already; --overwrite replaces it")
        if overwrite:
            journal_path.unlink(missing_ok=True)

        async def run() -> Counter[str]:
            async with _scorer(url, api_key, model, scoring) as scorer:
                _check_calibration(scorer, what, false_alarm_rate)
                items = find_items(paths, scorer.image_shape, column)
                parameters = {
                    "model": scorer.reference,
                    "what": what.value,
                    "num_samples": num_samples if what.loglik else None,
                    "seed": seed,
                    "false_alarm_rate": false_alarm_rate,
                    "resize": resize,
                    "invert": invert,
                }
                preparation = Preparation(resize, invert)
                with Journal(journal_path, parameters) as journal:
                    with _progress(len(items), len(journal.done)) as progress:
                        (task,) = progress.task_ids
                        await score_all(scorer, items, journal, what, preparation, lambda n: progress.advance(task, n))
                    rows = (row for row in journal.rows() if not novel_only or row.novel or row.error)
                    write_output(output, rows, columns_of(what))
                    if html is not None:
                        await write_report(html, journal, items, scorer, what, preparation)
                    counts = _counts(journal.rows())
                    counts["model " + scorer.reference] += 1
                    journal.delete()
            return counts

        counts = asyncio.run(run())
    except (SourceError, SettingsError, RequestError) as error:
        _end(REFUSED, str(error))
    except KeyboardInterrupt:
        _end(INTERRUPTED, "interrupted; the same command continues")
    except (ClientError, Problem, OSError) as error:
        _end(STOPPED, f"{error}; the same command continues")
    _say(counts, output, html, what)
    raise typer.Exit(BROKEN if counts["broken"] else 0)


def _check(
    output: Path, html: Path | None, what: What, novel_only: bool, false_alarm_rate: float | None, paths: list[Path]
) -> None:
    """Raise `SourceError` for options that cannot be."""
    if output.suffix.lower() not in OUTPUTS:
        raise SourceError(f"--output is {output}; its suffix must be {', '.join(OUTPUTS)}")
    if novel_only and not what.novelty:
        raise SourceError("--novel-only needs --what novelty or both")
    if false_alarm_rate is not None and not 0 < false_alarm_rate < 1:
        raise SourceError("--false-alarm-rate must be between 0 and 1")
    if html is not None and html.resolve() == output.resolve():
        raise SourceError("--html and --output are the same file")
    parquet = any(path.suffix.lower() == ".parquet" for path in (output, *paths))
    if parquet and importlib.util.find_spec("pyarrow") is None:
        raise SourceError("Parquet files need pyarrow; try: pip install pyarrow")


def _check_calibration(scorer: Scorer, what: What, false_alarm_rate: float | None) -> None:
    """Raise `SourceError` if the model cannot decide about novelty as the options ask."""
    count = scorer.num_calibration
    if count is None or not what.novelty:
        return
    if not count:
        raise SourceError(f"{scorer.reference} has no calibration, so only --what loglik can be computed")
    if false_alarm_rate is not None and false_alarm_rate < 1 / (count + 1):
        raise SourceError(
            f"--false-alarm-rate is {false_alarm_rate:g}, but {count:,} calibration images can give no p-value below "
            f"{1 / (count + 1):.2g}"
        )


@contextlib.asynccontextmanager
async def _scorer(url: str, api_key: str, model: str, scoring: Scoring) -> AsyncIterator[Scorer]:
    if url:
        async with remote_scorer(url, api_key or None, model or None, scoring) as remote:
            yield remote
    else:
        async with local_scorer(load_settings(**{"default_model": model} if model else {}), scoring) as local:
            yield local


def _progress(total: int, done: int) -> Progress:
    """A progress bar on standard error; `done` images were scored by an earlier run."""
    console = Console(stderr=True)
    if done:
        console.print(f"continuing: {done:,} of {total:,} images have been scored", highlight=False)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("images"), TimeElapsedColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console)
    progress.add_task("", total=total, completed=done)
    return progress


def _counts(rows: Iterator[Row]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for row in rows:
        counts["broken" if row.error else "scored"] += 1
        counts["novel"] += bool(row.novel)
    return counts


def _say(counts: Counter[str], output: Path, html: Path | None, what: What) -> None:
    """Print what was done, in one line."""
    (model,) = [name.removeprefix("model ") for name in counts if name.startswith("model ")]
    parts = [f"{counts['scored']:,} images scored by {model}"]
    if what.novelty:
        parts.append(f"{counts['novel']:,} new to it")
    if counts["broken"]:
        parts.append(f"{counts['broken']:,} could not be scored")
    print(f"{', '.join(parts)}: {output}" + (f", {html}" if html else ""))


def _end(status: int, message: str) -> NoReturn:
    print(f"score: {message}", file=sys.stderr)
    raise typer.Exit(status)
