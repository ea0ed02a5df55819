"""What every request passes, in one place: id, access, limits, deadline, dispatch, metrics and log line."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from prometheus_client import Counter, Histogram
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import DeadlineExceeded, NotReady
from service.http.access import AccessControl, peer_of
from service.http.exchange import Exchange
from service.http.problems import CLIENT_CLOSED_REQUEST, error_response, internal_error, problem_response
from service.http.streams import wants_stream
from service.logs import request_id
from service.metrics import Metrics
from service.tracing import RequestSpan, Tracer

if TYPE_CHECKING:
    from service.models.store import ModelStore

__all__ = ["Gateway", "Handler"]

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")

Handler = Callable[[Request], Awaitable[Response]]

access_log = logging.getLogger("service.access")


class Gateway:
    """ASGI application around another one.

    Each request gets an id: the client's `X-Request-ID` if that is sane, else a new one. It is in
    `request.state.request_id`, in the context variable `request_id`, and in the answer's header. Requests for one of
    the `handlers` go straight to it; the rest go to `app`. A dozen layers of ASGI took three quarters of the time of a
    sample.

    max_bytes, stream_bytes: bounds of the body of a request, and of one whose answer is a stream
    handlers: functions that answer, by method and path
    routes:   of `app`, to name the route of a request that was refused before it reached one
    tracer:   starts a span for each request
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        access: AccessControl | None = None,
        store: ModelStore | None = None,
        deadline: float = 60.0,
        max_bytes: int = 2**30,
        stream_bytes: int = 2**30,
        handlers: Mapping[tuple[str, str], Handler] | None = None,
        routes: Sequence[BaseRoute] = (),
        tracer: Tracer | None = None,
    ) -> None:
        self.tracer = tracer
        self.app, self.metrics, self.store, self.routes = app, metrics, store, routes
        self.access = access or AccessControl()
        self.deadline, self.max_bytes, self.stream_bytes = deadline, max_bytes, stream_bytes
        self.handlers = dict(handlers or {})
        self.series: dict[tuple[str, str, int, str], tuple[Counter, Histogram]] = {}
        self.ids = random.Random()  # noqa: S311  (no secret; and the system's own cost a request its turn at the GIL)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin = time.perf_counter()
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        id_ = given.decode() if SANE_REQUEST_ID.fullmatch(given) else f"{self.ids.getrandbits(128):032x}"
        scope.setdefault("state", {})["request_id"] = id_
        token = request_id.set(id_)
        max_bytes = self.stream_bytes if wants_stream(scope) else self.max_bytes
        exchange = Exchange(receive, send, deadline=self.deadline, max_bytes=max_bytes)
        scope["state"]["exchange"] = exchange
        exchange.headers.append((b"x-request-id", id_.encode()))
        trace = self.tracer.start(scope, headers) if self.tracer is not None else None
        generation = self.store.enter() if self.store is not None else None
        self.metrics.http_requests_in_progress.inc()
        try:
            await self._answer(scope, headers, exchange)
        finally:
            exchange.end()
            self.metrics.http_requests_in_progress.dec()
            if self.store is not None:
                self.store.leave(generation)
            status = CLIENT_CLOSED_REQUEST if exchange.status is None else exchange.status
            self._record(scope, status, time.perf_counter() - begin, id_, trace)
            request_id.reset(token)

    async def _answer(self, scope: Scope, headers: Mapping[bytes, bytes], exchange: Exchange) -> None:
        """Answer, whatever happens; only an error after half of an answer is raised, so that the server notices."""
        try:
            try:
                await self._dispatch(scope, headers, exchange)
            except asyncio.CancelledError:
                if exchange.status is not None or exchange.hung_up:
                    return
                if exchange.expired:
                    detail = f"No answer within {self.deadline:g} seconds; ask for less, or again later."
                    response = problem_response(scope, DeadlineExceeded(detail))
                else:  # the server stops and will not wait any longer
                    response = problem_response(scope, NotReady("The service is stopping; ask again."))
                exchange.end()
                await response(scope, exchange.receive, exchange.send)
            else:
                if exchange.too_large and exchange.status is None:
                    response = problem_response(scope, exchange.refusal())
                    await response(scope, exchange.receive, exchange.send)
        except Exception as error:
            if exchange.status is not None:
                internal_error(scope, error)
                raise
            await error_response(scope, error)(scope, exchange.receive, exchange.send)

    async def _dispatch(self, scope: Scope, headers: Mapping[bytes, bytes], exchange: Exchange) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        allowance = await self.access.check(scope, path, headers)
        if allowance is not None:
            exchange.headers += [(name.lower().encode(), value.encode()) for name, value in allowance.headers().items()]
        exchange.check_length(headers.get(b"content-length", b""))
        handler = self.handlers.get((scope["method"], path))
        if handler is None:
            await self.app(scope, exchange.receive, exchange.send)
            return
        scope["path_params"] = {}
        response = await handler(Request(scope, exchange.receive))
        await response(scope, exchange.receive, exchange.send)

    def _record(self, scope: Scope, status: int, duration: float, id_: str, trace: RequestSpan | None) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        route, model = self._route_template(scope), scope["state"].get("model", "")
        requests, durations = self._series(method, route, status, model)
        requests.inc()
        durations.observe(duration)
        fields = {
            "method": method,
            "route": route,
            "status": status,
            "duration_seconds": round(duration, 6),
            "request_id": id_,
            "client": peer_of(scope),
        }
        if model:
            fields["model"] = model
        access_log.info("%s %s %d", method, route, status, extra={"fields": fields})
        if trace is not None:
            trace.end(method=method, route=route, status=status, model=model, request_id=id_)

    def _route_template(self, scope: Scope) -> str:
        """`/models/{name}` of a request to `/models/vamp`, or `unmatched`; a path would be a label without bounds."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if (scope["method"], path) in self.handlers:
            return str(path)
        route = scope.get("route")
        if route is None:
            route = next((route for route in self.routes if route.matches(scope)[0] is not Match.NONE), None)
        return str(getattr(route, "path", None) or "unmatched")

    def _series(self, method: str, route: str, status: int, model: str) -> tuple[Counter, Histogram]:
        """The series of such requests; `labels` looks for each under a lock."""
        found = self.series.get((method, route, status, model))
        if found is None:
            found = self.series[method, route, status, model] = (
                self.metrics.http_requests_total.labels(method, route, str(status), model),
                self.metrics.http_request_duration_seconds.labels(method, route, model),
            )
        return found
