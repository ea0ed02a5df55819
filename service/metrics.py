"""Prometheus metrics, by its naming conventions, in a registry that each app owns."""

from __future__ import annotations

import os
import platform
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from service.engine.queue import Task
    from service.engine.supervisor import WorkerProcess

__all__ = ["LaneLoad", "Metrics"]

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

disable_created_metrics()  # type: ignore[no-untyped-call]  # the time of birth of every series, which doubles their number


class LaneLoad(NamedTuple):
    """Requests and network rows of a lane that wait or are computed, and the seconds until all are done."""

    requests: int = 0
    rows: int = 0
    seconds: float = 0.0


class Metrics:
    """The metrics of the service.

    The names begin with `vampprior_`, except for those of the Python client library (`process_*`, `python_*`).

    Every label has a small set of values: `route` is a template such as `/models/{name}`, never a path; `model` is
    `name@version` of a loaded checkpoint, or empty where a request needed none; nothing is labelled by seed, by
    pseudo-input or by client.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._children: dict[tuple[Any, tuple[str, ...]], Any] = {}
        self.workers: Callable[[], Iterable[WorkerProcess]] = tuple
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

        self.http_requests_total = Counter(
            "vampprior_http_requests_total",
            "HTTP requests answered.",
            ["method", "route", "status", "model"],
            registry=registry,
        )
        self.http_request_duration_seconds = Histogram(
            "vampprior_http_request_duration_seconds",
            "Time from a request's first byte to its answer's last.",
            ["method", "route", "model"],
            buckets=SECONDS,
            registry=registry,
        )
        self.http_requests_in_progress = Gauge(
            "vampprior_http_requests_in_progress", "HTTP requests under way.", registry=registry
        )
        self.http_connections = Gauge("vampprior_http_connections", "Open connections.", registry=registry)
        self.http_connections_refused_total = Counter(
            "vampprior_http_connections_refused_total",
            "Connections that were closed by the service, by reason: displaced (idle while too many were open), "
            "too-many, silent (nothing was sent), unread (no answer was taken), or the problem that was answered.",
            ["reason"],
            registry=registry,
        )
        self.http_problems_total = Counter(
            "vampprior_http_problems_total",
            "Errors answered, by the last part of the problem's type; about:blank for those without a type of ours.",
            ["type"],
            registry=registry,
        )

        self.tasks_total = Counter(
            "vampprior_tasks_total",
            "Pieces of work that left the engine, by how they ended.",
            ["model", "operation", "outcome"],
            registry=registry,
        )
        self.task_wait_seconds = Histogram(
            "vampprior_task_wait_seconds",
            "Time a piece of work waited for a worker.",
            ["model", "operation"],
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_seconds = Histogram(
            "vampprior_batch_seconds",
            "Time that a worker took for a batch.",
            ["model", "operation"],
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_rows = Histogram(
            "vampprior_batch_rows",
            "Network rows computed together; of log-likelihoods, importance samples.",
            ["model", "operation"],
            buckets=ROWS,
            registry=registry,
        )
        self.queue_requests = Gauge(
            "vampprior_queue_requests", "Requests waiting or under way in a lane.", ["lane"], registry=registry
        )
        self.queue_rows = Gauge(
            "vampprior_queue_rows", "Network rows waiting or under way in a lane.", ["lane"], registry=registry
        )
        self.queue_seconds = Gauge(
            "vampprior_queue_seconds",
            "Time until all that waits or is under way in a lane is done, by the measured speed; requests that would "
            "exceed the deadline are refused. 0 until a speed was measured.",
            ["lane"],
            registry=registry,
        )
        self.process_deaths_total = Counter(
            "vampprior_process_deaths_total",
            "Processes of the engine that ended although nobody wanted it to, by lane, or `loader`.",
            ["kind"],
            registry=registry,
        )
        self.process_restarts_total = Counter(
            "vampprior_process_restarts_total",
            "Processes of the engine started in the place of one that died, by lane, or `loader`. The workers that a "
            "new loader forks are not counted.",
            ["kind"],
            registry=registry,
        )
        for kind in ("loader", "light", "heavy"):  # a counter that begins at 0, so that the first death is an increase
            self.process_deaths_total.labels(kind)
            self.process_restarts_total.labels(kind)
        registry.register(_WorkerCollector(self))
        self.ready = Gauge(
            "vampprior_ready", "1 while the service is ready, as in /health/ready, else 0.", registry=registry
        )
        Info("vampprior_build", "Versions of the service, of Python and of PyTorch.", registry=registry).info(
            {"version": version("vampprior"), "python": platform.python_version(), "torch": version("torch")}
        )
        self.model_load_seconds = Gauge(
            "vampprior_model_load_seconds",
            "Time that the last loading of a model took, its first computations included.",
            ["model"],
            registry=registry,
        )
        self.model_ready = Gauge(
            "vampprior_model_ready", "1 once a model has loaded and run, else 0.", ["model"], registry=registry
        )

        self.cache_requests_total = Counter(
            "vampprior_cache_requests_total",
            "Look-ups by outcome: hit, miss, joined (an equal request was in flight), corrupt (Redis held a value that "
            "this service did not write; it is replaced), error (Redis failed; failed stores count here as well) or "
            "skipped (Redis failed a moment ago and is not asked).",
            ["backend", "outcome"],
            registry=registry,
        )

    def watch_queues(self, loads: Callable[[], dict[str, LaneLoad]]) -> None:
        """Have the gauges of the queues show the load of each lane."""
        for lane in loads():
            for index, gauge in enumerate((self.queue_requests, self.queue_rows, self.queue_seconds)):  # as in LaneLoad
                gauge.labels(lane).set_function(partial(_load, loads, lane, index))

    def watch_workers(self, workers: Callable[[], Iterable[WorkerProcess]]) -> None:
        """Have a scrape show the number and the memory of these processes."""
        self.workers = workers

    def observe_batch(self, tasks: Sequence[Task], outcome: str, seconds: float) -> None:
        """Count tasks of one batch that ended alike; `seconds` is what a worker took for it."""
        if not tasks:
            return
        model, operation = tasks[0].model, type(tasks[0].payload).__name__.lower()
        self._labels(self.tasks_total, model, operation, outcome).inc(len(tasks))
        if outcome == "ok":
            self._labels(self.batch_seconds, model, operation).observe(seconds)
            self._labels(self.batch_rows, model, operation).observe(sum(task.rows for task in tasks))
            wait = self._labels(self.task_wait_seconds, model, operation)
            for task in tasks:
                wait.observe((task.started or task.admitted) - task.admitted)

    def _labels(self, family: Any, *labels: str) -> Any:
        """A child of a metric; `labels` looks for it under a lock."""
        found = self._children.get((family, labels))
        if found is None:
            found = self._children[family, labels] = family.labels(*labels)
        return found

    def render(self) -> tuple[bytes, str]:
        """The metrics in Prometheus' text format, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


