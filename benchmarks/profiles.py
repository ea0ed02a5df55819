"""Where the time goes: shares, not claims."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.contestants import SCORERS, SERVICE, Contestant, loglik
from benchmarks.load import under_load
from benchmarks.machine import Options
from benchmarks.measure import Series
from benchmarks.model import load_model_and_image
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
    """What the threads of the service and of LitServe, which all call the same library, take of the processors.

    Under log-likelihoods (S = 500) of 16 clients. A process's main thread runs the event loop, or in a worker calls the
    library, whose own threads are others.
    """
    lit_serve = next(scorer for scorer in SCORERS if scorer.name == "LitServe")
    series = []
    for contestant in (Contestant(SERVICE, loglik()), lit_serve):
        with (
            running(contestant.server, options) as server,
            under_load(server.url, [contestant.request], clients=CLIENTS),
        ):
            time.sleep(WARM_UP_SECONDS)
            before, started = _processor_seconds(server.process.pid), time.perf_counter()
            time.sleep(options.seconds)
            after, elapsed = _processor_seconds(server.process.pid), time.perf_counter() - started
        for number, pid in enumerate(sorted({pid for pid, _ in after}), 1):
            for main, threads in ((True, "main thread"), (False, "other threads")):
                share = 100 * (after[pid, main] - before[pid, main]) / elapsed
                if share >= 1.0:
                    name = f"{contestant.name}, process {number}, {threads}"
                    series.append(Series(name, "% of a processor", [share]))
    return Result(series, [], {"clients": CLIENTS, "num_samples": 500})


def _processor_seconds(group: int) -> Counter[tuple[int, bool]]:
    """Seconds on a processor of each process of a group so far: of its main thread (True), and of all others."""
    seconds: Counter[tuple[int, bool]] = Counter()
    for thread in Path("/proc").glob("[0-9]*/task/*"):
        pid, thread_id = int(thread.parts[2]), int(thread.name)
        with contextlib.suppress(OSError):  # it has ended
            fields = (thread / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            if int(fields[2]) == group:
                seconds[pid, pid == thread_id] += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds
