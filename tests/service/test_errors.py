from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException, Query, Request

from service import errors
from service.errors import Problem
from service.http.problems import install_error_handlers

pytestmark = pytest.mark.anyio


def make_app() -> FastAPI:
    app = FastAPI()
    install_error_handlers(app)
    return app


async def request(app: FastAPI, method: str, path: str, **options: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path, **options)


def problems() -> Iterator[type[Problem]]:
    pending = [Problem]
    while pending:
        subclasses = pending.pop().__subclasses__()
        pending += subclasses
        yield from subclasses


def assert_is_problem(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["type"] == f"/problems/{slug}"
    assert body["title"]
    assert body["detail"]
    return body


def test_the_tree_is_the_one_that_is_drawn() -> None:
    drawing = errors.__doc__ or ""
    for problem in problems():
        assert problem.__name__ in drawing
        assert problem.__name__ in errors.__all__


def test_no_two_problems_share_a_type() -> None:
    slugs = [problem.slug for problem in problems()]
    assert len(slugs) == len(set(slugs))


@pytest.mark.parametrize("problem", sorted(set(problems()) - {errors.WrongSize}, key=lambda item: item.__name__))
async def test_a_problem_is_answered_as_itself(problem: type[Problem]) -> None:
    app = make_app()

    @app.get("/fail")
    async def fail() -> None:
        raise problem("Do this instead.", headers={"X-Hint": "7"})

    response = await request(app, "GET", "/fail")
    body = assert_is_problem(response, problem.status, problem.slug)
    assert body["detail"] == "Do this instead."
    assert body["instance"] == "/fail"
    assert response.headers["x-hint"] == "7"
    assert ("retry-after" in response.headers) == (problem.status in {409, 429, 503})
    assert ("www-authenticate" in response.headers) == (problem.status == 401)


def test_a_wrong_size_says_both_sizes_and_the_remedies() -> None:
    detail = errors.WrongSize(got=(30, 40), expected=(28, 29)).detail
    for part in ("40 x 30", "29 x 28", "resize=true", "invert=true"):
        assert part in detail


async def test_an_unknown_path() -> None:
    body = assert_is_problem(await request(make_app(), "GET", "/a b/\N{SNOWMAN}"), 404, "not-found")
    assert body["instance"] == "/a%20b/%E2%98%83"


async def test_a_wrong_method_names_those_allowed() -> None:
    app = make_app()

    @app.post("/sample")
    async def sample() -> None: ...

    response = await request(app, "GET", "/sample")
    body = assert_is_problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "OPTIONS, POST"
    assert "POST" in body["detail"]


async def test_a_bad_parameter_is_named() -> None:
    app = make_app()

    @app.get("/sample/{k}")
    async def sample(k: int, n: Annotated[int, Query(le=256)], seed: int) -> None: ...

    response = await request(app, "GET", "/sample/first", params={"n": 257})
    body = assert_is_problem(response, 422, "bad-parameter")
    assert {(error["location"], error["parameter"]) for error in body["errors"]} == {
        ("path", "k"),
        ("query", "n"),
        ("query", "seed"),
    }
    assert "Query parameter `n`: Input should be less than or equal to 256." in body["detail"]


async def test_broken_json_is_a_bad_parameter() -> None:
    app = make_app()

    @app.post("/loglik")
    async def loglik(body: dict[str, int]) -> None: ...

    response = await request(app, "POST", "/loglik", content=b"{", headers={"content-type": "application/json"})
    assert_is_problem(response, 422, "bad-parameter")


async def test_text_that_no_codec_takes_back_is_answered_all_the_same() -> None:
    app = make_app()

    @app.get("/fail")
    async def fail() -> None:
        raise errors.BadParameter("what is \udcff?")

    assert_is_problem(await request(app, "GET", "/fail"), 422, "bad-parameter")


@pytest.mark.parametrize(
    ("error", "type_"),
    [
        (HTTPException(400, "The body is no form."), "/problems/bad-request"),
        (HTTPException(418, "Short and stout."), "about:blank"),
    ],
)
async def test_an_http_exception_becomes_a_problem(error: HTTPException, type_: str) -> None:
    app = make_app()

    @app.get("/fail")
    async def fail() -> None:
        raise error

    response = await request(app, "GET", "/fail")
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == type_
    assert response.json()["detail"] == error.detail
    assert response.status_code == error.status_code


async def test_a_fault_of_ours_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app()

    @app.get("/fail")
    async def fail(request: Request) -> None:
        request.state.request_id = "abc"
        raise RuntimeError("the password is hunter2")

    response = await request(app, "GET", "/fail")
    body = assert_is_problem(response, 500, "internal")
    assert body["request_id"] == "abc"
    assert "hunter2" not in response.text
    assert "RuntimeError" not in response.text
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert "hunter2" in str(record.exc_info[1])
