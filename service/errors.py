"""Errors as `application/problem+json` (RFC 9457), on every path and with the request id.

Problem
 +- BadRequest              400  the request cannot be read
 +- Unauthorized            401  no key, or a wrong one
 +- NotFound                404  no such path
 |   +- ModelNotFound            no such model or version
 |   +- PseudoInputNotFound      no such pseudo-input
 +- MethodNotAllowed        405  the path has other methods
 +- TooLarge                413  a body, an image or a number of images over its limit
 +- UnsupportedMediaType    415  not a PNG
 +- BadParameter            422  a parameter out of range
 +- BadImage                422  a PNG that cannot be used
 |   +- WrongSize                a PNG of another size than the model's
 +- RateLimited             429  the client is over its limit
 +- Internal                500  a fault of ours; nothing of it leaves the process but the request id
 +- Overloaded              503  the queue is full
 +- NotReady                503  the model has not loaded, or the service is stopping
 +- DeadlineExceeded        504  waiting plus computing took too long
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

__all__ = [
    "PROBLEM_RESPONSES",
    "BadImage",
    "BadParameter",
    "BadRequest",
    "DeadlineExceeded",
    "Internal",
    "MethodNotAllowed",
    "ModelNotFound",
    "NotFound",
    "NotReady",
    "Overloaded",
    "Problem",
    "ProblemDetail",
    "PseudoInputNotFound",
    "RateLimited",
    "TooLarge",
    "Unauthorized",
    "UnsupportedMediaType",
    "WrongSize",
    "install_error_handlers",
    "internal_error",
    "problem_response",
]

PROBLEM_JSON = "application/problem+json"
CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that left; nobody receives it

logger = logging.getLogger(__name__)


class Problem(Exception):  # noqa: N818 - the name that RFC 9457 gives it
    """An error that a client may see.

    detail:  what is wrong and what to do about it, in a sentence or two
    headers: of the answer, besides those that every problem of the class has
    """

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    default_headers: ClassVar[Mapping[str, str]] = {}

    def __init__(self, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers: dict[str, str] = {**self.default_headers, **(headers or {})}

    @property
    def type(self) -> str:
        """The stable name of this kind of problem."""
        return f"/problems/{self.slug}"


class BadRequest(Problem):
    """The request cannot be read."""

    status, slug, title = 400, "bad-request", "Malformed request"


class Unauthorized(Problem):
    """The request has no key, or a wrong one."""

    status, slug, title = 401, "unauthorized", "API key missing or wrong"
    default_headers: ClassVar[Mapping[str, str]] = {"WWW-Authenticate": "APIKey"}


class NotFound(Problem):
    """Nothing is at this path."""

    status, slug, title = 404, "not-found", "No such path"


class ModelNotFound(NotFound):
    """No model has this name and version."""

    slug, title = "model-not-found", "No such model"


class PseudoInputNotFound(NotFound):
    """The model has no pseudo-input of this number."""

    slug, title = "pseudo-input-not-found", "No such pseudo-input"


class MethodNotAllowed(Problem):
    """The path exists, but not with this method."""

    status, slug, title = 405, "method-not-allowed", "Method not allowed"


class TooLarge(Problem):
    """A body, an image or a number of images is over its limit."""

    status, slug, title = 413, "too-large", "Request too large"


class UnsupportedMediaType(Problem):
    """The upload is not a PNG."""

    status, slug, title = 415, "unsupported-media-type", "Unsupported media type"


class BadParameter(Problem):
    """A parameter is missing, has the wrong type or is out of range."""

    status, slug, title = 422, "bad-parameter", "Bad parameter"


class BadImage(Problem):
    """The upload is a PNG that cannot be used."""

    status, slug, title = 422, "bad-image", "Bad image"


class WrongSize(BadImage):
    """The upload does not have the model's size. Sizes are (height, width) in pixels."""

    slug, title = "wrong-size", "Image of the wrong size"

    def __init__(self, got: tuple[int, int], expected: tuple[int, int]) -> None:
        super().__init__(
            f"The image is {got[1]} x {got[0]} pixels, the model takes {expected[1]} x {expected[0]} (width x height). "
            "Send resize=true to fit it, and invert=true as well if it shows dark ink on a light ground."
        )


class RateLimited(Problem):
    """The client is over its limit."""

    status, slug, title = 429, "rate-limited", "Too many requests"
    default_headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}


class Internal(Problem):
    """A fault of ours."""

    status, slug, title = 500, "internal", "Internal error"


class Overloaded(Problem):
    """The queue is full."""

    status, slug, title = 503, "overloaded", "Overloaded"
    default_headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}


class NotReady(Problem):
    """The model has not loaded yet, or the service is stopping."""

    status, slug, title = 503, "not-ready", "Not ready"
    default_headers: ClassVar[Mapping[str, str]] = {"Retry-After": "2"}


