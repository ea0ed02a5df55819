"""Prometheus metrics, by its naming conventions, in a registry that each app owns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

if TYPE_CHECKING:
    from service.engine.queue import Task

__all__ = ["Metrics"]

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

disable_created_metrics()  # type: ignore[no-untyped-call]  # the time of birth of every series, which doubles their number


class Metrics:
    """What the service counts.

    Labels are few by construction: `route` is a template such as `/models/{name}`, never a path; `model` is
    `name@version` of a loaded checkpoint; nothing is labelled by seed, by pseudo-input or by client.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._children: dict[tuple[Any, tuple[str, ...]], Any] = {}
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

        self.http_requests_total = Counter(
            "http_requests_total", "HTTP requests answered.", ["method", "route", "status"], registry=registry
        )
        self.http_request_duration_seconds = Histogram(
            "http_request_duration_seconds",
            "Time from a request's first byte to its answer's last.",
            ["method", "route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.http_requests_in_progress = Gauge(
            "http_requests_in_progress", "HTTP requests under way.", registry=registry
        )
        self.http_connections = Gauge("http_connections", "Open connections.", registry=registry)
        self.http_connections_refused_total = Counter(
            "http_connections_refused_total",
            "Connections that were closed by the service, by reason: displaced (idle while too many were open), "
            "too-many, silent (nothing was sent), unread (no answer was taken), or the problem that was answered.",
            ["reason"],
            registry=registry,
        )
        self.http_problems_total = Counter(
            "http_problems_total",
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
        self.process_deaths_total = Counter(
            "vampprior_process_deaths_total",
            "Processes of the engine that ended although nobody wanted it to, by lane, or `loader`.",
            ["kind"],
            registry=registry,
        )
        self.model_ready = Gauge(
            "vampprior_model_ready", "1 once a model has loaded and run, else 0.", ["model"], registry=registry
        )

        self.cache_requests_total = Counter(
            "cache_requests_total",
            "Look-ups by outcome: hit, miss, joined (an equal request was in flight), corrupt (Redis held a value that "
            "this service did not write; it is replaced), error (Redis failed; failed stores count here as well) or "
            "skipped (Redis failed a moment ago and is not asked).",
            ["backend", "outcome"],
            registry=registry,
        )

    def watch_queues(self, sizes: Callable[[], dict[str, tuple[int, int]]]) -> None:
        """Have the gauges of the queues show requests and rows of each lane."""
        for lane in sizes():
            self.queue_requests.labels(lane).set_function(partial(_size, sizes, lane, 0))
            self.queue_rows.labels(lane).set_function(partial(_size, sizes, lane, 1))

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


def _size(sizes: Callable[[], dict[str, tuple[int, int]]], lane: str, index: int) -> float:
    return sizes()[lane][index]
