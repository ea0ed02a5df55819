"""Figures of the service under load, against other servers and against the library."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

from benchmarks import model
from benchmarks.contestants import (
    CONSTANT,
    NAIVE_SCORERS,
    SAMPLE,
    SAMPLERS,
    SCORERS,
    SERVICE,
    Contestant,
    loglik,
    services,
)
from benchmarks.load import Answers, LoadError, Request, ask, load
from benchmarks.loads import Loads
from benchmarks.machine import Options
from benchmarks.measure import AtLeast, AtMost, Claim, Series, ratio, seconds_of
from benchmarks.results import Result
from benchmarks.servers import redis, running
from vampprior.importance import log_likelihood

__all__ = [
    "cache_hit",
    "loglik_against_alternatives",
    "loglik_against_naive",
    "loglik_over_http",
    "sample_throughput",
]

SAMPLE_CLIENTS, LOGLIK_CLIENTS = 64, 16


def sample_throughput(options: Options) -> Result:
    """Samples of one image to many clients, against other servers and an endpoint that computes nothing."""
    contestants = [*_contestants(SAMPLE, options), CONSTANT, *SAMPLERS]
    loads = _load_in_turn(contestants, SAMPLE_CLIENTS, options)
    ours, constant = loads[SERVICE.name], loads[CONSTANT.name]
    others = [loads[sampler.name] for sampler in SAMPLERS]
    fastest = max(others, key=lambda one: one.throughput.median)
    soonest = min(others, key=lambda one: one.p99.median)
    claims = [
        Claim(ratio(f"throughput over that of {fastest.name}", ours.throughput, fastest.throughput), AtLeast(3.5)),
        Claim(ratio(f"throughput over that of {constant.name}", ours.throughput, constant.throughput), AtLeast(0.8)),
        Claim(ratio(f"p99 over that of {soonest.name}", ours.p99, soonest.p99), AtMost(1.0)),
        Claim(ours.p99, AtMost(20.0)),
        *_over_former(loads, AtLeast(1.5), options),
    ]
    return Result(_series(loads), claims, {"clients": SAMPLE_CLIENTS})


def loglik_against_alternatives(options: Options) -> Result:
    """Log-likelihoods to several clients at once, against other servers that call the same library function."""
    return _loglik_against(SCORERS, AtLeast(1.3), options)


def loglik_against_naive(options: Options) -> Result:
    """The same against other servers that make the naive estimate."""
    return _loglik_against(NAIVE_SCORERS, AtLeast(10.0), options)


def _loglik_against(scorers: Sequence[Contestant], target: AtLeast, options: Options) -> Result:
    loads = _load_in_turn([*_contestants(loglik(), options), *scorers], LOGLIK_CLIENTS, options)
    ours = loads[SERVICE.name]
    best = max((loads[scorer.name] for scorer in scorers), key=lambda one: one.throughput.median)
    claims = [
        Claim(ratio(f"throughput over that of {best.name}", ours.throughput, best.throughput), target),
        *_over_former(loads, AtLeast(1.2), options),
    ]
    return Result(_series(loads), claims, {"clients": LOGLIK_CLIENTS, "num_samples": 500})


def loglik_over_http(options: Options) -> Result:
    """A log-likelihood over HTTP against the same call of the library, which is given the prior as the service is."""
    hvae, x = model.load_model_and_image(options)
    mixture = hvae.prior_mixture()
    call = seconds_of(lambda: log_likelihood(hvae, x, num_samples=model.NUM_SAMPLES, mixture=mixture))
    calls: list[float] = []
    loads = {server.name: Loads(server.name) for server in services(options)}
    for _ in range(options.rounds):
        for contestant in _contestants(loglik(model.NUM_SAMPLES), options):
            loads[contestant.name].answers.append(_load(contestant, 1, options))
        calls.append(1e3 * statistics.median(_as_long_as(options.seconds, call)))
    ours, direct = loads[SERVICE.name], Series("library, median", "ms", calls)
    overhead = ratio("p50 over the library's time", ours.p50, direct)
    settings = {"clients": 1, "num_samples": model.NUM_SAMPLES}
    return Result([*_series(loads), direct], [Claim(overhead, AtMost(1.05))], settings)


def cache_hit(options: Options) -> Result:
    """An answer from Redis to one client, against an endpoint that computes nothing."""
    cached = replace(SAMPLE, target="/sample?pseudo_input=42&seed=1")
    loads = {server.name: Loads(f"{server.name}, hit in Redis") for server in services(options)}
    loads[CONSTANT.name] = Loads(CONSTANT.name)
    with ExitStack() as stack:
        urls = {}
        for server in services(options):
            environment = {**server.environment, "VAMP_CACHE_URL": stack.enter_context(redis())}
            urls[server.name] = stack.enter_context(running(replace(server, environment=environment), options)).url
            ask(urls[server.name], cached)
            if ask(urls[server.name], cached).get("x-cache") != "hit":
                raise LoadError(f"{server.name} does not have the answer in Redis")
        urls[CONSTANT.name] = stack.enter_context(running(CONSTANT.server, options)).url
        for _ in range(options.rounds):
            for name, found in loads.items():
                found.answers.append(load(urls[name], [cached], clients=1, seconds=options.seconds))
    claim = ratio("p50 over that of constant bytes", loads[SERVICE.name].p50, loads[CONSTANT.name].p50)
    return Result(_series(loads), [Claim(claim, AtMost(1.5))], {"clients": 1})


def _contestants(request: Request, options: Options) -> list[Contestant]:
    return [Contestant(server, request) for server in services(options)]


def _load_in_turn(contestants: Sequence[Contestant], clients: int, options: Options) -> dict[str, Loads]:
    """Load each contestant once a round, with no other running: some keep a processor busy even when idle."""
    loads = {contestant.name: Loads(contestant.name) for contestant in contestants}
    for _ in range(options.rounds):
        for contestant in contestants:
            loads[contestant.name].answers.append(_load(contestant, clients, options))
    return loads


def _load(contestant: Contestant, clients: int, options: Options) -> Answers:
    with running(contestant.server, options) as server:
        return load(server.url, [contestant.request], clients=clients, seconds=options.seconds)


def _over_former(loads: Mapping[str, Loads], target: AtLeast, options: Options) -> list[Claim]:
    """The service's throughput over that of the former release, if there is one."""
    if options.former is None:
        return []
    ours, former = loads[SERVICE.name], loads[options.former.name]
    return [Claim(ratio(f"throughput over that of {former.name}", ours.throughput, former.throughput), target)]


def _series(loads: Mapping[str, Loads]) -> list[Series]:
    return [series for one in loads.values() for series in one.series]


def _as_long_as(seconds: float, measure: Callable[[], float]) -> list[float]:
    """Measure again and again until that many seconds have been measured."""
    values = [measure()]
    while sum(values) < seconds:
        values.append(measure())
    return values
