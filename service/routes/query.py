"""Routes whose query string is one pydantic model."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, get_type_hints
from urllib.parse import parse_qsl

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, ValidationError

__all__ = ["QueryModel", "QueryRoute"]


class QueryModel(BaseModel):
    """Base of what a query string may say. A parameter that it does not know is an error: it may be a misspelt one."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class QueryRoute(APIRoute):
    """A route to `async def endpoint(request, query: Annotated[<QueryModel>, Query()]) -> Response`.

    FastAPI documents it, and the query string goes straight to pydantic, in about a tenth of the time that FastAPI's
    dependencies take for it, which was more than half of a cached answer's.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        endpoint = self.endpoint
        hints = get_type_hints(endpoint)
        if set(hints) != {"request", "query", "return"}:
            raise TypeError(f"{endpoint.__name__} must take `request` and `query`, and nothing else")
        model: type[QueryModel] = hints["query"]

        async def handle(request: Request) -> Response:
            given = dict(parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True))
            try:
                query = model.model_validate(given)
            except ValidationError as error:
                errors = [{**item, "loc": ("query", *item["loc"])} for item in error.errors(include_url=False)]
                raise RequestValidationError(errors) from error
            response: Response = await endpoint(request, query)
            return response

        return handle
