"""Figures of the service under load, against the alternatives and against itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import product

from benchmarks import model
from benchmarks.contestants import CONSTANT, NAIVE_SCORERS, SAMPLE, SAMPLERS, SCORERS, SERVICE, Contestant, loglik
from benchmarks.load import Answers, LoadError, ask, load, under_load
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
    "sample_against_alternatives",
    "sample_against_constant",
    "sample_beside_loglik",
]

SAMPLE_CLIENTS, LOGLIK_CLIENTS = 64, 16
OUR_SAMPLER, OUR_SCORER = Contestant(SERVICE, SAMPLE), Contestant(SERVICE, loglik())


@dataclass(frozen=True)
class Loads:
    """A contestant's loads, one a round."""

    name: str
    answers: list[Answers]

    @property
    def throughput(self) -> Series:
        """Requests answered in a second."""
        return Series(f"{self.name}, throughput", "requests/s", [one.per_second for one in self.answers])

    @property
    def p50(self) -> Series:
        """Median latency."""
        return Series(f"{self.name}, p50", "ms", [1e3 * one.p50 for one in self.answers])

    @property
    def p99(self) -> Series:
        """Latency that one request in a hundred exceeds."""
        return Series(f"{self.name}, p99", "ms", [1e3 * one.p99 for one in self.answers])


def sample_against_alternatives(options: Options) -> Result:
    """Samples of one image, to many clients at once."""
    ours, *theirs = _load_in_turn([OUR_SAMPLER, *SAMPLERS], SAMPLE_CLIENTS, options)
    fastest = max(theirs, key=lambda loads: loads.throughput.median)
    soonest = min(theirs, key=lambda loads: loads.p99.median)
    claims = [
        Claim(ratio(f"throughput over that of {fastest.name}", ours.throughput, fastest.throughput), AtLeast(2.5)),
        Claim(ratio(f"p99 over that of {soonest.name}", ours.p99, soonest.p99), AtMost(1.0)),
    ]
    return Result(_series([ours, *theirs]), claims, {"clients": SAMPLE_CLIENTS})


def sample_against_constant(options: Options) -> Result:
    """Samples of one image against an endpoint that computes nothing."""
    ours, constant = _load_in_turn([OUR_SAMPLER, CONSTANT], SAMPLE_CLIENTS, options)
    share = ratio("throughput over that of constant bytes", ours.throughput, constant.throughput)
    return Result(_series([ours, constant]), [Claim(share, AtLeast(0.5))], {"clients": SAMPLE_CLIENTS})


def loglik_against_alternatives(options: Options) -> Result:
    """Log-likelihoods to several clients at once, against other servers that call the same library function."""
    return _loglik_against(SCORERS, AtLeast(1.3), options)


def loglik_against_naive(options: Options) -> Result:
    """The same against other servers that make the naive estimate."""
    return _loglik_against(NAIVE_SCORERS, AtLeast(10.0), options)


def _loglik_against(scorers: Sequence[Contestant], target: AtLeast, options: Options) -> Result:
    ours, *theirs = _load_in_turn([OUR_SCORER, *scorers], LOGLIK_CLIENTS, options)
    best = max(theirs, key=lambda loads: loads.throughput.median)
    claim = Claim(ratio(f"throughput over that of {best.name}", ours.throughput, best.throughput), target)
    return Result(_series([ours, *theirs]), [claim], {"clients": LOGLIK_CLIENTS, "num_samples": 500})


