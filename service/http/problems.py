"""Every error of every path, answered as `application/problem+json` (RFC 9457) with the request's id."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose

from service.errors import (
    BadParameter,
    BadRequest,
    Forbidden,
    Internal,
    MethodNotAllowed,
    NotAcceptable,
    NotFound,
    Problem,
    ReloadRefused,
    ReloadUnderWay,
    printable,
)

__all__ = [
    "CLIENT_CLOSED_REQUEST",
    "PROBLEM_JSON",
    "PROBLEM_RESPONSES",
    "ProblemDetail",
    "WebSocketRefusal",
    "error_response",
    "install_error_handlers",
    "internal_error",
    "problem_response",
    "problem_responses",
    "problem_tree",
]

PROBLEM_JSON = "application/problem+json"
PROBLEM_SCHEMA = {"$ref": "#/components/schemas/ProblemDetail"}
UNTYPED = "about:blank"  # the type of a problem of which its status says everything (RFC 9457, section 4.2.1)
MAX_DETAIL, MAX_PARAMETER, MAX_PATH, MAX_ERRORS = 2000, 200, 500, 20
"""Characters of a detail, of a parameter's name and error, and of a path, and number of errors in an answer: bounds for
what a client's own text adds to it."""
CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that left; nobody receives it

logger = logging.getLogger(__name__)


class ParameterError(BaseModel):
    """What is wrong with one parameter."""

    parameter: str = Field(description="Name of the parameter.", examples=["n"])
    location: str = Field(description="`query`, `path`, `header`, `cookie` or `body`.", examples=["query"])
    detail: str = Field(description="What is wrong with it.")


class ProblemDetail(BaseModel):
    """An error, by RFC 9457."""

    type: str = Field(description="Stable name of the kind of problem.", examples=["/problems/bad-parameter"])
    title: str = Field(description="The kind of problem in words.", examples=["Bad parameter"])
    status: int = Field(description="The HTTP status.", examples=[422])
    detail: str = Field(description="What is wrong with this request and what to do about it.")
    instance: str | None = Field(None, description="Path of the request.", examples=["/sample"])
    request_id: str | None = Field(None, description="The id that the logs know this request by.")
    errors: list[ParameterError] | None = Field(None, description="One entry for each bad parameter.")


def problem_response(scope: Scope, problem: Problem, errors: Sequence[ParameterError] | None = None) -> Response:
    """The answer to a request that met this problem. Counts it, if the request is one to an application of ours."""
    _count(scope, problem.slug)
    root_path = scope.get("app_root_path", scope.get("root_path", ""))  # a mounted application extends the latter
    type_ = root_path.rstrip("/") + problem.type
    return _response(scope, type_, problem.title, problem.status, problem.detail, problem.headers, errors)


def internal_error(scope: Scope, error: Exception) -> Response:
    """The answer to an unexpected exception: the log has all of it, the client only the request id."""
    logger.error("unexpected %s", type(error).__name__, exc_info=error)
    detail = "The service failed to answer. The request id finds the cause in its log."
    return problem_response(scope, Internal(detail))


def error_response(scope: Scope, error: Exception) -> Response:
    """The answer to a request that ended in this error."""
    if isinstance(error, Problem):
        return problem_response(scope, error)
    if isinstance(error, RequestValidationError):
        errors = [_parameter_error(item["loc"], item["msg"]) for item in error.errors()[:MAX_ERRORS]]
        detail = " ".join(
            f"{item.location.capitalize()} parameter `{item.parameter}`: {item.detail}." for item in errors
        )
        return problem_response(scope, BadParameter(detail), errors)
    if isinstance(error, HTTPException):
        return _http_exception_response(scope, error)
    if isinstance(error, ClientDisconnect):
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return internal_error(scope, error)


def install_error_handlers(app: FastAPI) -> None:
    """Answer every error of every path of `app` with a problem."""

    async def on_error(request: Request, error: Exception) -> Response:
        return error_response(request.scope, error)

    for kind in (Problem, RequestValidationError, HTTPException, ClientDisconnect, Exception):
        app.add_exception_handler(kind, on_error)


def _response(
    scope: Scope,
    type_: str,
    title: str,
    status: int,
    detail: str,
    headers: Mapping[str, str] | None,
    errors: Sequence[ParameterError] | None = None,
) -> Response:
    if _speaks_inference_protocol(scope):
        body = json.dumps({"error": printable(detail, MAX_DETAIL)}).encode("ascii")
        # the protocol knows no other status for a parameter that is wrong
        return Response(body, 400 if status == BadParameter.status else status, dict(headers or {}), "application/json")
    content = ProblemDetail(
        type=type_,
        title=title,
        status=status,
        detail=printable(detail, MAX_DETAIL),
        instance=quote(scope.get("path", "/")[:MAX_PATH], errors="replace"),
        request_id=scope.get("state", {}).get("request_id"),
        errors=list(errors) if errors else None,
    )
    # ASCII, so that no stray surrogate of a hostile request can fail to encode
    body = json.dumps(content.model_dump(exclude_none=True)).encode("ascii")
    return Response(body, status, dict(headers or {}), PROBLEM_JSON)