class DeadlineExceeded(Problem):
    """Waiting plus computing took too long."""

    status, slug, title = 504, "deadline-exceeded", "Deadline exceeded"


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
    """The answer to a request that met this problem."""
    return _response(scope, problem.type, problem.title, problem.status, problem.detail, problem.headers, errors)


def internal_error(scope: Scope, error: Exception) -> Response:
    """The answer to an unexpected exception: the log gets all of it, the client nothing but the request id."""
    logger.error("unexpected %s", type(error).__name__, exc_info=error)
    detail = "The service failed to answer. The request id finds the cause in its log."
    return problem_response(scope, Internal(detail))


def install_error_handlers(app: FastAPI) -> None:
    """Answer every error of every path of `app` with a problem, and say so in its OpenAPI document."""

    async def on_problem(request: Request, error: Problem) -> Response:
        return problem_response(request.scope, error)

    async def on_validation_error(request: Request, error: RequestValidationError) -> Response:
        errors = [_parameter_error(item["loc"], item["msg"]) for item in error.errors()]
        detail = " ".join(
            f"{item.location.capitalize()} parameter `{item.parameter}`: {item.detail}." for item in errors
        )
        return problem_response(request.scope, BadParameter(detail), errors)

    async def on_http_exception(request: Request, error: HTTPException) -> Response:
        return _http_exception_response(request.scope, error)

    async def on_disconnect(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    async def on_exception(request: Request, error: Exception) -> Response:
        return internal_error(request.scope, error)

    app.exception_handler(Problem)(on_problem)
    app.exception_handler(RequestValidationError)(on_validation_error)
    app.exception_handler(HTTPException)(on_http_exception)
    app.exception_handler(ClientDisconnect)(on_disconnect)
    app.exception_handler(Exception)(on_exception)
    _document_problems(app)


def _response(
    scope: Scope,
    type_: str,
    title: str,
    status: int,
    detail: str,
    headers: Mapping[str, str] | None,
    errors: Sequence[ParameterError] | None = None,
) -> Response:
    content = ProblemDetail(
        type=type_,
        title=title,
        status=status,
        detail=detail,
        instance=quote(scope.get("path", "/"), errors="replace"),
        request_id=scope.get("state", {}).get("request_id"),
        errors=list(errors) if errors else None,
    )
    # ASCII, so that no stray surrogate of a hostile request can fail to encode
    body = json.dumps(content.model_dump(exclude_none=True)).encode("ascii")
    return Response(body, status, dict(headers or {}), PROBLEM_JSON)


def _http_exception_response(scope: Scope, error: HTTPException) -> Response:
    """Starlette's and FastAPI's own errors; the headers stay, among them `Allow` of a 405."""
    if error.status_code == 404:
        detail = "Nothing is at this path; /docs lists what is."
        problem: Problem = NotFound(detail, headers=error.headers)
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "other methods")
        problem = MethodNotAllowed(f"{scope['method']} is not allowed here; use {allowed}.", headers=error.headers)
    elif error.status_code == 400:
        problem = BadRequest(str(error.detail), headers=error.headers)
    elif error.status_code < 400:
        return Response(status_code=error.status_code, headers=dict(error.headers or {}))
    else:
        title = HTTPStatus(error.status_code).phrase
        return _response(scope, "about:blank", title, error.status_code, str(error.detail), error.headers)
    return problem_response(scope, problem)


def _parameter_error(location: Sequence[str | int], message: str) -> ParameterError:
    """`("query", "n")` and a message of pydantic's, as a client reads it."""
    place, *path = [str(part) for part in location] or ["body"]
    return ParameterError(
        parameter=".".join(path) or place, location=place, detail=message.removeprefix("Value error, ").rstrip(".")
    )


def _document_problems(app: FastAPI) -> None:
    """Put the schemas that `PROBLEM_RESPONSES` points to into the OpenAPI document."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schema = ProblemDetail.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs"))
        schemas["ProblemDetail"] = schema
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _tree(root: type[Problem]) -> Iterable[type[Problem]]:
    for problem in root.__subclasses__():
        yield problem
        yield from _tree(problem)


def _problem_responses() -> dict[int | str, dict[str, Any]]:
    """Every status of the tree but 405, as FastAPI's `responses=` takes it."""
    responses: dict[int | str, dict[str, Any]] = {}
    for problem in sorted(_tree(Problem), key=lambda problem: problem.status):
        if problem is MethodNotAllowed:
            continue
        response = responses.setdefault(
            problem.status,
            {
                "description": "",
                "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/ProblemDetail"}}},
            },
        )
        response["description"] += ("; " if response["description"] else "") + problem.title
        if problem.default_headers:
            response["headers"] = {name: {"schema": {"type": "string"}} for name in problem.default_headers}
    return responses


PROBLEM_RESPONSES = _problem_responses()
