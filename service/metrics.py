"""Prometheus metrics, by its naming conventions, in a registry that each app owns."""

from __future__ import annotations

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

        self.jobs_total = Counter(
            "vampprior_jobs_total",
            "Jobs that left an engine, by how they ended.",
            ["model", "operation", "outcome"],
            registry=registry,
        )
        self.job_wait_seconds = Histogram(
            "vampprior_job_wait_seconds",
            "Time a job waited before its first computation.",
            ["model", "operation"],
            buckets=SECONDS,
            registry=registry,
        )
        self.job_compute_seconds = Histogram(
            "vampprior_job_compute_seconds",
            "Time from a job's first computation to its end.",
            ["model", "operation"],
            buckets=SECONDS,
            registry=registry,
        )
        self.queue_jobs = Gauge(
            "vampprior_queue_jobs", "Jobs waiting or under way in an engine.", ["model"], registry=registry
        )
        self.queue_rows = Gauge(
            "vampprior_queue_rows", "Network rows waiting or under way in an engine.", ["model"], registry=registry
        )
        self.batch_rows = Histogram(
            "vampprior_batch_rows",
            "Network rows computed together; of log-likelihoods, importance samples.",
            ["model", "operation"],
            buckets=ROWS,
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

    def render(self) -> tuple[bytes, str]:
        """The metrics in Prometheus' text format, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
