from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import APIRouter, FastAPI, Form, Request, UploadFile
from limits import parse
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse

from service.errors import BadParameter
from service.http.access import AccessControl
from service.http.gateway import Gateway
from service.http.problems import install_error_handlers
from service.http.rate_limit import LocalWindow
from service.logs import configure_logging, request_id
from service.metrics import Metrics
from service.settings import Settings

pytestmark = pytest.mark.anyio


def make_app(metrics: Metrics | None = None, max_bytes: int = 1000, **access: Any) -> FastAPI:
    """An application behind a gateway; further options are those of its access control."""
    app = FastAPI()
    install_error_handlers(app)
    guard(app, AccessControl(**access), metrics or Metrics(), max_bytes)

    @app.post("/sample")
    async def sample() -> str:
        return "sampled"

    return app


def guard(app: FastAPI, access: AccessControl, metrics: Metrics, max_bytes: int = 1000) -> None:
    app.add_middleware(Gateway, metrics=metrics, access=access, max_bytes=max_bytes, routes=app.router.routes)


def client_of(app: FastAPI, address: str = "192.0.2.1") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(address, 1234))
    return httpx.AsyncClient(transport=transport, base_url="http://test")


def assert_is_problem(response: httpx.Response, status: int, slug: str) -> None:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == f"/problems/{slug}"


# ids, metrics and errors


@pytest.mark.parametrize("given", ["abc", "A.b_c-9", "x" * 128])
async def test_a_sane_request_id_is_kept(given: str) -> None:
    async with client_of(make_app()) as client:
        response = await client.post("/sample", headers={"X-Request-ID": given})
    assert response.headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", 'a"b', "é".encode().decode("latin-1"), "a,b"])
async def test_another_request_id_is_replaced(given: str) -> None:
    async with client_of(make_app()) as client:
        response = await client.post("/sample", headers={"X-Request-ID": given.encode("latin-1")})
    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


async def test_the_request_id_is_the_same_everywhere() -> None:
    app = make_app()

    @app.get("/ids")
    async def ids(request: Request) -> list[str | None]:
        return [request.state.request_id, request_id.get(), await asyncio.create_task(task())]

    async def task() -> str | None:
        return request_id.get()

    async with client_of(app) as client:
        response, problem = await asyncio.gather(client.get("/ids"), client.get("/nowhere"))
    assert response.json() == [response.headers["x-request-id"]] * 3
    assert problem.json()["request_id"] == problem.headers["x-request-id"]
    assert problem.headers["x-request-id"] != response.headers["x-request-id"]
    assert request_id.get() is None


