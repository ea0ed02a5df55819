"""Every status of the interface, from a real request to a real service."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

BAD_PARAMETERS = [
    ("POST", "/sample", "n", ["0", "-1", "257", "1.5", "many", ""]),
    ("POST", "/sample", "seed", ["-1", "9007199254740992", "x", "1e3"]),
    ("POST", "/sample", "pseudo_input", ["-1", "first", ""]),
    ("POST", "/sample", "temperature", ["-0.1", "10.1", "nan", "inf", "-inf", "1e999", "warm"]),
    ("POST", "/sample", "mode", ["median", "", "Mean"]),
    ("POST", "/sample", "format", ["gif", "PNG", ""]),
    ("POST", "/sample", "columns", ["0", "65", "-3"]),
    ("POST", "/sample", "scale", ["0", "17", "0.5"]),
    ("POST", "/reconstruct", "seed", ["-1", "9007199254740992"]),
    ("POST", "/reconstruct", "mode", ["median"]),
    ("POST", "/reconstruct", "resize", ["maybe", "2"]),
    ("POST", "/encode", "top", ["0", "101"]),
    ("POST", "/encode", "invert", ["maybe"]),
    ("POST", "/loglik", "num_samples", ["0", "-1", "100001", "1e9", "9" * 400]),
    ("POST", "/loglik", "seed", ["-1", "9007199254740992"]),
    ("GET", "/pseudo-inputs", "offset", ["-1", "x"]),
    ("GET", "/pseudo-inputs", "limit", ["0", "1001"]),
    ("GET", "/pseudo-inputs", "sort", ["name"]),
    ("GET", "/pseudo-inputs", "columns", ["65"]),
]


@pytest.mark.parametrize(
    ("method", "path", "name", "value"),
    [(method, path, name, value) for method, path, name, values in BAD_PARAMETERS for value in values],
)
def test_a_bad_parameter_is_named(
    client: httpx.Client, problem: Any, pngs: list[bytes], method: str, path: str, name: str, value: str
) -> None:
    files = {"files": {"file": pngs[0]}} if path in ("/reconstruct", "/encode", "/loglik") else {}
    body = problem(client.request(method, path, params={name: value}, **files), 422, "bad-parameter")
    assert name in body["detail"]
    assert body["instance"] == path


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/sample"), ("POST", "/encode"), ("GET", "/pseudo-inputs"), ("GET", "/pseudo-inputs/3")],
)
def test_a_misspelt_parameter_is_named(
    client: httpx.Client, problem: Any, pngs: list[bytes], method: str, path: str
) -> None:
    files = {"files": {"file": pngs[0]}} if path == "/encode" else {}
    body = problem(client.request(method, path, params={"psuedo_input": 42}, **files), 422, "bad-parameter")
    assert [error["parameter"] for error in body["errors"]] == ["psuedo_input"]


UNKNOWN = ["/models", "/models/tiny-vamp", "/health/live", "/health/ready", "/metrics"]


@pytest.mark.parametrize("path", UNKNOWN)
def test_a_parameter_of_a_call_without_parameters_is_named(client: httpx.Client, problem: Any, path: str) -> None:
    body = problem(client.get(path, params={"verbose": 1}), 422, "bad-parameter")
    assert [error["parameter"] for error in body["errors"]] == ["verbose"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/sample?n=2&seed=1&n=3"),
        ("POST", "/sample?n=2&n=2"),
        ("POST", "/sample?n&n"),
        ("GET", "/pseudo-inputs?n=1&limit=2&n=2"),
        ("GET", "/pseudo-inputs/1?scale=2&%6e=1&n=2"),
        ("GET", "/models?n=1&n=2"),
        ("GET", "/metrics?n=1&n=2"),
    ],
)
def test_a_repeated_parameter_is_named(client: httpx.Client, problem: Any, method: str, path: str) -> None:
    body = problem(client.request(method, path), 422, "bad-parameter")
    assert [(error["parameter"], error["location"]) for error in body["errors"]] == [("n", "query")]


@pytest.mark.parametrize(
    "query", ["n=%", "n=%1", "n=%zz", "%=1", "n=%ff", "model=%c3%28", "n=" + "1" * 10_000, "n=1&" * 2500]
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/sample"), ("GET", "/pseudo-inputs"), ("GET", "/models")])
def test_a_query_string_that_cannot_be_read(
    client: httpx.Client, problem: Any, method: str, path: str, query: str
) -> None:
    problem(client.request(method, f"{path}?{query}"), 422, "bad-parameter")


@pytest.mark.parametrize("value", ["%00", "a%00b", "%1b[31m", "%e2%80%ae", "%0d%0aX-Injected: 1"])
@pytest.mark.parametrize("name", ["model", "n", "mode"])
def test_control_characters_are_escaped(client: httpx.Client, problem: Any, name: str, value: str) -> None:
    response = client.post(f"/sample?{name}={value}&{value}=1")
    detail = problem(response, 422, "bad-parameter")["detail"]
    assert detail.isprintable()
    response = client.post(f"/sample?model={value}")
    assert problem(response, 404, "model-not-found")["detail"].isprintable()
    assert "x-injected" not in response.headers


@pytest.mark.parametrize("length", [1000, 15_000, 1_000_000])
def test_an_error_does_not_repeat_what_is_long(client: httpx.Client, length: int) -> None:
    text = "x" * length
    for method, path in (
        ("POST", f"/sample?model={text}"),
        ("POST", f"/sample?mode={text}"),
        ("POST", f"/sample?{text}=1"),
        ("POST", "/sample?" + "&".join(f"a{i}=1" for i in range(length // 10))),
        ("GET", f"/models/{text}"),
        ("GET", f"/pseudo-inputs/{text}"),
        ("GET", f"/{text}"),
    ):
        try:
            response = client.request(method, path)
        except httpx.InvalidURL:  # the client's own bound
            continue
        assert response.status_code in (404, 422), response.text
        assert response.headers["content-type"] == "application/problem+json"
        assert len(response.content) < 10_000


def test_no_error_depends_on_the_host_that_is_named(service: Any) -> None:
    for host in (b"[", b"evil.example", b"a b", b"\xff"):
        for path in (b"/sample", b"/sample/", b"/models/", b"/docs/", b"/"):
            head = b"POST" if b"sample" in path else b"GET"
            request = head + b" " + path + b" HTTP/1.1\r\nHost: " + host + b"\r\nContent-Length: 1\r\n"
            answer = exchange(service, request + b"Connection: close\r\n\r\n1")
            status = answer.split(b" ", 2)[1]
            assert status in ((b"200",) if path == b"/" else (b"404", b"422", b"400")), answer
            assert b"location:" not in answer.lower()
            assert b"evil" not in answer


def exchange(service: Any, request: bytes) -> bytes:
    """The answer to a request that no client library would send, on a connection that the server closes."""
    with socket.create_connection(service.address, timeout=180) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as file:
            return file.read()


def test_all_bad_parameters_are_named_at_once(client: httpx.Client, problem: Any) -> None:
    body = problem(client.post("/sample?n=0&scale=99&format=gif"), 422, "bad-parameter")
    assert {error["parameter"] for error in body["errors"]} == {"n", "scale", "format"}


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/sample/1",
        "/sample/",
        "/models/",
        "/docs/",
        "/static-offline-docs",
        "/static-offline-docs/",
        "/static-offline-docs/nothing.css",
        "/static-offline-docs/../pyproject.toml",
        "/static-offline-docs/%2e%2e/__init__",
        "/static-offline-docs/%00",
        "/static-offline-docs/" + "x" * 300,
        "/pseudo-inputs/1/2",
        "/models/a/b",
        "/health",
        "/%00",
        "//",
    ],
)
def test_a_path_that_is_not_there(client: httpx.Client, problem: Any, path: str) -> None:
    problem(client.get(f"http://{client.base_url.netloc.decode()}{path}"), 404, "not-found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/sample", "OPTIONS, POST"),
        ("HEAD", "/sample", "OPTIONS, POST"),
        ("DELETE", "/models", "GET, HEAD, OPTIONS"),
        ("POST", "/pseudo-inputs", "GET, HEAD, OPTIONS"),
        ("PUT", "/loglik", "OPTIONS, POST"),
        ("POST", "/", "GET, HEAD, OPTIONS"),
        ("PATCH", "/docs", "GET, HEAD, OPTIONS"),
        ("POST", "/openapi.json", "GET, HEAD, OPTIONS"),
        ("DELETE", "/static-offline-docs/swagger-ui.css", "GET, HEAD, OPTIONS"),
        ("PROPFIND", "/models", "GET, HEAD, OPTIONS"),
    ],
)
def test_a_method_that_is_not_there(client: httpx.Client, problem: Any, method: str, path: str, allowed: str) -> None:
    response = client.request(method, path)
    if method == "HEAD":
        assert (response.status_code, response.content) == (405, b"")
    else:
        problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == allowed


READABLE = [
    "/",
    "/docs",
    "/openapi.json",
    "/static-offline-docs/swagger-ui.css",
    "/health/live",
    "/health/ready",
    "/metrics",
    "/models",
    "/models/tiny-vamp",
    "/pseudo-inputs?limit=3",
    "/pseudo-inputs/1",
]


@pytest.mark.parametrize("path", READABLE)
def test_head_is_get_without_a_body(client: httpx.Client, path: str) -> None:
    get, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    varying = {"date", "x-request-id", "content-length" if path == "/metrics" else "date"}
    assert {name: head.headers[name] for name in set(head.headers) - varying} == {
        name: get.headers[name] for name in set(get.headers) - varying
    }


@pytest.mark.parametrize("path", [*READABLE, "/sample", "/reconstruct", "/loglik", "/encode"])
def test_options_names_the_methods(client: httpx.Client, path: str) -> None:
    response = client.options(path)
    assert (response.status_code, response.content) == (204, b"")
    posts = path in ("/sample", "/reconstruct", "/loglik", "/encode")
    assert response.headers["allow"] == ("OPTIONS, POST" if posts else "GET, HEAD, OPTIONS")


def test_options_of_what_is_not_there(client: httpx.Client, problem: Any) -> None:
    problem(client.options("/nowhere"), 404, "not-found")


@pytest.mark.parametrize("range_", ["bytes=0-1", "bytes=99999999-", "bytes=b-a", "chars=1-2", "bytes=0-1,5-6"])
def test_a_range_of_a_static_file_is_the_whole_file(client: httpx.Client, range_: str) -> None:
    path = "/static-offline-docs/swagger-ui.css"
    response = client.get(path, headers={"Range": range_})
    assert (response.status_code, response.content) == (200, client.get(path).content)


@pytest.mark.parametrize("extensions", [{"websocket.http.response": {}}, {}])
@pytest.mark.parametrize("path", ["/", "/sample", "/nowhere", "/static-offline-docs/swagger-ui.css", "/a\nb"])
def test_a_websocket_is_refused_with_a_problem(service: Any, path: str, extensions: dict[str, Any]) -> None:
    """By the application: the service's own server answers it as a plain request, other servers may not."""
    scope = {"type": "websocket", "path": path, "headers": [], "query_string": b"", "extensions": extensions}
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(service.app(scope, receive, send))
    if not extensions:
        assert [message["type"] for message in sent] == ["websocket.close"]
        return
    start, body = sent
    assert (start["type"], body["type"]) == ("websocket.http.response.start", "websocket.http.response.body")
    assert start["status"] == 404
    assert dict(start["headers"])[b"content-type"] == b"application/problem+json"
    assert json.loads(body["body"])["type"] == "/problems/not-found"


