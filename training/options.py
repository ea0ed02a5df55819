"""Options that several commands of `python -m training` take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from training.machine import DeviceChoice

__all__ = ["DataDir", "Device", "RunsDir", "Store", "Threads"]

DataDir = Annotated[
    Path | None,
    typer.Option(help="Where data sets are kept, instead of VAMP_DATA_DIR or a folder of the user's cache."),
]
RunsDir = Annotated[Path, typer.Option(help="Where the state of runs is kept.")]
Store = Annotated[Path, typer.Option(help="Where checkpoints are kept.")]
Device = Annotated[DeviceChoice, typer.Option(help="Where to compute; auto takes a GPU if there is one.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 takes as many as this process may use.")]
