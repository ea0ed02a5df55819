"""Connections of a real server: what a client may send, how slowly, on how many of them."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

PATIENCE = 180.0
LIVE = b"GET /health/live HTTP/1.1\r\nHost: test\r\n\r\n"
MODELS = b"GET /models HTTP/1.1\r\nHost: test\r\n\r\n"


@pytest.fixture(scope="module")
def bounded(serve: Any) -> Iterator[Any]:
    """A service with little patience."""
    with serve(max_header_bytes=4096, header_seconds=0.3, keep_alive_seconds=0.3) as service:
        yield service


@pytest.fixture(scope="module")
def patient(serve: Any) -> Iterator[Any]:
    """A service with small bounds and the usual patience."""
    with serve(max_header_bytes=4096, max_connections=4) as service:
        yield service


@contextlib.contextmanager
def connect(service: Any) -> Iterator[socket.socket]:
    with socket.create_connection(service.address, timeout=PATIENCE) as connection:
        yield connection


def read_all(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            received += piece
    return received


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the next answer."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(1)
        assert piece, "the connection was closed"
        received += piece
    head, _, _ = received.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    body = b""
    while len(body) < int(headers.get("content-length", "0")):
        body += connection.recv(int(headers["content-length"]) - len(body))
    return int(status.split()[1]), headers, body


def assert_problem(answer: bytes, status: int, slug: str) -> None:
    """The bytes are one answer, which is a problem."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), answer[:200]
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    problem = json.loads(body)
    assert problem["type"] == f"/problems/{slug}"
    assert problem["request_id"].encode() in head


def refused(service: Any, reason: str) -> float:
    return float(service.metric("vampprior_http_connections_refused_total", reason=reason))


def answered(service: Any, route: str) -> float:
    return float(service.metric("vampprior_http_requests_total", route=route))


def test_headers_of_the_limit_pass_and_longer_ones_are_431(patient: Any) -> None:
    start = b"GET /health/live HTTP/1.1\r\nHost: test\r\nX-Padding: "
    fits = start + b"x" * (4095 - len(start) - 4) + b"\r\n\r\n"
    with connect(patient) as connection:
        connection.sendall(fits)
        assert read_answer(connection)[0] == 200
    with connect(patient) as connection:
        connection.sendall(start + b"x" * 5000 + b"\r\n\r\n")
        assert_problem(read_all(connection), 431, "headers-too-large")


@pytest.mark.parametrize("piece", [b"x" * 65536, b"X-A: b\r\n" * 8192], ids=["one header", "many headers"])
def test_endless_headers_are_not_kept(patient: Any, piece: bytes) -> None:
    before = refused(patient, "headers-too-large")
    with connect(patient) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nX-Padding: ")
        for _ in range(1000):  # 64 MB, far more than the sockets' buffers hold
            connection.sendall(piece)
        pytest.fail("everything was read")
    assert refused(patient, "headers-too-large") == before + 1


def test_a_body_after_small_headers_is_not_counted_as_headers(patient: Any, pngs: list[bytes]) -> None:
    padding = b"x" * 100_000
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + pngs[0] + b"\r\n--b"
    body += b'\r\nContent-Disposition: form-data; name="other"\r\n\r\n' + padding + b"\r\n--b--\r\n"
    lines = ["POST /reconstruct HTTP/1.1", "Host: test", "Content-Type: multipart/form-data; boundary=b"]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode()
    with connect(patient) as connection:
        connection.sendall(head + body + LIVE)
        assert read_answer(connection)[0] == 200
        assert read_answer(connection)[0] == 200


@pytest.mark.parametrize(
    "rest",
    [b"1;" + b"e" * 200_000, b"0\r\nX-Trailer: " + b"t" * 200_000, b"0\r\n" + b"X-T: t\r\n" * 25_000],
    ids=["extension", "trailer", "trailers"],
)
def test_what_surrounds_chunks_is_bounded(patient: Any, rest: bytes) -> None:
    head = b"POST /loglik HTTP/1.1\r\nHost: test\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    before = refused(patient, "headers-too-large")
    with connect(patient) as connection:
        connection.sendall(head + b"4\r\nabcd\r\n")
        with contextlib.suppress(ConnectionError):
            connection.sendall(rest + rest)
        read_all(connection)
    assert refused(patient, "headers-too-large") == before + 1


@pytest.mark.parametrize("start", [b"G", b"GET /health/live HTTP/1.1\r\nHost: te", b"\r\n\r\n"])
def test_half_a_head_is_answered_408(bounded: Any, start: bytes) -> None:
    with connect(bounded) as connection:
        connection.sendall(start)
        assert_problem(read_all(connection), 408, "request-timeout")


def test_a_connection_without_a_request_is_closed(bounded: Any) -> None:
    before = refused(bounded, "silent")
    with connect(bounded) as connection:
        assert read_all(connection) == b""
    assert refused(bounded, "silent") == before + 1


