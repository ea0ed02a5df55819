"""OpenTelemetry: a span per request with children for its work, exported by OTLP over HTTP if an endpoint is set.

Without an endpoint nothing of OpenTelemetry is imported here, and a request creates no object of this module.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING

from starlette.types import Scope

from service.logs import trace_id
from service.threads import start_thread

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from service.engine.queue import Task

__all__ = ["RequestSpan", "Tracer", "is_installed", "record_tasks", "span"]

EXPORTER = "opentelemetry.exporter.otlp.proto.http"
UNTRACED = ("/health/", "/v2/health/", "/metrics")
"""Beginnings of paths that are asked for every few seconds."""
MAX_ATTRIBUTE_LENGTH = 512
MAX_CHILDREN = 256
"""Children of a request's span; the further work of a long stream has none."""
CLOSE_SECONDS = 2.0
"""Time to export the last spans when the service stops; a collector that does not answer must not delay the stop."""

_request: ContextVar[RequestSpan | None] = ContextVar("request_span", default=None)
_OFF: AbstractContextManager[None] = nullcontext()


def is_installed() -> bool:
    """True if the packages of the extra `otel` are there."""
    try:
        return find_spec("opentelemetry.sdk.trace") is not None and find_spec(EXPORTER) is not None
    except ModuleNotFoundError:  # a package above is missing
        return False


def span(name: str) -> AbstractContextManager[Span | None]:
    """A child of the present request's span that lasts as long as the `with` block; None if the request has no span."""
    request = _request.get()
    return _OFF if request is None or request.full else _Child(request, name)


def record_tasks(tasks: Sequence[Task]) -> None:
    """Record how tasks of the present request, which have been computed, waited, were computed and were rendered."""
    request = _request.get()
    if request is not None and not request.full:
        request.record(tasks)


class Tracer:
    """Starts the spans of requests, and exports them to the collector at `endpoint`, such as `http://localhost:4318`.

    The variables of OpenTelemetry hold as well, among them OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER and
    OTEL_EXPORTER_OTLP_HEADERS. Spans that cannot be exported are dropped.
    """

    def __init__(self, endpoint: str) -> None:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http import trace_exporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import SpanLimits, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        defaults: dict[str, str | int] = {
            "service.name": "vampprior",
            "service.version": version("vampprior"),
            "process.pid": os.getpid(),
        }
        self._provider = TracerProvider(
            resource=Resource.create(defaults).merge(OTELResourceDetector().detect()),
            span_limits=SpanLimits(max_span_attribute_length=MAX_ATTRIBUTE_LENGTH),
            shutdown_on_exit=False,
        )
        exporter = trace_exporter.OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self.api, self.tracer = trace, self._provider.get_tracer("vampprior", version("vampprior"))
        self._propagator = TraceContextTextMapPropagator()

    def start(self, scope: Scope, headers: Mapping[bytes, bytes]) -> RequestSpan | None:
        """The span of a request, a child of the caller's one in `traceparent` (W3C); None for health and metrics."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path.startswith(UNTRACED):
            return None
        given = {name: headers.get(name.encode(), b"").decode("latin-1") for name in ("traceparent", "tracestate")}
        parent = self._propagator.extract({name: value for name, value in given.items() if value})
        attributes = {"url.path": scope["path"], "url.scheme": scope.get("scheme", "http")}
        started = self.tracer.start_span("request", parent, self.api.SpanKind.SERVER, attributes)
        return RequestSpan(self, started)

    async def close(self) -> None:
        """Export what is left, for 2 seconds at most."""
        await asyncio.wait([asyncio.wrap_future(start_thread(self._provider.shutdown))], timeout=CLOSE_SECONDS)


class RequestSpan:
    """The span of a request. From its start to its end, log lines name its trace and `span` gives its children."""

    def __init__(self, tracer: Tracer, started: Span) -> None:
        self._tracer, self._span = tracer, started
        self._children = 0
        self._context = tracer.api.set_span_in_context(started)
        self._id_token = trace_id.set(f"{started.get_span_context().trace_id:032x}")
        self._token = _request.set(self if started.is_recording() else None)

    def end(self, *, method: str, route: str, status: int, model: str, request_id: str) -> None:
        """End it with what is known of the request; a status of 500 or more is an error."""
        self._span.update_name(f"{method} {route}")
        attributes: dict[str, str | int] = {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "vampprior.request_id": request_id,
        }
        if model:
            attributes["vampprior.model"] = model
        if status >= 500:
            attributes["error.type"] = str(status)
            self._span.set_status(self._tracer.api.StatusCode.ERROR)
        self._span.set_attributes(attributes)
        self._span.end()
        trace_id.reset(self._id_token)
        _request.reset(self._token)

    @property
    def full(self) -> bool:
        """True if it has as many children as it may have."""
        return self._children >= MAX_CHILDREN

    def child(self, name: str, start: float | None = None) -> Span:
        """A child that began at `start`, of `time.monotonic`, or begins now."""
        self._children += 1
        return self._tracer.tracer.start_span(name, self._context, start_time=_nanoseconds(start))

    def record(self, tasks: Sequence[Task]) -> None:
        """Children for the time that tasks waited, were computed and were rendered, each from first to last."""
        timings = [task.timing for task in tasks if task.timing is not None]
        if not timings:
            return
        attributes: dict[str, str | int] = {
            "vampprior.operation": type(tasks[0].payload).__name__.lower(),
            "vampprior.lane": tasks[0].request.lane.name,
            "vampprior.tasks": len(tasks),
            "vampprior.rows": sum(task.rows for task in tasks),
        }
        began, ended = min(timing.began for timing in timings), max(timing.ended for timing in timings)
        rendering = max(timing.rendering for timing in timings)
        periods = [("queue", min(task.admitted for task in tasks), began), ("compute", began, rendering)]
        if rendering < ended:
            periods.append(("render", rendering, ended))
        for name, start, end in periods:
            child = self.child(name, start)
            child.set_attributes(attributes)
            child.end(_nanoseconds(end))


class _Child:
    """A child span as a context manager, which notes the type of an exception that ends the block."""

    def __init__(self, request: RequestSpan, name: str) -> None:
        self._request, self._name = request, name

    def __enter__(self) -> Span:
        self._span = self._request.child(self._name)
        return self._span

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._span.set_attribute("error.type", kind.__name__)
        self._span.end()


def _nanoseconds(moment: float | None) -> int | None:
    """A moment of `time.monotonic` as nanoseconds since 1970."""
    return None if moment is None else time.time_ns() - round((time.monotonic() - moment) * 1e9)
