"""The figure `novelty-textures`: detectors of new images on small sets of texture patches."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.machine import Options
from benchmarks.measure import Series
from benchmarks.novelty.comparison import FALSE_ALARM_RATE, OURS, RESAMPLES, Comparison, compare
from benchmarks.novelty.detectors import (
    PCA_VARIANCE,
    Detector,
    LogLikelihoodDetector,
    NoveltyDetector,
    OfPyOD,
    pyod_detectors,
)
from benchmarks.results import Result, Table
from benchmarks.small_sets.figure import BASE, STEPS, recipe_of
from benchmarks.small_sets.scratches import with_scratches
from benchmarks.small_sets.sets import SETS, TEXTURES
from training.calibrate import calibrate_by_default
from training.calibration import validation_images
from training.data import Dataset
from training.runs import Run

__all__ = ["novelty_textures"]

SEED = 0


def novelty_textures(options: Options) -> Result:
    """Train a model on one half of each texture, and let the detectors judge the other half and novel images."""
    torch.set_num_threads(options.threads)
    datasets = {name: SETS[name]() for name in TEXTURES}
    means, tables = [], []
    with threadpool_limits(options.threads):
        for name in TEXTURES:
            comparison = _compare(name, datasets, options)
            tables.append(Table(_title(name, datasets[name]), comparison.header(), comparison.lines()))
            means += [
                Series(f"{name}: mean AUROC, {detector}", "", [float(comparison.mean_auroc(detector)[0])])
                for detector in comparison.auroc
            ]
    return Result(means, [], {"seed": SEED, "steps": STEPS["hvae"], "resamples": RESAMPLES}, tables)


def _compare(name: str, datasets: dict[str, Dataset], options: Options) -> Comparison:
    dataset, random = datasets[name], np.random.default_rng(SEED)
    known = dataset.test[:, 0]
    sets = {other: datasets[other].test[:, 0] for other in TEXTURES if other != name}
    sets["scratches"] = with_scratches(known, random)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = _train(dataset, Path(folder))
        detectors: dict[str, Detector] = {
            OURS: NoveltyDetector(checkpoint, SEED),
            "-log p(x)": LogLikelihoodDetector(checkpoint, SEED),
        }
    for title, detector in pyod_detectors(SEED, options.threads).items():
        detectors[title] = OfPyOD(detector, dataset.train[:, 0], dataset.valid[:, 0])
    return compare(detectors, known, sets, random)


def _train(dataset: Dataset, folder: Path) -> Path:
    """Train and calibrate a model with the base settings of the figure `small-sets`; the folder of its checkpoint."""
    device = torch.device("cpu")
    run = Run(recipe_of(dataset, BASE), "1", runs=folder / "runs", store=folder / "store")
    with run.locked():
        trainer = run.start(dataset, device)
        run.fit(trainer, [])
        run.export(trainer)
    calibrate_by_default(run.checkpoint, validation_images(dataset), device)
    return run.checkpoint


def _title(name: str, dataset: Dataset) -> str:
    return (
        f"{name}, {len(dataset.test)} patches of its right half against novel images: AUROC [95 % interval of "
        f"{RESAMPLES:,} bootstrap resamples], and share of the set that is missed at {FALSE_ALARM_RATE:.0%} false "
        f"alarms. The model and PyOD's detectors (default settings, but PCA takes components of {PCA_VARIANCE:.0%} of "
        f"the variance) are fitted to {len(dataset.train)} patches of the left half, and calibrated on "
        f"{len(dataset.valid)} others of it."
    )
