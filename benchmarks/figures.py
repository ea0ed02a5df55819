"""The figures by name: one command each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import beside, bulk, http, json_bodies, model, process, profiles, replicas, studio, training
from benchmarks.machine import Options
from benchmarks.novelty.figure import novelty
from benchmarks.results import Result
from benchmarks.small_sets.figure import small_sets
from benchmarks.small_sets.textures import novelty_textures
from benchmarks.soak import soak

__all__ = ["FIGURES", "Figure"]


@dataclass(frozen=True)
class Figure:
    """Something that is measured.

    title: what against what, in a sentence
    run:   does it
    """

    title: str
    run: Callable[[Options], Result]


FIGURES = {
    "loglik-naive": Figure("log p(x) of an image against tiling it", model.against_naive),
    "loglik-products": Figure("log p(x) of an image against its matrix products", model.against_matrix_products),
    "loglik-http": Figure("POST /loglik against the library's call", http.loglik_over_http),
    "loglik-alternatives": Figure("POST /loglik, 16 clients, against other servers", http.loglik_against_alternatives),
    "loglik-alternatives-naive": Figure(
        "POST /loglik, 16 clients, against the naive estimate in other servers", http.loglik_against_naive
    ),
    "sample-alternatives": Figure(
        "POST /sample, 64 clients, against other servers and constant bytes", http.sample_throughput
    ),
    "sample-beside-loglik": Figure("POST /sample while POST /loglik runs without pause", beside.sample_beside_loglik),
    "cache-hit": Figure("POST /sample from Redis against constant bytes", http.cache_hit),
    "replicas": Figure("One replica of the service against two that share its clients and workers", replicas.shared),
    "pixelcnn": Figure("Drawing from a PixelCNN against full passes", model.cached_pixels),
    "bulk-loglik": Figure(
        "Log-likelihoods of many images, python -m service score against the library", bulk.log_likelihoods
    ),
    "bulk-novelty": Figure("Novelty of many images, python -m service score against the library", bulk.novelty),
    "profile-chunk": Figure("Where a chunk of a log-likelihood spends its time", profiles.chunk),
    "profile-processors": Figure("What each process takes of the processors, POST /loglik", profiles.processors),
    "training-step": Figure("A step of training against that of the paper's public code", training.step),
    "training-prior": Figure("What the VampPrior adds to a step of training", training.prior_cost),
    "novelty": Figure("New images told from known ones: POST /novelty against -log p(x) and PyOD", novelty),
    "novelty-textures": Figure(
        "Novel images told from patches of a texture: POST /novelty against -log p(x) and PyOD", novelty_textures
    ),
    "small-sets": Figure("Settings of a training on a few hundred images, changed one at a time", small_sets),
    "training-convolutions": Figure(
        "A step of training with gated convolutions against torch's own layers", training.convolutions
    ),
    "studio-stroke": Figure("A stroke in the studio until it is answered, in Chromium", studio.stroke),
    "start": Figure("From the service's start until it is ready", process.start),
    "soak": Figure("Ordinary and hostile requests at once, 1 GiB of memory for each process", soak),
    "json-bodies": Figure("Hostile JSON bodies of 16 MiB: stalls of the event loop, and memory", json_bodies.bodies),
    "decoding-memory": Figure("Memory while 12 clients send an image of 4 million pixels each", json_bodies.decoding),
    "memory": Figure("Memory of all processes of the service over 10,000 requests", process.memory),
}