@pytest.mark.parametrize(("path", "status"), [("/models", 200), ("/sample", 405), ("/nowhere", 404)])
def test_a_handshake_is_answered_as_a_plain_request(client: httpx.Client, path: str, status: int) -> None:
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    response = client.get(path, headers=headers | {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="})
    assert response.status_code == status
    assert response.headers["content-type"] == ("application/json" if status == 200 else "application/problem+json")


def test_problems_are_counted_by_their_type(service: Any) -> None:
    def counted() -> dict[str, float]:
        types = ("bad-parameter", "model-not-found", "not-found", "method-not-allowed", "unsupported-media-type")
        return {type_: service.metric("vampprior_http_problems_total", type=type_) for type_ in types}

    before = counted()
    for path in ("/sample?n=0", "/sample?n=0", "/sample?model=none", "/nowhere", "/models", "/encode"):
        assert service.client.post(path).status_code >= 400
    after = counted()
    assert {type_: after[type_] - before[type_] for type_ in after} == {
        "bad-parameter": 2,
        "model-not-found": 1,
        "not-found": 1,
        "method-not-allowed": 1,
        "unsupported-media-type": 1,
    }


# keys and limits


@pytest.fixture(scope="module")
def guarded(serve: Any) -> Iterator[httpx.Client]:
    with serve(api_keys="one,two", rate_limit="5/hour") as service:
        yield service.client


def test_without_a_key_nobody_enters(guarded: httpx.Client, problem: Any) -> None:
    for headers in ({}, {"X-API-Key": "three"}):
        response = guarded.post("/sample", headers=headers)
        problem(response, 401, "unauthorized")
        assert response.headers["www-authenticate"]
    assert guarded.get("/docs").status_code == 200


def test_a_client_over_its_limit_waits(guarded: httpx.Client, problem: Any) -> None:
    answers = [guarded.post("/sample", headers={"X-API-Key": "one"}) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    problem(answers[-1], 429, "rate-limited")
    assert 0 < int(answers[-1].headers["retry-after"]) <= 3600
    assert guarded.post("/sample", headers={"X-API-Key": "two"}).status_code == 200
    assert guarded.get("/health/ready").status_code == 200


# a queue that is full


@pytest.fixture(scope="module")
def crowded(serve: Any) -> Iterator[Any]:
    """A service with room for two requests and 1,000 rows of light work, and for as many of heavy work."""
    with serve(queue_length=2, queued_rows=1000, cache_memory_bytes=0) as service:
        yield service


CALLS = [("/sample", False), ("/reconstruct", True), ("/encode", True), ("/loglik?num_samples=7", True)]


@pytest.mark.parametrize(("path", "uploads"), CALLS)
def test_a_full_queue_refuses_and_recovers(
    crowded: Any, problem: Any, pngs: list[bytes], path: str, uploads: bool
) -> None:
    files = {"files": {"file": pngs[0]}} if uploads else {}
    with contextlib.ExitStack() as stack:
        with crowded.hold():
            waiting = [stack.enter_context(crowded.send(path, png if uploads else b"")) for png in pngs[1:3]]
            crowded.until(lambda: crowded.queued() == 2)
            response = crowded.client.post(path, **files)
            problem(response, 503, "overloaded")
            assert int(response.headers["retry-after"]) >= 1
        for connection in waiting:
            assert connection.recv(12) == b"HTTP/1.1 200"
    assert crowded.client.post(path, **files).status_code == 200


def test_heavy_work_that_waits_refuses_no_light_work(crowded: Any, problem: Any, pngs: list[bytes]) -> None:
    score = "/loglik?num_samples=400"
    with contextlib.ExitStack() as stack:
        with crowded.hold():
            waiting = [stack.enter_context(crowded.send(score, png)) for png in pngs[:2]]
            crowded.until(lambda: crowded.queued() == 2)
            problem(crowded.client.post(score, files={"file": pngs[2]}), 503, "overloaded")
            waiting.append(stack.enter_context(crowded.send("/sample?n=256")))
            crowded.until(lambda: crowded.queued() == 3)
        for connection in waiting:
            assert connection.recv(12) == b"HTTP/1.1 200"


def test_too_many_rows_are_refused_while_others_wait(crowded: Any, problem: Any, pngs: list[bytes]) -> None:
    score = "/loglik?num_samples=1000"
    with crowded.hold(), crowded.send("/loglik?num_samples=1", pngs[1]) as waiting:
        crowded.until(lambda: crowded.queued() == 1)
        problem(crowded.client.post(score, files={"file": pngs[0]}), 503, "overloaded")
        assert crowded.client.post("/models").status_code == 405  # the others still answer
        crowded.release()
        assert waiting.recv(12) == b"HTTP/1.1 200"
    assert crowded.client.post(score, files={"file": pngs[0]}).status_code == 200


def test_a_request_that_no_queue_could_hold_is_not_told_to_try_again(
    crowded: Any, problem: Any, pngs: list[bytes]
) -> None:
    problem(crowded.client.post("/loglik?num_samples=1001", files={"file": pngs[0]}), 413, "too-large")
    three = [("file", png) for png in pngs[:3]]
    body = problem(crowded.client.post("/loglik?num_samples=400", files=three), 413, "too-large")
    assert body["detail"].startswith("3 images with 400 samples each are more than this service queues, 1000 samples")


def test_a_refusal_leaves_no_part_of_a_request_behind(crowded: Any, problem: Any, pngs: list[bytes]) -> None:
    files = [("file", png) for png in pngs[:2]]
    with crowded.hold(), crowded.send("/loglik?num_samples=700", pngs[2]) as waiting:
        crowded.until(lambda: crowded.queued() == 1)
        problem(crowded.client.post("/loglik?num_samples=200", files=files), 503, "overloaded")
        assert (crowded.queued(), crowded.metric("vampprior_queue_rows")) == (1, 700)
        crowded.release()
        assert waiting.recv(12) == b"HTTP/1.1 200"
    crowded.until(lambda: crowded.queued() == crowded.metric("vampprior_queue_rows") == 0)


# a service that is not ready


def test_while_models_load_the_service_lives_but_is_not_ready(
    serve: Any, save_model: Any, hold_loading: Any, problem: Any, pngs: list[bytes], tmp_path: Path
) -> None:
    save_model(tmp_path, "slow", "1", seed=1)
    opened = hold_loading("slow")
    with serve(model_store=tmp_path, default_model="slow", ready=False) as service:
        for response in (
            service.client.get("/health/ready"),
            service.client.post("/sample"),
            service.client.post("/loglik", files={"file": pngs[0]}),
            service.client.get("/pseudo-inputs"),
            service.client.get("/models/slow"),
        ):
            problem(response, 503, "not-ready")
            assert int(response.headers["retry-after"]) >= 1
        assert service.client.get("/health/live").status_code == 200
        assert service.client.get("/docs").status_code == 200
        assert service.client.get("/models").json() == {"default": "slow", "loading": True, "models": []}
        opened.set()
        service.until(lambda: service.client.get("/health/ready").status_code == 200)
        assert service.client.post("/sample").status_code == 200
        assert service.metric("vampprior_model_ready", model="slow@1") == 1


def test_a_service_whose_default_model_is_refused_is_not_ready_and_says_why(serve: Any, problem: Any) -> None:
    with serve(default_model="damaged", ready=False) as service:
        service.until(lambda: not service.client.get("/models").json()["loading"])
        for response in (
            service.client.get("/health/ready"),
            service.client.post("/sample"),
            service.client.get("/pseudo-inputs"),
        ):
            assert "sha256" in problem(response, 503, "not-ready")["detail"]
            assert int(response.headers["retry-after"]) >= 1
        assert "sha256" in problem(service.client.post("/sample?model=damaged"), 404, "model-not-found")["detail"]
        assert service.client.post("/sample?model=tiny-vamp").status_code == 200


def test_a_store_that_is_not_there_any_more(serve: Any, problem: Any, tmp_path: Path) -> None:
    with serve(model_store=tmp_path / "nowhere", ready=False) as service:
        service.until(lambda: not service.client.get("/models").json()["loading"])
        for response in (service.client.get("/health/ready"), service.client.post("/sample")):
            assert f"there is no folder {tmp_path / 'nowhere'}" in problem(response, 503, "not-ready")["detail"]
        problem(service.client.post("/sample?model=tiny-vamp"), 404, "model-not-found")


def test_a_default_model_that_is_not_there_any_more(serve: Any, problem: Any) -> None:
    with serve(default_model="gone", ready=False) as service:
        service.until(lambda: not service.client.get("/models").json()["loading"])
        for response in (service.client.get("/health/ready"), service.client.post("/sample")):
            assert "the default model gone is not there" in problem(response, 503, "not-ready")["detail"]


# a deadline that passes


@pytest.fixture(scope="module")
def hasty(serve: Any) -> Iterator[Any]:
    settings = {"deadline_seconds": 0.2, "max_num_samples": 10**9, "queued_rows": 10**9}
    with serve(**settings, cache_memory_bytes=0, ready=True) as service:
        yield service


@pytest.mark.parametrize(("path", "uploads"), CALLS)
def test_the_deadline_covers_the_wait(hasty: Any, problem: Any, pngs: list[bytes], path: str, uploads: bool) -> None:
    with hasty.hold():
        body = problem(
            hasty.client.post(path, **({"files": {"file": pngs[0]}} if uploads else {})), 504, "deadline-exceeded"
        )
    assert "0.2 seconds" in body["detail"]
    hasty.until(lambda: hasty.queued() == 0)


def test_the_deadline_covers_the_computation(hasty: Any, problem: Any, pngs: list[bytes]) -> None:
    response = hasty.client.post("/loglik?num_samples=1000000000", files={"file": pngs[0]})
    problem(response, 504, "deadline-exceeded")
    hasty.until(lambda: hasty.queued() == hasty.metric("vampprior_queue_rows") == 0)


def test_the_deadline_covers_an_upload_that_never_ends(hasty: Any) -> None:
    with hasty.send("/encode", b"\x89PNG", length=1000) as connection:
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 504")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["type"] == "/problems/deadline-exceeded"
