"""Figure of samples beside log-likelihoods: how late the samples come, and how many log-likelihoods are computed."""

from __future__ import annotations

from benchmarks.contestants import SAMPLE, SERVICE, loglik, services
from benchmarks.load import Answers, load, under_load
from benchmarks.loads import Loads
from benchmarks.machine import Options
from benchmarks.measure import AtLeast, AtMost, Claim, ratio
from benchmarks.model import NUM_SAMPLES
from benchmarks.results import Result
from benchmarks.servers import running

__all__ = ["sample_beside_loglik"]

ALONE, BESIDE, SCORES = "samples alone", "samples beside log-likelihoods", "log-likelihoods beside them"
AT_RATE = "1 client at the former rate"
MANY = 64


def sample_beside_loglik(options: Options) -> Result:
    """Samples to one client and to many while another client asks for log-likelihoods without pause.

    A client that asks again as soon as it has its answer asks a faster service more often, which leaves less time for
    log-likelihoods. The service is therefore asked at the former release's rate as well, if there is one.
    """
    found: dict[str, Loads] = {}

    def note(kind: str, server: str, clients: str, answers: Answers) -> None:
        name = f"{server}, {clients}, {kind}"
        found.setdefault(name, Loads(name)).answers.append(answers)

    for _ in range(options.rounds):
        for server in reversed(services(options)):  # the former release comes first, because its rate is needed
            with running(server, options) as service:
                for clients in (1, MANY):
                    named = f"{clients} client{'s' if clients > 1 else ''}"
                    alone = load(service.url, [SAMPLE], clients=clients, seconds=options.seconds)
                    note(ALONE, server.name, named, alone)
                    samples, scores = _beside(service.url, clients, options)
                    note(BESIDE, server.name, named, samples)
                    note(SCORES, server.name, named, scores)
                if options.former and server is SERVICE:
                    former = found[f"{options.former.name}, 1 client, {BESIDE}"].answers[-1]
                    samples, scores = _beside(service.url, 1, options, former.per_second)
                    note(BESIDE, server.name, AT_RATE, samples)
                    note(SCORES, server.name, AT_RATE, scores)
    series = []
    for name, loads in found.items():
        # wrk's percentiles assume that clients never wait between requests
        series += [loads.throughput] if name.endswith(SCORES) or AT_RATE in name else loads.series
    return Result(series, _claims(found, options), {"num_samples": NUM_SAMPLES, "loglik_clients": 1})


def _beside(url: str, clients: int, options: Options, rate: float = 0.0) -> tuple[Answers, Answers]:
    """Samples, and the log-likelihoods computed meanwhile, those of the samples' warm-up included."""
    with under_load(url, [loglik(NUM_SAMPLES)], clients=1) as scores:
        samples = load(url, [SAMPLE], clients=clients, seconds=options.seconds, rate=rate)
    return samples, scores[0]


def _claims(found: dict[str, Loads], options: Options) -> list[Claim]:
    claims = []
    for clients, limits in (("1 client", (1.2, 3.0)), (f"{MANY} clients", (None, 3.0))):
        alone, beside = (found[f"{SERVICE.name}, {clients}, {kind}"] for kind in (ALONE, BESIDE))
        for name, limit in zip(("p50", "p99"), limits, strict=True):
            if limit is not None:
                value = ratio(f"{name} of {clients} over that alone", getattr(beside, name), getattr(alone, name))
                claims.append(Claim(value, AtMost(limit)))
    if options.former:
        theirs = found[f"{options.former.name}, 1 client, {SCORES}"].throughput
        ours = found[f"{SERVICE.name}, {AT_RATE}, {SCORES}"].throughput
        name = f"log-likelihoods over those of {options.former.name}, samples at its rate"
        claims.append(Claim(ratio(name, ours, theirs), AtLeast(1.0)))
    return claims