async def test_a_stray_exception_is_a_500_with_id_metrics_and_log(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    app = make_app(metrics)

    @app.get("/fail")
    async def fail() -> None:
        raise RuntimeError("the password is hunter2")

    async with client_of(app) as client:
        response = await client.get("/fail", headers={"X-Request-ID": "abc"})
    assert_is_problem(response, 500, "internal")
    assert response.headers["x-request-id"] == response.json()["request_id"] == "abc"
    assert "hunter2" not in response.text
    assert counted(metrics, "GET", "/fail", "500") == 1
    assert "hunter2" in caplog.text


async def test_half_an_answer_is_not_finished_by_an_error() -> None:
    """The server has to drop the connection, else the client takes what it got for all there is."""
    app = make_app()

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def halves() -> AsyncIterator[bytes]:
            yield b"half"
            raise RuntimeError("broken")

        return StreamingResponse(halves())

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        with pytest.raises(RuntimeError, match="broken"):
            await client.get("/stream")


def counted(metrics: Metrics, method: str, route: str, status: str) -> float | None:
    labels = {"method": method, "route": route, "status": status, "model": ""}
    return metrics.registry.get_sample_value("vampprior_http_requests_total", labels)


async def test_requests_are_counted_by_route_template() -> None:
    metrics = Metrics()
    app = make_app(metrics)
    router = APIRouter(prefix="/models")

    @router.get("/{name}/{k}")
    async def model(name: str, k: int) -> None: ...

    app.include_router(router)
    async with client_of(app) as client:
        for k in range(3):
            await client.get(f"/models/vamp/{k}")
        await client.get("/models/vamp/first")
        await client.get("/models/vamp")
        await client.get("/nowhere/42")
        await client.get("/sample")
        await client.request("BREW", "/sample")
    assert counted(metrics, "GET", "/models/{name}/{k}", "200") == 3
    assert counted(metrics, "GET", "/models/{name}/{k}", "422") == 1
    assert counted(metrics, "GET", "unmatched", "404") == 2
    assert counted(metrics, "GET", "/sample", "405") == 1
    assert counted(metrics, "other", "/sample", "405") == 1
    duration = {"method": "GET", "route": "/models/{name}/{k}", "model": ""}
    assert metrics.registry.get_sample_value("vampprior_http_request_duration_seconds_count", duration) == 4


async def test_a_client_that_leaves_is_no_fault_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    app = make_app(metrics)

    @app.get("/upload")
    async def upload() -> None:
        raise ClientDisconnect

    async with client_of(app) as client:
        await client.get("/upload")
    assert counted(metrics, "GET", "/upload", "499") == 1
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_request_that_the_stopping_server_cancels_is_answered_503() -> None:
    metrics = Metrics()
    app = make_app(metrics)
    waiting = asyncio.Event()

    @app.get("/wait")
    async def wait() -> None:
        waiting.set()
        await asyncio.Event().wait()

    async with client_of(app) as client:
        request = asyncio.create_task(client.get("/wait"))
        await waiting.wait()
        request.cancel()
        assert_is_problem(await request, 503, "not-ready")
    assert counted(metrics, "GET", "/wait", "503") == 1


async def test_requests_under_way_are_counted() -> None:
    metrics = Metrics()
    app = make_app(metrics)

    @app.get("/progress")
    async def progress() -> float | None:
        return metrics.registry.get_sample_value("vampprior_http_requests_in_progress")

    async with client_of(app) as client:
        assert (await client.get("/progress")).json() == 1
    assert metrics.registry.get_sample_value("vampprior_http_requests_in_progress") == 0


# access control


def limit_of(limit: str) -> LocalWindow:
    return LocalWindow(parse(limit))


async def test_without_keys_everyone_may_ask() -> None:
    async with client_of(make_app()) as client:
        assert (await client.post("/sample")).status_code == 200


async def test_with_keys_one_of_them_must_come() -> None:
    async with client_of(make_app(keys=["one", "two"])) as client:
        for key in ("one", "two"):
            assert (await client.post("/sample", headers={"X-API-Key": key})).status_code == 200
        for key in ("", "on", "onee", "one,two", "ONE", "\xff"):
            response = await client.post("/sample", headers={"X-API-Key": key.encode("latin-1")})
            assert_is_problem(response, 401, "unauthorized")
            assert "www-authenticate" in response.headers
        assert_is_problem(await client.post("/sample"), 401, "unauthorized")
        assert_is_problem(await client.get("/nowhere"), 401, "unauthorized")


@pytest.mark.parametrize("path", ["/", "/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json"])
async def test_probes_and_documentation_need_no_key(path: str) -> None:
    async with client_of(make_app(keys=["one"])) as client:
        assert (await client.get(path)).status_code in {200, 404}


@pytest.mark.parametrize("path", ["/healthy", "/health", "/metrics/x", "/docsample", "/openapi.json/x", "/%0A"])
async def test_paths_that_only_look_open_need_a_key(path: str) -> None:
    async with client_of(make_app(keys=["one"])) as client:
        assert (await client.get(path)).status_code == 401


async def test_a_client_over_its_limit_is_told_when_to_come_back() -> None:
    app = make_app(limit=limit_of("2/day"))
    async with client_of(app) as client:
        for remaining in ("1", "0"):
            response = await client.post("/sample")
            assert response.status_code == 200
            assert response.headers["ratelimit-limit"] == "2"
            assert response.headers["ratelimit-remaining"] == remaining
        response = await client.post("/sample")
    assert_is_problem(response, 429, "rate-limited")
    assert response.headers["ratelimit-remaining"] == "0"
    assert 0 < int(response.headers["retry-after"]) <= 24 * 3600
    async with client_of(app, address="192.0.2.2") as client:
        assert (await client.post("/sample")).status_code == 200


async def test_a_client_is_its_key_wherever_it_is() -> None:
    app = make_app(keys=["one", "two"], limit=limit_of("1/day"))
    async with client_of(app, address="192.0.2.1") as client:
        assert (await client.post("/sample", headers={"X-API-Key": "one"})).status_code == 200
        assert (await client.post("/sample", headers={"X-API-Key": "two"})).status_code == 200
    async with client_of(app, address="192.0.2.2") as client:
        assert (await client.post("/sample", headers={"X-API-Key": "one"})).status_code == 429


async def test_a_header_that_opens_nothing_is_no_new_client() -> None:
    async with client_of(make_app(limit=limit_of("1/day"))) as client:
        assert (await client.post("/sample", headers={"X-API-Key": "made"})).status_code == 200
        assert (await client.post("/sample", headers={"X-API-Key": "up"})).status_code == 429


@pytest.mark.parametrize("name", ["limit", "failure_limit"])
async def test_guesses_at_keys_are_limited(name: str) -> None:
    async with client_of(make_app(keys=["one"], **{name: limit_of("1/day")})) as client:
        assert (await client.post("/sample", headers={"X-API-Key": "a"})).status_code == 401
        response = await client.post("/sample", headers={"X-API-Key": "b"})
        assert_is_problem(response, 429, "rate-limited")
        assert (await client.post("/sample", headers={"X-API-Key": "one"})).status_code == 200


async def test_a_failed_key_is_limited_without_a_setting() -> None:
    app = FastAPI()
    install_error_handlers(app)
    guard(app, AccessControl.of(Settings(api_keys="one")), Metrics())  # type: ignore[arg-type]
    async with client_of(app) as client:
        statuses = [(await client.post("/sample")).status_code for _ in range(31)]
    assert statuses == [401] * 30 + [429]


async def test_a_network_of_ipv6_is_one_client() -> None:
    app = make_app(limit=limit_of("1/day"))
    statuses = []
    for address in ("2001:db8::1", "2001:db8::ffff", "2001:db8:0:1::1", "::ffff:192.0.2.1", "192.0.2.1"):
        async with client_of(app, address=address) as client:
            statuses.append((await client.post("/sample")).status_code)
    assert statuses == [200, 429, 200, 200, 429]


async def test_probes_and_documentation_are_not_limited() -> None:
    async with client_of(make_app(limit=limit_of("1/day"))) as client:
        for path in ("/health/live", "/metrics", "/docs/x", "/static/x") * 3:
            assert (await client.get(path)).status_code == 404


# body limit


async def pieces(*sizes: int) -> AsyncIterator[bytes]:
    for size in sizes:
        yield bytes(size)


def reading_app(max_bytes: int) -> tuple[FastAPI, list[int]]:
    app = make_app(max_bytes=max_bytes)
    read: list[int] = []

    @app.post("/raw")
    async def raw(request: Request) -> int:
        async for piece in request.stream():
            read.append(len(piece))  # noqa: PERF401 - what was read counts even if the rest is refused
        return sum(read)

    @app.post("/form")
    async def form(file: UploadFile, text: str = Form()) -> int:
        return len(await file.read()) + len(text)

    return app, read


async def test_a_body_of_the_limit_passes() -> None:
    app, _ = reading_app(100)
    async with client_of(app) as client:
        assert (await client.post("/raw", content=bytes(100))).json() == 100
        assert (await client.post("/raw", content=pieces(50, 50))).status_code == 200


async def test_a_body_that_says_it_is_too_long_is_not_read() -> None:
    app, read = reading_app(100)
    async with client_of(app) as client:
        assert_is_problem(await client.post("/raw", content=bytes(101)), 413, "too-large")
        huge = {"Content-Length": "9" * 5000}
        assert_is_problem(await client.post("/raw", content=b"x", headers=huge), 413, "too-large")
    assert read == []


async def test_a_body_without_a_length_is_refused_once_it_is_too_long() -> None:
    app, read = reading_app(100)
    sent = []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            sent.append(10)
            yield bytes(10)

    async with client_of(app) as client:
        assert_is_problem(await client.post("/raw", content=endless()), 413, "too-large")
    assert sum(read) == 100
    assert sum(sent) <= 120


async def test_a_form_that_is_too_long_is_too_large_and_not_broken() -> None:
    app, _ = reading_app(1000)
    start = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'

    async def form() -> AsyncIterator[bytes]:
        yield start
        for _ in range(20):
            yield bytes(100)

    async with client_of(app) as client:
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        assert_is_problem(await client.post("/form", content=form(), headers=headers), 413, "too-large")


@asynccontextmanager
async def serve(app: FastAPI, http: str) -> AsyncIterator[str]:
    """The app behind a real server on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, http=http, ws="none", lifespan="off", log_config=None)  # type: ignore[arg-type]
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve([listener]))
        while not server.started:
            assert not task.done()
            await asyncio.sleep(0.005)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_over_a_real_connection_a_body_too_large_is_answered(http: str) -> None:
    app, _ = reading_app(1000)
    async with serve(app, http) as url, httpx.AsyncClient(base_url=url, timeout=60) as client:
        assert_is_problem(await client.post("/raw", content=bytes(10_000_000)), 413, "too-large")
        assert_is_problem(await client.post("/raw", content=pieces(*[100_000] * 100)), 413, "too-large")
        assert (await client.post("/raw", content=bytes(1000))).status_code == 200


# administration


async def test_reloading_needs_an_admin_key() -> None:
    def app() -> FastAPI:
        app = make_app(keys=["user"], admin_keys=["admin"])

        @app.post("/models/reload")
        async def reload() -> str:
            return "reloaded"

        return app

    async with client_of(app()) as client:
        assert_is_problem(await client.post("/models/reload"), 401, "unauthorized")
        assert_is_problem(await client.post("/models/reload", headers={"X-API-Key": "user"}), 403, "forbidden")
        assert (await client.post("/models/reload", headers={"X-API-Key": "admin"})).json() == "reloaded"
        assert (await client.post("/sample", headers={"X-API-Key": "admin"})).status_code == 200


async def test_without_admin_keys_nobody_may_reload() -> None:
    async with client_of(make_app()) as client:
        assert_is_problem(await client.post("/models/reload", headers={"X-API-Key": ""}), 403, "forbidden")
        assert (await client.post("/sample")).status_code == 200


async def test_an_admin_key_alone_closes_nothing_else() -> None:
    async with client_of(make_app(admin_keys=["admin"], failure_limit=limit_of("1/day"))) as client:
        assert (await client.post("/sample")).status_code == 200
        assert_is_problem(await client.post("/models/reload"), 403, "forbidden")
        assert_is_problem(await client.post("/models/reload"), 429, "rate-limited")


# deadline


async def test_past_the_deadline_the_answer_is_504() -> None:
    for deadline in (0.01, 0.15):  # before and after the gateway begins to listen for a hang-up
        app = FastAPI()
        app.add_middleware(Gateway, metrics=Metrics(), deadline=deadline)
        cancelled = asyncio.Event()

        @app.get("/wait")
        async def wait() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()  # noqa: B023

        async with client_of(app) as client:
            assert_is_problem(await client.get("/wait"), 504, "deadline-exceeded")
        assert cancelled.is_set()


# handlers


async def test_a_handler_answers_in_place_of_the_application() -> None:
    """With the same id, limits, errors and metrics."""
    metrics, app = Metrics(), FastAPI()

    async def answer(request: Request) -> Response:
        if request.url.query == "fail":
            raise RuntimeError("the password is hunter2")
        if request.url.query == "bad":
            raise BadParameter("n is bad")
        return Response(f"{request.state.request_id} {request.state.client}")

    gateway = Gateway(
        app, metrics=metrics, access=AccessControl(limit=limit_of("4/day")), handlers={("GET", "/fast"): answer}
    )
    async with client_of(gateway) as client:  # type: ignore[arg-type]
        response = await client.get("/fast", headers={"X-Request-ID": "abc"})
        assert response.text == "abc address:192.0.2.1"
        assert (response.headers["x-request-id"], response.headers["ratelimit-remaining"]) == ("abc", "3")
        assert_is_problem(await client.get("/fast?bad"), 422, "bad-parameter")
        failed = await client.get("/fast?fail")
        assert_is_problem(failed, 500, "internal")
        assert "hunter2" not in failed.text
        assert (await client.post("/fast")).status_code == 404  # of the application
        assert_is_problem(await client.get("/fast"), 429, "rate-limited")
    assert [counted(metrics, "GET", "/fast", status) for status in ("200", "422", "500", "429")] == [1, 1, 1, 1]


# all together


async def test_every_refusal_has_an_id_and_is_counted() -> None:
    metrics = Metrics()
    app = FastAPI()
    install_error_handlers(app)
    guard(app, AccessControl(keys=["one"], limit=limit_of("3/day")), metrics, max_bytes=10)
    async with client_of(app) as client:
        for headers, size, status in [
            ({}, 100, 401),
            ({"X-API-Key": "one"}, 100, 413),
            ({"X-API-Key": "one"}, 1, 404),
            ({"X-API-Key": "one"}, 1, 404),
            ({"X-API-Key": "one"}, 1, 429),
        ]:
            response = await client.post("/nowhere", headers=headers, content=bytes(size))
            assert response.status_code == status
            assert response.json()["request_id"] == response.headers["x-request-id"]
            assert ("ratelimit-remaining" in response.headers) == (status != 401)
    assert counted(metrics, "POST", "unmatched", "404") == 2
    assert counted(metrics, "POST", "unmatched", "413") == 1


async def test_refusals_are_counted_by_the_route_that_they_asked_for() -> None:
    metrics = Metrics()
    app = FastAPI()
    install_error_handlers(app)

    @app.post("/models/{name}")
    async def model(name: str) -> None: ...

    guard(app, AccessControl(keys=["one"], limit=limit_of("1/day")), metrics, max_bytes=10)
    async with client_of(app) as client:
        for headers, size, status in [
            ({}, 1, 401),
            ({"X-API-Key": "one"}, 100, 413),
            ({"X-API-Key": "one"}, 1, 429),
        ]:
            response = await client.post("/models/vamp", headers=headers, content=bytes(size))
            assert response.status_code == status
            assert counted(metrics, "POST", "/models/{name}", str(status)) == 1


# logs


@pytest.fixture
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    names = ["uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"]
    loggers = [(logger, logger.level, list(logger.handlers)) for logger in [root, *map(logging.getLogger, names)]]
    yield
    logging.captureWarnings(False)
    for logger, level, handlers in loggers:
        logger.setLevel(level)
        logger.handlers[:] = handlers


def printed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    for handler in logging.getLogger().handlers:
        handler.flush()
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.mark.usefixtures("_restored_logging")
async def test_a_request_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    app = make_app()

    @app.get("/models/{name}")
    async def model(name: str) -> None:
        logging.getLogger("model").info("asked for\n%s", name)

    async with client_of(app) as client:
        await client.get("/models/vamp", headers={"X-Request-ID": "abc"})
    inner, access = [line for line in printed(capsys) if line["logger"] != "httpx"]
    assert (inner["message"], inner["request_id"], inner["level"]) == ("asked for\nvamp", "abc", "info")
    assert access["duration_seconds"] >= 0
    expected = {
        "logger": "service.access",
        "method": "GET",
        "route": "/models/{name}",
        "status": 200,
        "request_id": "abc",
        "client": "192.0.2.1",
    }
    assert {name: access[name] for name in expected} == expected


@pytest.mark.usefixtures("_restored_logging")
async def test_an_exception_is_one_line_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("error")
    app = make_app()

    @app.get("/fail")
    async def fail() -> None:
        raise RuntimeError("broken")

    async with client_of(app) as client:
        await client.get("/fail", headers={"X-Request-ID": "abc"})
    (line,) = printed(capsys)
    assert line["request_id"] == "abc"
    assert "RuntimeError: broken" in line["exception"]


@pytest.mark.usefixtures("_restored_logging")
def test_the_lines_of_uvicorn_and_of_python_are_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("uvicorn").addHandler(logging.StreamHandler())
    configure_logging("info")
    configure_logging("info")
    logging.getLogger("uvicorn.error").info("started")
    logging.getLogger("uvicorn.access").info("GET /")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", stacklevel=1)
    started, warned = printed(capsys)
    assert started["message"] == "started"
    assert "old" in warned["message"]


@pytest.mark.parametrize("deadline", [0.05, 0.3])
async def test_a_handler_may_lift_the_deadline(deadline: float) -> None:
    """It then ends by itself, or when the client leaves."""
    left, events = asyncio.Event(), []

    async def receive() -> Any:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        events.append(message["type"])

    async def handle(scope: Any, receive: Any, send: Any) -> None:
        scope["state"]["exchange"].lift_deadline()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        asyncio.get_running_loop().call_later(2 * max(deadline, 0.1), left.set)
        try:
            await asyncio.Event().wait()
        finally:
            events.append("cancelled" if left.is_set() else "expired")

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    await Gateway(handle, metrics=Metrics(), deadline=deadline)(scope, receive, send)
    assert events == ["http.response.start", "cancelled"]