def _speaks_inference_protocol(scope: Scope) -> bool:
    """True for paths of the Open Inference Protocol, whose errors are `{"error": "..."}`."""
    path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
    return path == "/v2" or path.startswith("/v2/")


def _http_exception_response(scope: Scope, error: HTTPException) -> Response:
    """The answer to an error of Starlette or FastAPI, with its headers."""
    if error.status_code == 404:
        detail = "Nothing is at this path; /docs lists what is."
        problem: Problem = NotFound(detail, headers=error.headers)
    elif error.status_code == 405:
        allowed = ", ".join(_allowed_methods(scope, error))
        if scope["method"] == "OPTIONS":
            return Response(status_code=204, headers={"Allow": allowed})
        detail = f"{printable(scope['method'], MAX_PARAMETER)} is not allowed here; use {allowed}."
        problem = MethodNotAllowed(detail, headers={"Allow": allowed})
    elif error.status_code == 400:
        problem = BadRequest(str(error.detail), headers=error.headers)
    elif error.status_code < 400:
        return Response(status_code=error.status_code, headers=dict(error.headers or {}))
    else:
        _count(scope, UNTYPED)
        title = HTTPStatus(error.status_code).phrase
        return _response(scope, UNTYPED, title, error.status_code, str(error.detail), error.headers)
    return problem_response(scope, problem)


def _allowed_methods(scope: Scope, error: HTTPException) -> list[str]:
    """Methods of every route to this path, in alphabetical order."""
    methods = {"OPTIONS", *(error.headers or {}).get("Allow", "").replace(",", " ").split()}
    for route in scope["app"].router.routes:
        if route.matches(scope)[0] is not Match.NONE:
            methods |= set(getattr(route, "methods", None) or ())
    if "GET" in methods:
        methods.add("HEAD")
    return sorted(methods)


class WebSocketRefusal(BaseRoute):
    """A route that answers every WebSocket handshake with a problem; Starlette would answer it with a 403 as text."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match every WebSocket."""
        return (Match.FULL if scope["type"] == "websocket" else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 404, or close the connection on a server that cannot answer a handshake with a response."""
        if "websocket.http.response" in scope.get("extensions", {}):
            problem = NotFound("There is no WebSocket at this path; the service answers plain HTTP requests only.")
            await problem_response(scope, problem)(scope, receive, send)
        else:
            await WebSocketClose()(scope, receive, send)


def _count(scope: Scope, type_: str) -> None:
    service = getattr(getattr(scope.get("app"), "state", None), "service", None)
    if service is not None:
        service.metrics.http_problems_total.labels(type_).inc()


def _parameter_error(location: Sequence[str | int], message: str) -> ParameterError:
    """`("query", "n")` and a message of pydantic's, as a client reads it."""
    place, *path = [str(part) for part in location] or ["body"]
    return ParameterError(
        parameter=printable(".".join(path) or place, MAX_PARAMETER),
        location=place,
        detail=printable(message.removeprefix("Value error, ").rstrip("."), MAX_PARAMETER),
    )


def problem_tree(root: type[Problem] = Problem) -> Iterable[type[Problem]]:
    """Every kind of problem."""
    for problem in root.__subclasses__():
        yield problem
        yield from problem_tree(problem)


def problem_responses(*problems: type[Problem]) -> dict[int | str, dict[str, Any]]:
    """The statuses of these problems, as FastAPI's `responses=` takes them."""
    responses: dict[int | str, dict[str, Any]] = {}
    for problem in sorted(problems, key=lambda problem: problem.status):
        response = responses.setdefault(
            problem.status,
            {
                "description": "",
                "content": {PROBLEM_JSON: {"schema": PROBLEM_SCHEMA}},
            },
        )
        response["description"] += ("; " if response["description"] else "") + problem.title
        if problem.default_headers:
            response["headers"] = {name: {"schema": {"type": "string"}} for name in problem.default_headers}
    return responses


OF_SOME_PATHS = {MethodNotAllowed, NotAcceptable, Forbidden, ReloadRefused, ReloadUnderWay}
PROBLEM_RESPONSES = problem_responses(*(problem for problem in problem_tree(Problem) if problem not in OF_SOME_PATHS))
