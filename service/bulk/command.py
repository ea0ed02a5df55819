"""`python -m service score`: score many images; resumable, with broken images named in the output."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from service.bulk.rows import What
from service.bulk.run import Counts, Plan, run
from service.bulk.scorers import Scorer, Scoring, local_scorer, remote_scorer
from service.bulk.sources import SourceError
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
    resize: Annotated[
        bool, typer.Option("--resize", help="Stretch images of another size, for models whose card has no preparation.")
    ] = False,
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
    plan = Plan(
        paths=paths,
        output=output,
        html=html,
        what=what,
        scoring=Scoring(num_samples, seed, false_alarm_rate),
        resize=resize,
        invert=invert,
        novel_only=novel_only,
        column=column,
        overwrite=overwrite,
    )

    async def score_plan() -> Counts:
        async with _scorer(url, api_key, model, plan.scoring) as scorer:
            return await run(plan, scorer)

    try:
        plan.check()
        counts = asyncio.run(score_plan())
    except (SourceError, SettingsError, RequestError) as error:
        _end(REFUSED, str(error))
    except KeyboardInterrupt:
        _end(INTERRUPTED, "interrupted; the same command continues")
    except (ClientError, Problem, OSError) as error:
        _end(STOPPED, f"{error}; the same command continues")
    _say(counts, plan)
    raise typer.Exit(BROKEN if counts.broken else 0)


@contextlib.asynccontextmanager
async def _scorer(url: str, api_key: str, model: str, scoring: Scoring) -> AsyncIterator[Scorer]:
    if url:
        async with remote_scorer(url, api_key or None, model or None, scoring) as remote:
            yield remote
    else:
        async with local_scorer(load_settings(**{"default_model": model} if model else {}), scoring) as local:
            yield local


def _say(counts: Counts, plan: Plan) -> None:
    """Print what was done, in one line."""
    parts = [f"{counts.scored:,} {'image' if counts.scored == 1 else 'images'} scored by {counts.model}"]
    if plan.what.novelty:
        parts.append(f"{counts.novel:,} new to it")
    if counts.broken:
        parts.append(f"{counts.broken:,} could not be scored")
    print(f"{', '.join(parts)}: {plan.output}" + (f", {plan.html}" if plan.html else ""))


def _end(status: int, message: str) -> NoReturn:
    print(f"score: {message}", file=sys.stderr)
    raise typer.Exit(status)
