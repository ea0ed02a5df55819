"""`python -m training sweep`: the paper's experiments, or any recipes, several at a time, to be stopped at any time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from training.catalogue import SHAPE
from training.machine import DeviceChoice, prepare
from training.options import DataDir, Device, RunsDir, Store, Threads
from training.recipe import RecipeError
from training.sweep.display import overview, show_sweep
from training.sweep.jobs import LOG_FILE, Job, State
from training.sweep.lists import LISTS, expand
from training.sweep.runner import Interruptions, run_jobs
from training.sweep.steps import Options

__all__ = ["sweep"]

JOBS_ON_GPU = 4
"""A single one of these small networks leaves most of a GPU idle."""


def sweep(
    what: Annotated[
        list[str], typer.Argument(help=f"{', '.join(LISTS)}, or recipes: {SHAPE}, or paths of .toml files.")
    ],
    jobs: Annotated[
        int | None, typer.Option(min=1, help=f"Recipes at a time; without it {JOBS_ON_GPU} on a GPU and 1 on a CPU.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    num_samples: Annotated[int, typer.Option(min=2, help="Importance samples a test image.")] = 5000,
    max_images: Annotated[int | None, typer.Option(min=2, help="Score so many test images, drawn at random.")] = None,
    version: Annotated[str, typer.Option(help="Version of the checkpoints.")] = "1",
    seed: Annotated[int | None, typer.Option(help="Seed of training, to use instead of the recipes'.")] = None,
    data_dir: DataDir = None,
    runs_dir: RunsDir = Path("runs"),
    store: Store = Path("model_store"),
    device: Device = DeviceChoice.AUTO,
    threads: Threads = 0,
) -> None:
    """Train and evaluate many recipes, several at a time. Ctrl-C stops it; the same command goes on.

    What has an evaluated checkpoint is skipped, and one that fails does not
    stop the others. Those that run at a time share the threads. What they
    print is in <runs>/<name>/<version>/log.txt.
    """
    machine = prepare(device, threads)
    at_once = jobs or (JOBS_ON_GPU if machine.type == "cuda" else 1)
    options = Options(
        version=version,
        runs=runs_dir,
        store=store,
        data_dir=data_dir,
        device=device,
        threads=max(1, torch.get_num_threads() // at_once),
        num_samples=num_samples,
        max_images=max_images,
        seed=seed,
    )
    chosen = [Job(recipe, options) for recipe in expand(what)]
    _check_names(chosen)
    console = Console(markup=False, width=None if sys.stdout.isatty() else 200)
    if not dry_run:
        try:
            with Interruptions.counted() as asked, show_sweep(console) as show:
                run_jobs(chosen, at_once, asked, show)
        except KeyboardInterrupt:
            print("interrupted: the same command goes on", file=sys.stderr)
            raise typer.Exit(130) from None
    console.print(overview(chosen, most=len(chosen)))
    _report_failures(chosen)


def _check_names(jobs: list[Job]) -> None:
    """Raise `RecipeError` if two recipes would write into one folder."""
    names = [job.name for job in jobs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise RecipeError(f"two recipes are named {twice[0]!r}; give each a name of its own")


def _report_failures(jobs: list[Job]) -> None:
    if failed := [job for job in jobs if job.state is State.FAILED]:
        print(
            f"{len(failed)} of {len(jobs)} failed; what they printed is in {LOG_FILE} of their runs:", file=sys.stderr
        )
        for job in failed:
            print(f"  {job.name}: {job.note}", file=sys.stderr)
        raise typer.Exit(1)
