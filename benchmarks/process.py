"""Figures of the service's process: how soon it answers, and how much memory it holds."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.contestants import SAMPLE, SERVICE, loglik
from benchmarks.load import Request, load
from benchmarks.machine import DIGIT, Options
from benchmarks.measure import AtMost, Claim, Series
from benchmarks.results import Result
from benchmarks.servers import running

__all__ = ["memory", "start"]

REQUESTS, STAGES, CLIENTS = 10_000, 10, 8
CACHE_BYTES = 1_000_000  # with the default, 64 MiB, its filling would be what is seen


def start(options: Options) -> Result:
    """From the start of the process until it is ready."""
    seconds = []
    for _ in range(options.rounds):
        with running(SERVICE, options) as server:
            seconds.append(server.start_seconds)
    series = Series("start to ready", "s", seconds)
    return Result([series], [Claim(series, AtMost(4.0))])


def memory(options: Options) -> Result:
    """Resident memory once ready, and after each tenth of 10,000 requests of every kind."""
    mixed = [
        SAMPLE,
        Request("/sample?n=16&mode=draw&seed={seed}", answer=SAMPLE.answer),
        loglik(500),
        Request("/reconstruct?mode=draw&seed={seed}", content_type="image/png", body=f"@{DIGIT}", answer=SAMPLE.answer),
        Request("/encode?top=5", content_type="image/png", body=f"@{DIGIT}", answer=b"posterior"),
        Request("/pseudo-inputs/{k}", method="GET", answer=SAMPLE.answer),
        Request("/pseudo-inputs?limit=100", method="GET", answer=SAMPLE.answer),
        Request("/sample?n=256&scale=8&seed={seed}", answer=SAMPLE.answer),
    ]
    small_cache = {**SERVICE.environment, "VAMP_CACHE_MEMORY_BYTES": str(CACHE_BYTES)}
    with running(replace(SERVICE, environment=small_cache), options) as server:
        held, answered = [server.resident_mb()], 0
        for stage in range(1, STAGES + 1):
            while answered < REQUESTS * stage / STAGES:
                answered += load(server.url, mixed, clients=CLIENTS, seconds=options.seconds).requests
            held.append(server.resident_mb())
    first, last = held[0], held[-1]
    growth = Series("growth over the second half", "MB", [last - held[STAGES // 2]])
    return Result(
        [Series("resident, ready and after each tenth", "MB", held), growth],
        [
            Claim(Series("resident when ready", "MB", [first]), AtMost(600.0)),
            Claim(Series("resident after all requests", "MB", [last]), AtMost(600.0)),
            Claim(growth, AtMost(10.0)),
        ],
        {"requests": answered, "clients": CLIENTS, "kinds": len(mixed), "cache_bytes": CACHE_BYTES},
    )
