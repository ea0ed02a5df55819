"""One replica of the service against two that share its clients and workers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

from benchmarks.contestants import SAMPLE, SERVICE, loglik
from benchmarks.load import Answers, Request, load
from benchmarks.machine import Options
from benchmarks.measure import Series
from benchmarks.results import Result
from benchmarks.servers import running

__all__ = ["shared"]

LOADS = {"/sample": (SAMPLE, 64), "/loglik": (loglik(), 16)}


def shared(options: Options) -> Result:
    """Samples and log-likelihoods from one replica, and from two with half the workers and half the clients each."""
    series = []
    for path, (request, clients) in LOADS.items():
        answers: dict[int, list[list[Answers]]] = {1: [], 2: []}
        for _ in range(options.rounds):
            for replicas, found in answers.items():
                found.append(_answers(request, clients, replicas, options))
        for replicas, found in answers.items():
            name = f"{path}, {replicas} replica{'s' if replicas > 1 else ''}"
            throughput = [sum(one.per_second for one in together) for together in found]
            latest = [1e3 * max(one.p99 for one in together) for together in found]
            series += [Series(f"{name}, throughput", "requests/s", throughput), Series(f"{name}, p99", "ms", latest)]
    return Result(series, [], {"clients": "64, 16", "num_samples": 500})


def _answers(request: Request, clients: int, replicas: int, options: Options) -> list[Answers]:
    """How each replica answers its share of the clients, all at the same time."""
    share = replace(options, threads=max(1, options.threads // replicas))
    with ExitStack() as stack, ThreadPoolExecutor(replicas) as pool:
        servers = [stack.enter_context(running(SERVICE, share)) for _ in range(replicas)]
        loads = [
            pool.submit(load, server.url, [request], clients=clients // replicas, seconds=options.seconds)
            for server in servers
        ]
        return [one.result() for one in loads]
