"""Where the time goes: shares, not claims."""

from __future__ import annotations

import time
from collections import Counter

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.contestants import SCORERS, Contestant, loglik, services
from benchmarks.load import under_load
from benchmarks.machine import Options
from benchmarks.measure import Series
from benchmarks.model import load_model_and_image
from benchmarks.processes import Process, processes
from benchmarks.results import Result
from benchmarks.servers import running
from vampprior.importance import chunk_rows

__all__ = ["chunk", "processors"]

CHUNKS, CLIENTS, WARM_UP_SECONDS = 50, 16, 2.0
KINDS = {
    "matrix products": ("addmm", "mm", "linear"),
    "biases and copies": ("copy_", "cat", "fill_", "clone"),
    "gates": ("glu", "glu_out"),
    "exp, log and sums over pixels and components": ("exp", "exp_", "log", "log_", "sum", "amax", "relu_"),
    "additions, products and clamps": (
        "add",
        "sub",
        "rsub",
        "mul",
        "neg",
        "square",
        "pow",
        "addcmul",
        "clamp",
        "clamp_",
    ),
}
"""What operations of PyTorch a chunk of a log-likelihood takes."""


def chunk(options: Options) -> Result:
    """Self time of the operations in a chunk of importance samples, on one thread, by kind."""
    model, x = load_model_and_image(options)
    torch.set_num_threads(1)
    rows = chunk_rows(model)
    with torch.inference_mode():
        context, mixture = model.condition(x), model.prior_mixture()
        noise = torch.randn(1, rows, model.noise_dim)

        def weigh() -> None:
            model.log_px_and_kl(x, context, noise[0], mixture)

        weigh()
        with profile(activities=[ProfilerActivity.CPU]) as found:
            for _ in range(CHUNKS):
                weigh()
    kind_of = {f"aten::{name}": kind for kind, names in KINDS.items() for name in names}
    shares: Counter[str] = Counter()
    for event in found.key_averages():
        shares[kind_of.get(event.key, "all else, and the calls themselves")] += event.self_cpu_time_total
    total = sum(shares.values())
    series = [Series(kind, "%", [100 * share / total]) for kind, share in shares.most_common()]
    milliseconds = Series("a chunk, under the profiler", "ms", [total / CHUNKS / 1e3])
    return Result([milliseconds, *series], [], {"rows": rows, "chunks": CHUNKS, "threads": 1})


def processors(options: Options) -> Result:
    """Processor time of the processes of the service and of LitServe, which calls the same library.

    Under log-likelihoods (S = 500) of 16 clients.
    """
    lit_serve = next(scorer for scorer in SCORERS if scorer.name == "LitServe")
    series = []
    for contestant in (*(Contestant(server, loglik()) for server in services(options)), lit_serve):
        with (
            running(contestant.server, options) as server,
            under_load(server.url, [contestant.request], clients=CLIENTS),
        ):
            time.sleep(WARM_UP_SECONDS)
            before, started = [*processes(server.process.pid)], time.perf_counter()
            time.sleep(options.seconds)
            after = {process.pid: process.seconds for process in processes(server.process.pid)}
            elapsed = time.perf_counter() - started
        shares: Counter[str] = Counter()
        for number, process in enumerate(before, 1):
            role = _role(process) if "VAMP_WORKERS" in contestant.server.environment else f"process {number}"
            shares[role] += after[process.pid] - process.seconds
        for role, seconds in shares.items():
            series.append(Series(f"{contestant.name}, {role}", "% of a processor", [100 * seconds / elapsed]))
    return Result(series, [], {"clients": CLIENTS, "num_samples": 500})


def _role(process: Process) -> str:
    """Role of a process of the service."""
    if process.depth < 2:
        return ("front end", "loader")[process.depth]
    return "heavy workers" if process.nice else "light workers"