def loglik_over_http(options: Options) -> Result:
    """A log-likelihood over HTTP against the same call of the library, which is given the prior as the service is."""
    hvae, x = model.load_model_and_image(options)
    mixture = hvae.prior_mixture()
    call = seconds_of(lambda: log_likelihood(hvae, x, num_samples=model.NUM_SAMPLES, mixture=mixture))
    loads, calls = [], []
    with running(SERVICE, options) as server:
        for _ in range(options.rounds):
            loads.append(load(server.url, [loglik(model.NUM_SAMPLES)], clients=1, seconds=options.seconds))
            calls.append(Series("", "s", _as_long_as(options.seconds, call)).median)
    ours, direct = Loads("service", loads), Series("library, median", "ms", [1e3 * seconds for seconds in calls])
    overhead = ratio("p50 over the library's time", ours.p50, direct)
    settings = {"clients": 1, "num_samples": model.NUM_SAMPLES}
    return Result([ours.p50, ours.p99, direct], [Claim(overhead, AtMost(1.1))], settings)


def sample_beside_loglik(options: Options) -> Result:
    """How late samples come while log-likelihoods are computed without pause."""
    alone: dict[int, list[Answers]] = {1: [], SAMPLE_CLIENTS: []}
    beside: dict[int, list[Answers]] = {1: [], SAMPLE_CLIENTS: []}
    with running(SERVICE, options) as server:
        for _, clients in product(range(options.rounds), alone):
            alone[clients].append(load(server.url, [SAMPLE], clients=clients, seconds=options.seconds))
            with under_load(server.url, [loglik(model.NUM_SAMPLES)], clients=1):
                beside[clients].append(load(server.url, [SAMPLE], clients=clients, seconds=options.seconds))
    loads, claims = [], []
    for clients in alone:
        without = Loads(f"{clients} clients, nothing else", alone[clients])
        within = Loads(f"{clients} clients, beside log-likelihoods", beside[clients])
        loads += [without, within]
        name = f"p99 of {clients} clients over that without log-likelihoods"
        claims.append(Claim(ratio(name, within.p99, without.p99), AtMost(3.0)))
    return Result(_series(loads), claims, {"num_samples": model.NUM_SAMPLES, "loglik_clients": 1})


def cache_hit(options: Options) -> Result:
    """An answer from Redis to one client, against an endpoint that computes nothing."""
    cached = replace(SAMPLE, target="/sample?pseudo_input=42&seed=1")
    ours: list[Answers] = []
    constant: list[Answers] = []
    with ExitStack() as stack:
        address = stack.enter_context(redis())
        environment = {**SERVICE.environment, "VAMP_CACHE_URL": address}
        server = stack.enter_context(running(replace(SERVICE, environment=environment), options))
        bytes_server = stack.enter_context(running(CONSTANT.server, options))
        ask(server.url, cached)
        if ask(server.url, cached).get("x-cache") != "hit":
            raise LoadError("the service does not have the answer in Redis")
        for _ in range(options.rounds):
            ours.append(load(server.url, [cached], clients=1, seconds=options.seconds))
            constant.append(load(bytes_server.url, [CONSTANT.request], clients=1, seconds=options.seconds))
    hit, nothing = Loads("service, hit in Redis", ours), Loads(CONSTANT.name, constant)
    claim = Claim(ratio("p50 over that of constant bytes", hit.p50, nothing.p50), AtMost(1.5))
    return Result(_series([hit, nothing]), [claim], {"clients": 1})


def _load_in_turn(contestants: Sequence[Contestant], clients: int, options: Options) -> list[Loads]:
    """Load each contestant once a round, with no other running: some keep a processor busy even when idle."""
    answers: list[list[Answers]] = [[] for _ in contestants]
    for _ in range(options.rounds):
        for contestant, found in zip(contestants, answers, strict=True):
            with running(contestant.server, options) as server:
                found.append(load(server.url, [contestant.request], clients=clients, seconds=options.seconds))
    return [Loads(contestant.name, found) for contestant, found in zip(contestants, answers, strict=True)]


def _series(loads: Sequence[Loads]) -> list[Series]:
    return [series for one in loads for series in (one.throughput, one.p50, one.p99)]


def _as_long_as(seconds: float, measure: Callable[[], float]) -> list[float]:
    """Measure again and again until that many seconds have been measured."""
    values = [measure()]
    while sum(values) < seconds:
        values.append(measure())
    return values
