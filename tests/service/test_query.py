"""Routes that read their query string into one model."""

from __future__ import annotations

from typing import Annotated

import pytest
from fastapi import APIRouter, Query, Request, Response

from service.routes.query import QueryModel, QueryRoute


class Parameters(QueryModel):
    n: int = 1


def test_only_request_and_query_can_be_asked_for() -> None:
    router = APIRouter(route_class=QueryRoute)

    with pytest.raises(TypeError, match="greet must take `request` and `query`"):

        @router.get("/hello/{name}")
        async def greet(request: Request, query: Annotated[Parameters, Query()], name: str) -> Response: ...
