"""Routes whose query string is one pydantic model."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, get_type_hints
from urllib.parse import parse_qsl

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from service.errors import BadParameter
from service.http.compression import compressed

__all__ = ["QueryModel", "QueryRoute", "handlers_of"]

MAX_QUERY_BYTES = 8 * 1024
BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")

Endpoint = Callable[..., Coroutine[Any, Any, Any]]


class QueryModel(BaseModel):
    """Base of what a query string may say. A parameter that it does not know is an error: it may be a misspelt one."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class QueryRoute(APIRoute):
    """A route to `async def endpoint(request: Request, query: Annotated[<QueryModel>, Query()], ...)`.

    Further parameters of the endpoint are those of the path. An endpoint without `query` has no parameters in the query
    string. It returns a `Response`, or what is answered as JSON. A route for GET also answers HEAD.

    FastAPI documents the route. The query string goes straight to pydantic, which takes about a tenth of the time that
    FastAPI's dependencies take; that was more than half of the time of a cached answer.

    Raises `TypeError` for what FastAPI's own routes do and these do not: dependencies, and a status other than 200.
    """

    answer: Callable[[Request], Coroutine[Any, Any, Response]]

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The function that answers a request."""
        endpoint: Endpoint = self.endpoint
        name = getattr(endpoint, "__name__", repr(endpoint))
        parameters = list(inspect.signature(endpoint).parameters)
        hints = get_type_hints(endpoint, include_extras=True)
        has_query, path_names = "query" in parameters, list(self.param_convertors)
        takes_request = bool(parameters) and hints.get(parameters[0]) is Request
        if not takes_request or set(parameters[1:]) - {"query"} != set(path_names):
            raise TypeError(
                f"{name} must take a `Request`, `query` and the parameters of {self.path}, and nothing else"
            )
        if self.dependencies:
            raise TypeError(f"{name} has dependencies, which a QueryRoute does not call")
        if self.status_code not in (None, 200):
            raise TypeError(f"{name} has the status {self.status_code}, but a QueryRoute answers 200")
        query_model: type[QueryModel] = get_type_hints(endpoint)["query"] if has_query else QueryModel
        path_fields = {name: (hints[name], ...) for name in path_names}
        path_model = create_model(f"{name}_path", **path_fields)  # type: ignore[call-overload]

        async def handle(request: Request) -> Response:
            arguments = dict(_validate(path_model, "path", request.scope["path_params"])) if path_names else {}
            query = _validate(query_model, "query", parse_query(request.scope["query_string"]))
            if has_query:
                arguments["query"] = query
            result = await endpoint(request, **arguments)
            response = result if isinstance(result, Response) else JSONResponse(_plain(result))
            return await compressed(request, response)

        self.answer = handle
        return handle

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for this path, with a 405 if its method is another one."""
        if scope["method"] == "HEAD" and self.methods and "GET" in self.methods:
            await self.app(scope, receive, send)  # the server leaves the body out
        else:
            await super().handle(scope, receive, send)


def handlers_of(routes: Iterable[BaseRoute]) -> dict[tuple[str, str], Callable[[Request], Awaitable[Response]]]:
    """The functions that answer requests for the query routes without path parameters, by method and path."""
    handlers: dict[tuple[str, str], Callable[[Request], Awaitable[Response]]] = {}
    for route in routes:
        if isinstance(route, QueryRoute) and not route.param_convertors:
            methods = set(route.methods or ())
            for method in methods | ({"HEAD"} if "GET" in methods else set()):
                handlers[method, route.path] = route.answer
    return handlers


def parse_query(raw: bytes) -> dict[str, str]:
    """The parameters of a query string.

    Raises `BadParameter` if the string is too long, is not UTF-8, or has a `%` that begins no escape, and
    `RequestValidationError`, which names it, for a parameter that is given more than once.
    """
    if not raw:
        return {}
    if len(raw) > MAX_QUERY_BYTES:
        raise BadParameter(f"The query string has {len(raw)} bytes; at most {MAX_QUERY_BYTES} are read.")
    if b"%" in raw and BAD_ESCAPE.search(raw):
        raise BadParameter("The query string has a `%` without two hexadecimal digits after it; write `%25` for a `%`.")
    try:
        pairs = parse_qsl(raw.decode(), keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        raise BadParameter("The query string is not UTF-8.") from None
    given = dict(pairs)
    if len(given) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise RequestValidationError(
            [
                {"type": "repeated", "loc": ("query", name), "msg": f"is given {count} times, but has one value"}
                for name, count in counts.items()
                if count > 1
            ]
        )
    return given


def _validate(model: type[BaseModel], place: str, values: Mapping[str, Any]) -> Any:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        errors = [{**item, "loc": (place, *item["loc"])} for item in error.errors(include_url=False)]
        raise RequestValidationError(errors) from error


def _plain(result: Any) -> Any:
    return result.model_dump(mode="json") if isinstance(result, BaseModel) else result
