"""Spans of a real service, and their export."""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from service.logs import JsonFormatter
from service.settings import SettingsError, load_settings
from service.tracing import is_installed, span

ROOT = Path(__file__).parents[2]
EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter.OTLPSpanExporter"
TRACE, PARENT = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
PNG = {"Content-Type": "image/png"}


def traceparent(flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{TRACE:032x}-{PARENT:016x}-{flags}"}


class Traced:
    """A service whose spans stay in memory."""

    def __init__(self, service: Any, exporter: InMemorySpanExporter) -> None:
        self.service, self.client, self.exporter = service, service.client, exporter

    def finished(self) -> list[ReadableSpan]:
        """The spans that have ended since the last call, in the order of their starts."""
        self.service.app.entry.tracer._provider.force_flush()
        spans = sorted(self.exporter.get_finished_spans(), key=lambda one: one.start_time or 0)
        self.exporter.clear()
        return spans

    def of_request(self, *requests: Callable[[], httpx.Response]) -> tuple[ReadableSpan, list[ReadableSpan]]:
        """The span of a request that is made now, and its children."""
        self.exporter.clear()
        spans: list[ReadableSpan] = []
        for request in requests:
            request()

        def ended() -> bool:
            spans.extend(self.finished())
            return any(one.kind is SpanKind.SERVER for one in spans)

        self.service.until(ended)
        (root,) = [one for one in spans if one.kind is SpanKind.SERVER]
        return root, [one for one in spans if one is not root]


@pytest.fixture(scope="module")
def traced(serve: Any) -> Iterator[Traced]:
    exporter = InMemorySpanExporter()
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(EXPORTER, lambda endpoint: exporter)
            service = stack.enter_context(serve(workers=1, otlp_endpoint="http://collector:4318"))
        yield Traced(service, exporter)


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """The lines of the access log."""
    found: list[dict[str, Any]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(json.loads(self.format(record)))

    logger, handler = logging.getLogger("service.access"), Keep()
    handler.setFormatter(JsonFormatter())
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield found
    logger.removeHandler(handler)
    logger.setLevel(level)


def names(spans: Sequence[ReadableSpan]) -> list[str]:
    return [one.name for one in spans]


def test_a_sample_has_spans_for_queue_computation_and_rendering(traced: Traced, lines: list[dict[str, Any]]) -> None:
    headers = traceparent() | {"X-Request-ID": "mine"}
    root, children = traced.of_request(lambda: traced.client.post("/sample?pseudo_input=2&n=3", headers=headers))
    assert (root.name, root.context.trace_id, root.parent.span_id) == ("POST /sample", TRACE, PARENT)
    assert (
        root.attributes.items()
        >= {
            "http.request.method": "POST",
            "http.route": "/sample",
            "http.response.status_code": 200,
            "url.path": "/sample",
            "vampprior.model": "tiny-vamp@10",
            "vampprior.request_id": "mine",
        }.items()
    )
    assert names(children) == ["queue", "compute", "render"]
    queue, compute, render = children
    for child in children:
        assert (child.context.trace_id, child.parent.span_id) == (TRACE, root.context.span_id)
        assert child.attributes.items() >= {"vampprior.operation": "draw", "vampprior.rows": 3}.items()
    # the start of the request is read from another clock than the periods of its tasks
    assert root.start_time - 1e6 < queue.start_time <= queue.end_time <= compute.end_time <= render.end_time
    assert abs(queue.end_time - compute.start_time) < 1e6
    assert abs(compute.end_time - render.start_time) < 1e6
    assert render.end_time < root.end_time + 1e6
    assert root.status.status_code is StatusCode.UNSET
    assert (lines[-1]["trace_id"], lines[-1]["request_id"]) == (f"{TRACE:032x}", "mine")


def test_a_score_has_spans_for_its_upload_its_cache_and_its_units(traced: Traced, pngs: list[bytes]) -> None:
    def score() -> httpx.Response:
        return traced.client.post("/loglik?num_samples=600", content=pngs[0], headers=PNG)

    root, children = traced.of_request(score)
    assert names(children) == ["decode", "cache", "queue", "compute", "queue", "compute"]
    decode, look_up, _, units, _, combined = children
    assert decode.attributes == {"vampprior.images": 1}
    assert look_up.attributes == {"vampprior.backend": "memory", "vampprior.outcome": "miss"}
    assert units.attributes == {
        "vampprior.operation": "score",
        "vampprior.lane": "heavy",
        "vampprior.tasks": 2,
        "vampprior.rows": 600,
    }
    assert combined.attributes["vampprior.operation"] == "combine"
    assert {child.parent.span_id for child in children} == {root.context.span_id}

    _, children = traced.of_request(score)
    assert names(children) == ["decode", "cache"]
    assert children[1].attributes["vampprior.outcome"] == "hit"


def test_an_upload_that_is_refused_says_why(traced: Traced) -> None:
    root, (decode,) = traced.of_request(lambda: traced.client.post("/encode", content=b"none", headers=PNG))
    assert decode.attributes == {"error.type": "UnsupportedMediaType"}
    assert root.attributes["http.response.status_code"] == 415
    assert root.status.status_code is StatusCode.UNSET  # the client's error, not the service's


def test_a_failure_of_the_service_is_an_error(traced: Traced) -> None:
    patience, traced.service.app.entry.deadline = traced.service.app.entry.deadline, 0.01
    with traced.service.hold():
        root, _ = traced.of_request(lambda: traced.client.post("/sample"))
    traced.service.app.entry.deadline = patience
    assert root.attributes["http.response.status_code"] == 504
    assert (root.status.status_code, root.attributes["error.type"]) == (StatusCode.ERROR, "504")


def test_what_is_asked_all_the_time_and_what_the_caller_does_not_sample_has_no_spans(
    traced: Traced, lines: list[dict[str, Any]]
) -> None:
    def unsampled() -> httpx.Response:
        return traced.client.post("/sample", headers=traceparent(flags="00"))

    paths = ["/v2/health/live", "/health/ready", "/metrics"]
    root, _ = traced.of_request(
        *(lambda path=path: traced.client.get(path) for path in paths), unsampled, lambda: traced.client.get("/models")
    )
    assert root.name == "GET /models"
    assert [line.get("trace_id") for line in lines[:4]] == [None, None, None, f"{TRACE:032x}"]


@pytest.mark.parametrize("value", ["", "junk", f"00-{0:032x}-{0:016x}-01", "00-" + "f" * 5000, "\xff"])
def test_a_bad_traceparent_begins_a_trace(traced: Traced, value: str) -> None:
    headers = {"traceparent": value.encode("latin-1")}
    root, _ = traced.of_request(lambda: traced.client.get("/models", headers=headers))
    assert root.parent is None
    assert root.context.trace_id != 0


def test_a_long_stream_has_a_bounded_number_of_spans(
    traced: Traced, pngs: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.tracing.MAX_CHILDREN", 20)
    files, headers = [("file", png) for png in pngs * 8], {"Accept": "application/x-ndjson"}
    _, children = traced.of_request(
        lambda: traced.client.post("/loglik?num_samples=5&seed=9", files=files, headers=headers)
    )
    assert 20 <= len(children) <= 22  # the last tasks have a few spans at once


class Collector(ThreadingHTTPServer):
    """A collector of OTLP over HTTP, which keeps what it gets."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), CollectorAnswer)
        self.received: list[tuple[str, ExportTraceServiceRequest]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class CollectorAnswer(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.received.append((self.path, ExportTraceServiceRequest.FromString(body)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_spans_are_exported_when_the_service_stops(
    serve: Any, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    with serve(workers=1, otlp_endpoint=f"{collector.url}/") as service:
        assert service.client.post("/sample").status_code == 200
    assert {path for path, _ in collector.received} == {"/v1/traces"}
    groups = [group for _, request in collector.received for group in request.resource_spans]
    spans = [one for group in groups for scope in group.scope_spans for one in scope.spans]
    assert sorted(one.name for one in spans) == ["POST /sample", "compute", "queue", "render"]
    resource = {item.key: item.value.string_value for item in groups[0].resource.attributes}
    assert (resource["service.name"], resource["deployment.environment"]) == ("vampprior", "test")


def test_the_service_answers_and_stops_without_its_collector(serve: Any, collector: Collector) -> None:
    url = collector.url
    collector.server_close()
    with serve(workers=1, otlp_endpoint=url) as service:
        assert service.client.post("/sample").status_code == 200


def test_nothing_is_imported_and_no_span_exists_without_an_endpoint() -> None:
    assert span("decode") is span("cache")
    with span("decode") as nothing:
        assert nothing is None
    code = (  # redis imports the SDK by itself if it is installed
        "import sys\nfrom service.http.app import create_app\nfrom service.settings import Settings\n"
        "app = create_app(Settings())\nassert app.entry.tracer is None\n"
        "print([name for name in sys.modules if re.match('opentelemetry.exporter|torch$', name)])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", f"import re\n{code}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "[]\n"


def test_an_endpoint_without_the_packages_stops_the_start(monkeypatch: pytest.MonkeyPatch, model_store: Path) -> None:
    monkeypatch.setenv("VAMP_MODEL_STORE", str(model_store))
    monkeypatch.setenv("VAMP_DEFAULT_MODEL", "tiny-vamp")
    monkeypatch.setenv("VAMP_OTLP_ENDPOINT", "http://localhost:4318")
    assert load_settings().otlp_endpoint == "http://localhost:4318"
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)
    assert not is_installed()
    expected = "VAMP_OTLP_ENDPOINT needs packages that are not installed: pip install 'vampprior[otel]'"
    with pytest.raises(SettingsError, match=re.escape(expected)):
        load_settings()