def test_an_idle_connection_is_closed(bounded: Any) -> None:
    with connect(bounded) as connection:
        connection.sendall(LIVE)
        assert read_answer(connection)[0] == 200
        assert read_all(connection) == b""


def test_half_a_second_head_is_answered_408(bounded: Any) -> None:
    with connect(bounded) as connection:
        connection.sendall(LIVE)
        assert read_answer(connection)[0] == 200
        connection.sendall(LIVE[:20])
        assert_problem(read_all(connection), 408, "request-timeout")


def test_a_request_that_takes_longer_than_a_head_may_is_answered(bounded: Any, pngs: list[bytes]) -> None:
    answer = httpx.post(
        f"{bounded.url}/loglik?num_samples=100000", content=pngs[0], headers={"Content-Type": "image/png"}, timeout=600
    )
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "request_",
    [b"hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /\x00 HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"],
)
def test_what_is_not_http_is_a_problem(patient: Any, request_: bytes) -> None:
    with connect(patient) as connection:
        connection.sendall(request_)
        assert_problem(read_all(connection), 400, "bad-request")


def test_garbage_after_a_request_leaves_its_answer_whole(patient: Any) -> None:
    with connect(patient) as connection:
        connection.sendall(MODELS + b"garbage\r\n\r\n")
        answer = read_all(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert json.loads(body)["default"] == "tiny-vamp"


def test_garbage_in_a_chunked_body_is_a_problem(patient: Any) -> None:
    head = b"POST /loglik HTTP/1.1\r\nHost: test\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connect(patient) as connection:
        connection.sendall(head + b"4\r\nabcd\r\nnonsense\r\n")
        assert_problem(read_all(connection), 400, "bad-request")


def test_a_flood_of_requests_on_one_connection_is_cut_off(patient: Any) -> None:
    before = refused(patient, "bad-request")
    with connect(patient) as connection:
        connection.sendall(MODELS * 5000)
        answers = read_all(connection).count(b"HTTP/1.1 200")
    assert 1 <= answers < 5000
    assert refused(patient, "bad-request") == before + 1


def test_some_requests_may_follow_each_other(patient: Any) -> None:
    with connect(patient) as connection:
        connection.sendall(LIVE * 5)
        assert [read_answer(connection)[0] for _ in range(5)] == [200] * 5


@pytest.mark.parametrize("body", [b"", b"x" * 10])
def test_an_upgrade_is_answered_over_http(patient: Any, body: bytes) -> None:
    lines = ["POST /nowhere HTTP/1.1", "Host: test", "Connection: Upgrade", "Upgrade: websocket"]
    lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
    with connect(patient) as connection:
        connection.sendall("\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body)
        head, _, answer = read_all(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404")
    assert json.loads(answer)["type"] == "/problems/not-found"


def test_a_client_that_reads_no_answer_is_dropped(serve: Any) -> None:
    """The system's own buffers hold some megabytes of answers, so there must be many."""
    request = b"POST /sample?n=256&seed=1&format=json HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n"
    with serve(send_seconds=0.2) as service, contextlib.closing(socket.socket()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(service.address)
        for sent in range(4, 200, 4):
            with contextlib.suppress(ConnectionError):
                connection.sendall(request * 4)
            service.until(lambda: refused(service, "unread") or answered(service, "/sample") >= sent)  # noqa: B023
            if refused(service, "unread"):
                break
        service.until(lambda: refused(service, "unread") == 1)


def test_after_an_early_answer_the_rest_of_a_body_is_passed_over(serve: Any) -> None:
    with serve(max_body_bytes=1000) as service, connect(service) as connection:
        connection.sendall(b"POST /loglik HTTP/1.1\r\nHost: test\r\nContent-Length: 5000\r\n\r\n" + bytes(100))
        assert read_answer(connection)[0] == 413
        connection.sendall(bytes(4900) + LIVE)
        assert read_answer(connection)[0] == 200


def test_after_an_early_answer_the_rest_of_a_body_is_not_awaited_for_ever(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.http.connections.LINGER_SECONDS", 0.2)
    with serve(max_body_bytes=1000) as service, connect(service) as connection:
        connection.sendall(b"POST /loglik HTTP/1.1\r\nHost: test\r\nContent-Length: 5000\r\n\r\n" + bytes(100))
        assert read_answer(connection)[0] == 413
        assert read_all(connection) == b""


def test_a_new_connection_takes_the_place_of_an_idle_one(patient: Any) -> None:
    patient.client.get("/health/live")
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connect(patient)) for _ in range(12)]
        patient.until(lambda: refused(patient, "displaced") >= 8)
        assert read_all(idle[0]) == b""
        assert httpx.get(f"{patient.url}/models").status_code == 200


def test_health_is_answered_when_all_connections_are_taken(patient: Any, pngs: list[bytes]) -> None:
    patient.client.get("/health/live")
    request = b"POST /loglik?num_samples=1 HTTP/1.1\r\nHost: test\r\nContent-Type: image/png\r\nContent-Length: "
    with contextlib.ExitStack() as stack, patient.hold():
        busy = []
        for number in range(8):  # each waits for the rest of its body
            connection = stack.enter_context(connect(patient))
            connection.sendall(request + f"{len(pngs[0])}\r\n\r\n".encode() + pngs[0][: -number - 1])
            busy.append(connection)
        patient.until(lambda: httpx.get(f"{patient.url}/models").status_code == 503)
        answer = httpx.get(f"{patient.url}/models")
        assert (answer.status_code, answer.headers["connection"]) == (503, "close")
        assert answer.json()["type"] == "/problems/overloaded"
        assert "retry-after" in answer.headers
        for path in ("/health/live", "/health/ready", "/metrics"):
            assert httpx.get(f"{patient.url}{path}").status_code == 200
    patient.until(lambda: httpx.get(f"{patient.url}/models").status_code == 200)


def test_addresses_are_believed_from_trusted_proxies_alone(serve: Any) -> None:
    forged = {"X-Forwarded-For": "192.0.2.7"}
    with serve(rate_limit="1/day") as service:
        assert service.client.get("/models").status_code == 200
        assert service.client.get("/models", headers=forged).status_code == 429
    with serve(rate_limit="1/day", trusted_proxies="127.0.0.0/8") as service:
        assert service.client.get("/models").status_code == 200
        assert service.client.get("/models", headers=forged).status_code == 200
        assert service.client.get("/models", headers=forged).status_code == 429


def test_the_environment_of_uvicorn_trusts_nobody(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    with serve(rate_limit="1/day") as service:
        assert service.client.get("/models").status_code == 200
        assert service.client.get("/models", headers={"X-Forwarded-For": "192.0.2.7"}).status_code == 429


def test_a_root_path_is_in_links_and_not_in_routes(serve: Any) -> None:
    with serve(root_path="/vamp", api_keys="secret", key_failure_limit="") as service:
        assert service.client.get("/health/live").status_code == 200
        assert service.client.get("/models").status_code == 401
        assert service.client.get("/openapi.json").json()["servers"] == [{"url": "/vamp"}]
        assert "/vamp/openapi.json" in service.client.get("/docs").text


def test_draining_answers_and_is_unready(serve: Any) -> None:
    with serve(drain_seconds=PATIENCE) as service:
        with connect(service) as connection:
            connection.sendall(LIVE)
            assert read_answer(connection)[0] == 200
            service.server.should_exit = True
            service.until(lambda: httpx.get(f"{service.url}/health/ready").status_code == 503)
            assert httpx.get(f"{service.url}/health/live").status_code == 200
            connection.sendall(MODELS)
            status, headers, _ = read_answer(connection)
            assert (status, headers["connection"]) == (200, "close")
        service.server.handle_exit(15, None)


def test_a_hang_up_stops_the_request_that_others_wait_for(serve: Any, pngs: list[bytes]) -> None:
    """Requests that follow on the connection must not hide that its client has left."""
    head = b"POST /loglik?num_samples=1000000 HTTP/1.1\r\nHost: test\r\nContent-Type: image/png\r\nContent-Length: "
    with serve(max_num_samples=10**6) as service:
        with connect(service) as connection:
            connection.sendall(head + str(len(pngs[0])).encode() + b"\r\n\r\n" + pngs[0] + MODELS * 3)
            service.until(lambda: service.queued() > 0)
        service.until(lambda: service.queued() == 0)
        assert service.metric("vampprior_tasks_total", operation="combine", outcome="ok") == 0
        assert service.metric("vampprior_http_problems_total", type="internal") == 0


def test_a_flood_of_idle_connections_leaves_health_checks_time_to_ask(serve: Any, pngs: list[bytes]) -> None:
    request = b"POST /loglik HTTP/1.1\r\nHost: test\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n"
    with serve(max_connections=4) as service, contextlib.ExitStack() as stack:
        for _ in range(8):  # each waits for the rest of its body
            stack.enter_context(connect(service)).sendall(request + pngs[0])
        service.until(lambda: httpx.get(f"{service.url}/models").status_code == 503)
        probe = stack.enter_context(connect(service))
        for _ in range(100):  # connections that ask nothing come after it
            stack.enter_context(connect(service))
        probe.sendall(LIVE)
        assert read_answer(probe)[0] == 200


@pytest.mark.parametrize("request_", [b"GET /models HTTP/1.1\r\n\r\n", b"GET /models\r\n\r\n"])
def test_a_request_without_host_or_version_is_a_problem(patient: Any, request_: bytes) -> None:
    with connect(patient) as connection:
        connection.sendall(request_)
        assert_problem(read_all(connection), 400, "bad-request")
