"""nginx as it is configured for the deployment: which replica it asks, what it repeats, and what it adds."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from service.settings import Settings

pytestmark = pytest.mark.tools


class Replica(ThreadingHTTPServer):
    """Answers with what it was asked.

    fault: "refuse" answers 503 instead, "drop" closes the connection without an answer
    """

    daemon_threads = True

    def __init__(self, address: str, port: int) -> None:
        super().__init__((address, port), Handler)
        self.address = address
        self.fault = ""
        self.received = 0
        self.proceed = threading.Event()


class Handler(BaseHTTPRequestHandler):
    """One request to a replica."""

    server: Replica

    def do_GET(self) -> None:
        self.server.received += 1
        size = len(self.rfile.read(int(self.headers.get("content-length", 0))))
        if self.server.fault == "drop":
            return
        self.send_response(503 if self.server.fault == "refuse" else 200)
        self.end_headers()
        if self.path == "/stream":
            self.wfile.write(b"first")
            self.server.proceed.wait(60)
            self.wfile.write(b"second")
        else:
            headers = {name.lower(): value for name, value in self.headers.items()}
            told = {"replica": self.server.address, "path": self.path, "headers": headers, "size": size}
            self.wfile.write(json.dumps(told).encode())

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def start(proxy: Any) -> Iterator[Callable[[str], Replica]]:
    """Starts a replica at an address, and adds it to DNS."""
    with contextlib.ExitStack() as stack:

        def run(address: str) -> Replica:
            replica = stack.enter_context(Replica(address, proxy.port))
            thread = threading.Thread(target=replica.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            stack.callback(thread.join)
            stack.callback(replica.shutdown)
            proxy.addresses.append(address)
            return replica

        yield run


def ask(proxy: Any, **options: Any) -> Any:
    """What the replica says that answered."""
    response = proxy.client.request(options.pop("method", "GET"), options.pop("path", "/"), **options)
    assert response.status_code == 200, response.text
    return response.json()


def test_requests_are_spread_over_replicas_also_those_that_start_later(proxy: Any, start: Any, until: Any) -> None:
    seen = set()

    def all_seen() -> bool:
        seen.add(ask(proxy)["replica"])
        return seen == set(proxy.addresses)

    start("127.0.0.2"), start("127.0.0.3")
    until(all_seen)
    start("127.0.0.4")
    until(all_seen)


def test_what_a_client_says_of_its_address_is_not_passed_on(proxy: Any, start: Any) -> None:
    start("127.0.0.2")
    lies = {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "gopher", "Forwarded": "for=6.6.6.6"}
    told = ask(proxy, path="/a%20b?c=d%2Fe", headers={"Host": "example.org", "X-API-Key": "key", **lies})
    assert told["path"] == "/a%20b?c=d%2Fe"
    sent = told["headers"]
    assert (sent["host"], sent["x-api-key"]) == ("example.org", "key")
    assert (sent["x-forwarded-for"], sent["x-forwarded-proto"]) == ("127.0.0.1", "http")
    assert "forwarded" not in sent


@pytest.mark.parametrize(("given", "kept"), [("abc-1", True), ("a b", False), ("x" * 129, False), (None, False)])
def test_the_replica_and_the_log_have_the_same_request_id(
    proxy: Any, start: Any, until: Any, given: str | None, kept: bool
) -> None:
    start("127.0.0.2")
    id_ = ask(proxy, headers={"X-Request-ID": given} if given else {})["headers"]["x-request-id"]
    assert (id_ == given) is kept
    assert len(id_) == 32 or kept
    until(lambda: id_ in proxy.log.read_text())
    (line,) = (json.loads(line) for line in proxy.log.read_text().splitlines() if id_ in line)
    assert line["request_id"] == id_
    assert line["client"] == "127.0.0.1"


def test_a_request_that_could_not_be_sent_goes_to_another_replica(proxy: Any, start: Any) -> None:
    start("127.0.0.2")
    proxy.addresses += ["127.0.0.3", "127.0.0.4"]  # where nothing listens
    for size in range(20):
        assert ask(proxy, method="POST", content=b"x" * size)["size"] == size


@pytest.mark.parametrize("fault", ["drop", "refuse"])
def test_only_idempotent_requests_are_repeated_after_they_were_sent(proxy: Any, start: Any, fault: str) -> None:
    bad, good = start("127.0.0.2"), start("127.0.0.3")
    bad.fault = fault
    for _ in range(20):
        assert ask(proxy)["replica"] == good.address
    assert bad.received > 0

    bad.received = good.received = 0
    statuses = [proxy.client.post("/", content=b"x").status_code for _ in range(20)]
    assert bad.received + good.received == 20
    assert statuses.count(502 if fault == "drop" else 503) == bad.received > 0
    assert statuses.count(200) == good.received


def test_the_proxy_limits_no_upload_that_the_service_takes(proxy: Any, start: Any) -> None:
    start("127.0.0.2")
    size = Settings().max_body_bytes + 1
    assert ask(proxy, method="POST", content=b"x" * size)["size"] == size


def test_a_stream_arrives_while_it_is_made(proxy: Any, start: Any) -> None:
    replica = start("127.0.0.2")
    with proxy.client.stream("GET", "/stream") as response:
        parts = response.iter_raw()
        assert next(parts) == b"first"
        replica.proceed.set()
        assert b"".join(parts) == b"second"


def test_errors_of_the_proxy_look_like_those_of_the_service(proxy: Any) -> None:
    response = proxy.client.get("/", headers={"X-Request-ID": "abc-1"})
    assert (response.status_code, response.headers["content-type"]) == (502, "application/problem+json")
    assert response.headers["x-request-id"] == "abc-1"
    assert response.json() == {
        "type": "/problems/replica-failed",
        "title": "No replica answered",
        "status": 502,
        "request_id": "abc-1",
    }
    response = httpx.get(proxy.url, headers={"X-Request-ID": "x" * 40_000})
    assert (response.status_code, response.headers["content-type"]) == (431, "application/problem+json")
    assert (response.json()["status"], response.json()["type"]) == (431, "/problems/headers-too-large")