def _load(loads: Callable[[], dict[str, LaneLoad]], lane: str, index: int) -> float:
    return loads()[lane][index]


class _WorkerCollector(Collector):
    """Counts the engine's processes, and reads their memory from /proc at each scrape.

    During a reload there are two sets of processes, which are added up.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The families without samples, so that registering them asks for no process."""
        return self._families()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The families with a sample for each lane, and for each process whose memory can be read."""
        count, memory = self._families()
        counts: Counts[str] = Counts()
        resident: Counts[tuple[str, str]] = Counts()
        for process in self._metrics.workers():
            counts[process.lane] += process.lane != "loader"
            if (size := _resident_bytes(process.pid)) is not None:
                resident[process.lane, str(process.slot)] += size
        for lane, number in counts.items():
            if lane != "loader":
                count.add_metric([lane], number)
        for labels, size in resident.items():
            memory.add_metric(labels, size)
        return count, memory

    @staticmethod
    def _families() -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
        return (
            GaugeMetricFamily("vampprior_workers", "Worker processes that are alive, by lane.", labels=["lane"]),
            GaugeMetricFamily(
                "vampprior_worker_resident_bytes",
                "Resident memory of the processes of the engine, by lane, or `loader`. The weights, which they share, "
                "are counted in each. Only on Linux.",
                labels=["lane", "worker"],
            ),
        )


def _resident_bytes(pid: int) -> int | None:
    """Resident memory of a process; None if it has ended, or on systems without /proc."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
