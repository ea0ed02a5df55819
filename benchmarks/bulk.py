"""`python -m service score` in process, against calls of the library on the same images."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import CHECKPOINT, Options
from benchmarks.measure import AtLeast, Claim, ratio, seconds_of, take_turns
from benchmarks.results import Result
from service.bulk.journal import Journal
from service.bulk.rows import What
from service.bulk.scorers import LocalScorer, Scoring, local_scorer
from service.bulk.scoring import score_all
from service.bulk.sources import find_items
from service.images import Target
from service.settings import Settings
from vampprior.calibration import DEFAULT_NAME, read_calibrations
from vampprior.checkpoint import load_checkpoint
from vampprior.heatmap import Prototypes
from vampprior.importance import log_likelihood
from vampprior.latent_model import LatentModel
from vampprior.statistics import image_statistics

__all__ = ["log_likelihoods", "novelty"]

NUM_SAMPLES = 5000
NUM_SCORED, NUM_DECIDED = 32, 2048


def log_likelihoods(options: Options) -> Result:
    """Log-likelihoods of 32 images."""

    def library(model: LatentModel) -> Callable[[Tensor], object]:
        mixture = model.prior_mixture()
        return lambda x: log_likelihood(model, x, num_samples=NUM_SAMPLES, mixture=mixture)

    return _compare(options, library, What.LOGLIK, NUM_SCORED)


def novelty(options: Options) -> Result:
    """Decisions on 2,048 images, with the prototypes that explain each."""

    def library(model: LatentModel) -> Callable[[Tensor], object]:
        _, card = load_checkpoint(CHECKPOINT)
        calibration = read_calibrations(CHECKPOINT, card)[DEFAULT_NAME]
        mixture = model.prior_mixture()
        prototypes = Prototypes.of(model, mixture)

        def decide(x: Tensor) -> object:
            generator = torch.Generator().manual_seed(0)
            statistics = image_statistics(model, x, generator=generator, mixture=mixture)
            return calibration.decide(statistics), prototypes.explain(x)

        return decide

    return _compare(options, library, What.NOVELTY, NUM_DECIDED)


def _compare(
    options: Options, library: Callable[[LatentModel], Callable[[Tensor], object]], what: What, num_images: int
) -> Result:
    """Both on images drawn from the model. The start of the processes and the load of the model are left out."""
    torch.set_num_threads(options.threads)
    model, card = load_checkpoint(CHECKPOINT)
    images = model.sample(num_images, generator=torch.Generator().manual_seed(0)).round()
    settings = Settings(
        model_store=CHECKPOINT.parents[1], default_model=f"{card.name}@{card.version}", workers=options.threads
    )
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        path = Path(folder) / "images.npy"
        np.save(path, images.numpy())
        opened = local_scorer(settings, Scoring(NUM_SAMPLES, 0, None))
        scorer = runner.run(opened.__aenter__())
        try:
            times = take_turns(
                {
                    "library": seconds_of(_without_gradients(library(model), images)),
                    "bulk": seconds_of(lambda: runner.run(_score(scorer, path, what))),
                },
                rounds=options.rounds,
                unit="s",
            )
        finally:
            runner.run(opened.__aexit__(None, None, None))
    speed = ratio("speed of the library", times["library"], times["bulk"])
    return Result([*times.values()], [Claim(speed, AtLeast(0.9))], {"images": num_images, "num_samples": NUM_SAMPLES})


def _without_gradients(call: Callable[[Tensor], object], images: Tensor) -> Callable[[], object]:
    def run() -> object:
        with torch.inference_mode():
            return call(images)

    return run


async def _score(scorer: LocalScorer, path: Path, what: What) -> None:
    """Everything that the command does with the images, but for the output."""
    items = find_items([path], scorer.image_shape)
    with Journal(path.with_suffix(".journal"), {}) as journal:
        target = Target(scorer.image_shape, scorer.preparation, resize=False, invert=False)
        await score_all(scorer, items, journal, what, target, lambda _: None)
        assert len(journal.done) == len(items)
        assert not any(row.error for row in journal.rows())
        journal.delete()
