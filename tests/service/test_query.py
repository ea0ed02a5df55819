"""Routes that read their query string into one model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError

from service.errors import BadParameter
from service.http.routes.query import MAX_QUERY_BYTES, QueryModel, QueryRoute, parse_query


class Parameters(QueryModel):
    n: int = 1


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def without_query(_: Request) -> dict[str, Any]:
    return {"answer": 42}


async def with_path(request: Request, query: Annotated[Parameters, Query()], k: Annotated[int, Path(ge=0)]) -> Response:
    return Response(f"{request.method} {query.n} {k!r}")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/fixed", 200, '{"answer":42}'),
        ("GET", "/fixed?n=1", 422, None),
        ("GET", "/items/7?n=3", 200, "GET 3 7"),
        ("GET", "/items/7", 200, "GET 1 7"),
        ("HEAD", "/items/7", 200, ""),
        ("GET", "/items/-1", 422, None),
        ("GET", "/items/seven", 422, None),
        ("GET", "/items/7?k=8", 422, None),
        ("POST", "/items/7", 405, None),
    ],
)
async def test_an_endpoint_gets_its_query_and_its_path(method: str, path: str, status: int, body: str | None) -> None:
    router = APIRouter(route_class=QueryRoute)
    router.get("/fixed")(without_query)
    router.get("/items/{k}")(with_path)
    app = FastAPI()
    app.router.routes.extend(router.routes)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        response = await client.request(method, path)
    assert response.status_code == status
    assert body is None or response.text == body


async def unknown_parameter(request: Request, query: Annotated[Parameters, Query()], name: str) -> Response: ...


async def without_path(request: Request, query: Annotated[Parameters, Query()]) -> Response: ...


async def without_anything() -> Response: ...


async def without_request(query: Annotated[Parameters, Query()]) -> Response: ...


@pytest.mark.parametrize(
    ("path", "endpoint", "options", "message"),
    [
        ("/hello", unknown_parameter, {}, "unknown_parameter must take a `Request`, `query` and the parameters of"),
        ("/hello/{name}", without_path, {}, "without_path must take"),
        ("/hello", without_request, {}, "without_request must take"),
        ("/hello", without_anything, {}, "without_anything must take"),
        ("/hello", without_path, {"dependencies": [Depends(lambda: None)]}, "without_path has dependencies"),
        ("/hello", without_path, {"status_code": 201}, "without_path has the status 201"),
    ],
)
def test_what_a_route_would_ignore_is_an_error(
    path: str, endpoint: Callable[..., Any], options: dict[str, Any], message: str
) -> None:
    router = APIRouter(route_class=QueryRoute)
    with pytest.raises(TypeError, match=message):
        router.get(path, **options)(endpoint)


def test_dependencies_of_a_router_are_an_error() -> None:
    router = APIRouter(route_class=QueryRoute, dependencies=[Depends(lambda: None)])
    with pytest.raises(TypeError, match="has dependencies"):
        router.get("/hello")(without_path)


@pytest.mark.parametrize(
    ("raw", "parameters"),
    [
        (b"", {}),
        (b"&&", {}),
        (b"n=1", {"n": "1"}),
        (b"n", {"n": ""}),
        (b"n=&m=", {"n": "", "m": ""}),
        (b"n=a+b%20c%2Bd", {"n": "a b c+d"}),
        (b"n=%C3%A9", {"n": "\u00e9"}),
        ("n=\u00e9".encode(), {"n": "\u00e9"}),
        (b"n=%00", {"n": "\0"}),
        (b"n=1;m=2", {"n": "1;m=2"}),
        (b"n=%2525", {"n": "%25"}),
        (b"n=" + b"1" * (MAX_QUERY_BYTES - 2), {"n": "1" * (MAX_QUERY_BYTES - 2)}),
    ],
)
def test_query_strings(raw: bytes, parameters: dict[str, str]) -> None:
    assert parse_query(raw) == parameters


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"n=%", "two hexadecimal digits"),
        (b"n=%1", "two hexadecimal digits"),
        (b"%g1=1", "two hexadecimal digits"),
        (b"n=%u0041", "two hexadecimal digits"),
        (b"n=\xff", "not UTF-8"),
        (b"n=%FF", "not UTF-8"),
        (b"%c3%28=1", "not UTF-8"),
        (b"n=" + b"1" * (MAX_QUERY_BYTES - 1), f"has {MAX_QUERY_BYTES + 1} bytes"),
    ],
)
def test_query_strings_that_cannot_be_read(raw: bytes, message: str) -> None:
    with pytest.raises(BadParameter) as caught:
        parse_query(raw)
    assert message in caught.value.detail


def test_repeated_parameters_are_named() -> None:
    with pytest.raises(RequestValidationError) as caught:
        parse_query(b"m=1&n=1&k=1&%6e=2&m=3&n=1")
    assert [(error["loc"], error["msg"]) for error in caught.value.errors()] == [
        (("query", "m"), "is given 2 times, but has one value"),
        (("query", "n"), "is given 3 times, but has one value"),
    ]
