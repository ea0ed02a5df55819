"""The figure `novelty`: detectors of new images on the shipped models of the paper's data sets."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.machine import ROOT, Options
from benchmarks.measure import AtLeast, Claim, Series, seconds_of, take_turns
from benchmarks.novelty.comparison import FALSE_ALARM_RATE, OURS, RESAMPLES, compare
from benchmarks.novelty.detectors import (
    PCA_VARIANCE,
    Detector,
    LogLikelihoodDetector,
    NoveltyDetector,
    OfPyOD,
    pyod_detectors,
)
from benchmarks.results import Result, Table
from training.checkpoints import dataset_of, find_checkpoint
from training.data import DATASETS, Dataset, data_directory
from training.report.novel_sets import altered_sets, choose, foreign_sets
from vampprior.card import read_card
from vampprior.likelihoods import LIKELIHOODS

__all__ = ["novelty"]

MAX_TRAIN = 10_000
"""Most training images that a detector of PyOD is fitted to."""
MAX_IMAGES = 1_000
"""Most images of a set, of the known images, and of the validation images that calibrate a detector of PyOD."""
TIMED_IMAGES = 200
SEED = 0


@dataclass(frozen=True)
class Contest:
    """A shipped model.

    title:      of its data set
    checkpoint: `name@version`
    dataset:    name of its data set
    target:     mean AUROC that the service's score must reach
    margin:     rows and columns along the border in which no hole lies
    """

    title: str
    checkpoint: str
    dataset: str
    target: float
    margin: int = 0


CONTESTS = (
    Contest("static MNIST", "static_mnist-hvae-vampprior@3", "static_mnist", 0.97, margin=4),
    Contest("Caltech 101 Silhouettes", "caltech101_silhouettes-hvae-vampprior@3", "caltech101_silhouettes", 0.84),
    Contest("Frey Faces", "frey_faces_1-hvae-vampprior@2", "frey_faces_1", 0.985),
)


def novelty(options: Options) -> Result:
    """Compare the detectors on each model whose data set is available; raises `LookupError` if none is."""
    directory = data_directory()
    available = [contest for contest in CONTESTS if DATASETS[contest.dataset].is_available(directory)]
    if not available:
        raise LookupError(f"none of {', '.join(contest.dataset for contest in CONTESTS)} is in {directory}")
    torch.set_num_threads(options.threads)
    started = time.perf_counter()
    with threadpool_limits(options.threads):
        results = [_run(contest, directory, options) for contest in available]
    settings = {
        "seed": SEED,
        "training_images": MAX_TRAIN,
        "images_per_set": MAX_IMAGES,
        "timed_images": TIMED_IMAGES,
        "resamples": RESAMPLES,
        "minutes": round((time.perf_counter() - started) / 60, 1),
    }
    return Result(
        [series for result in results for series in result.series],
        [claim for result in results for claim in result.claims],
        settings,
        [table for result in results for table in result.tables],
    )


def _run(contest: Contest, directory: Path, options: Options) -> Result:
    folder = find_checkpoint(contest.checkpoint, ROOT / "model_store")
    card, random = read_card(folder), np.random.default_rng(SEED)
    dataset, binary = dataset_of(card, directory), LIKELIHOODS[card.model.likelihood].binary
    known = choose(dataset.gray("test")[:, 0], MAX_IMAGES, random)
    sets = foreign_sets(contest.dataset, known.shape[1:], binary, MAX_IMAGES, directory, random)
    sets |= altered_sets(known, binary, random, contest.margin)
    detectors = _detectors(folder, dataset, random, options)
    comparison = compare(detectors, known, sets, random)
    timed = known[:TIMED_IMAGES]
    seconds = take_turns(
        {name: seconds_of(lambda detector=detector: detector.judge(timed)) for name, detector in detectors.items()},
        rounds=options.rounds,
        unit="s",
    )
    times = [
        Series(f"{contest.title}: time per image, {name}", "ms", [1000 * value / len(timed) for value in taken.values])
        for name, taken in seconds.items()
    ]
    lines = [*comparison.lines(), ["time per image", *(f"{item.median:.3g} ms" for item in times), ""]]
    fitted = min(MAX_TRAIN, len(dataset.train))
    title = (
        f"{contest.title} ({contest.checkpoint}), {len(known):,} test images against at most {MAX_IMAGES:,} images of "
        f"each set: AUROC [95 % interval of {RESAMPLES:,} bootstrap resamples], and share of the set that is missed at "
        f"{FALSE_ALARM_RATE:.0%} false alarms. {_describe(fitted, len(dataset.train))} The AUROC decides who wins."
    )
    mean = Series(f"{contest.title}: mean AUROC, {OURS}", "", [float(comparison.mean_auroc(OURS)[0])])
    return Result(times, [Claim(mean, AtLeast(contest.target))], tables=[Table(title, comparison.header(), lines)])


def _describe(fitted: int, there: int) -> str:
    some = (
        f"{fitted:,} of the model's {there:,} training images" if fitted < there else f"the {there:,} training images"
    )
    return (
        f"PyOD's detectors have their default settings, but PCA takes components of {PCA_VARIANCE:.0%} of the "
        f"variance; they are fitted to {some}, and calibrated on at most {MAX_IMAGES:,} validation images. "
        f"{OURS.capitalize()} and -log p(x) are calibrated on all validation images."
    )


def _detectors(folder: Path, dataset: Dataset, random: np.random.Generator, options: Options) -> dict[str, Detector]:
    train = choose(dataset.gray("train")[:, 0], MAX_TRAIN, random)
    valid = choose(dataset.gray("valid")[:, 0], MAX_IMAGES, random)
    detectors: dict[str, Detector] = {
        OURS: NoveltyDetector(folder, SEED),
        "-log p(x)": LogLikelihoodDetector(folder, SEED),
    }
    for name, detector in pyod_detectors(SEED, options.threads).items():
        start = time.perf_counter()
        detectors[name] = OfPyOD(detector, train, valid)
        print(f"{folder.parent.name}: {name} is fitted, {time.perf_counter() - start:.0f} s", flush=True)
    return detectors
