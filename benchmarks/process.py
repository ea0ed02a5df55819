"""Figures of the service as a whole: how soon it is ready, and how much memory its processes take."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.contestants import SAMPLE, SERVICE, loglik, services
from benchmarks.load import Request, load
from benchmarks.machine import DIGIT, Options
from benchmarks.measure import AtMost, Claim, Series
from benchmarks.results import Result
from benchmarks.servers import Server, running

__all__ = ["memory", "start"]

REQUESTS, STAGES, CLIENTS = 10_000, 10, 8
CACHE_BYTES = 1_000_000  # the default of 64 MiB would fill up during the figure and look like growth
MIXED = [
    SAMPLE,
    Request("/sample?n=16&mode=draw&seed={seed}", answer=SAMPLE.answer),
    loglik(500),
    Request("/reconstruct?mode=draw&seed={seed}", content_type="image/png", body=f"@{DIGIT}", answer=SAMPLE.answer),
    Request("/encode?top=5", content_type="image/png", body=f"@{DIGIT}", answer=b"posterior"),
    Request("/pseudo-inputs/{k}", method="GET", answer=SAMPLE.answer),
    Request("/pseudo-inputs?limit=100", method="GET", answer=SAMPLE.answer),
    Request("/sample?n=256&scale=8&seed={seed}", answer=SAMPLE.answer),
]


def start(options: Options) -> Result:
    """Time from the start of the service until it is ready with all models."""
    series = {server.name: Series(f"{server.name}, start to ready", "s", []) for server in services(options)}
    for _ in range(options.rounds):
        for server in services(options):
            with running(server, options) as started:
                series[server.name].values.append(started.start_seconds)
    return Result([*series.values()], [Claim(series[SERVICE.name], AtMost(3.5))])


def memory(options: Options) -> Result:
    """Memory of all processes once ready, and after each tenth of 10,000 requests of every kind."""
    held = {server.name: _memory_under_load(server, options) for server in services(options)}
    growth = {
        name: Series(f"{name}, growth over the second half", "MB", [mb[-1] - mb[STAGES // 2]])
        for name, mb in held.items()
    }
    ready, last = held[SERVICE.name][0], held[SERVICE.name][-1]
    return Result(
        [
            *(Series(f"{name}, ready and after each tenth", "MB", values) for name, values in held.items()),
            *growth.values(),
        ],
        [
            Claim(Series("memory when ready", "MB", [ready]), AtMost(550.0)),
            Claim(Series("memory after all requests", "MB", [last]), AtMost(550.0)),
            Claim(growth[SERVICE.name], AtMost(10.0)),
        ],
        {"requests": REQUESTS, "clients": CLIENTS, "kinds": len(MIXED), "cache_bytes": CACHE_BYTES},
    )


def _memory_under_load(server: Server, options: Options) -> list[float]:
    """Memory in 10^6 bytes, once ready and after each tenth of the requests."""
    small_cache = {**server.environment, "VAMP_CACHE_MEMORY_BYTES": str(CACHE_BYTES)}
    with running(replace(server, environment=small_cache), options) as service:
        held, answered = [service.memory_mb()], 0
        for stage in range(1, STAGES + 1):
            while answered < REQUESTS * stage / STAGES:
                answered += load(service.url, MIXED, clients=CLIENTS, seconds=options.seconds).requests
            held.append(service.memory_mb())
    return held
