"""What surrounds every request: its id, log line and metrics; who may ask, and how often; how much they may send.

RequestContext > RequestLifetime > AccessControl > BodyLimit > the application
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import random
import re
import time
from collections.abc import Iterable, Mapping, Sequence

from fastapi import FastAPI
from prometheus_client import Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Forbidden, Overloaded, Problem, TooLarge, Unauthorized
from service.http.connections import OVER_LIMIT
from service.http.lifetime import RequestLifetime
from service.http.problems import CLIENT_CLOSED_REQUEST, internal_error, problem_response
from service.http.rate_limit import Allowance, LocalWindow, SharedWindow, client_network, create_rate_limit
from service.logs import configure_logging, request_id
from service.metrics import Metrics
from service.models.store import ModelStore
from service.settings import Settings

__all__ = ["AccessControl", "BodyLimit", "RequestContext", "configure_logging", "install_middleware", "request_id"]

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# what anyone may read without a key: probes, metrics, the documentation and the studio page
OPEN_PATHS = re.compile(r"/|/(health|docs|static|static-offline-docs)/.*|/(docs|openapi\.json|metrics)")
# what is answered in any case, without a limit and on any connection
ADMIN_PATHS = {"/models/reload"}
PROBE_PATHS = re.compile(r"/health/.*|/metrics")

RateLimit = LocalWindow | SharedWindow

access_log = logging.getLogger("service.access")


def install_middleware(app: FastAPI, settings: Settings, metrics: Metrics, store: ModelStore) -> list[RateLimit]:
    """Put the four around `app`, in their order; returns the rate limits, which the application closes at its end."""
    keys = settings.api_key_list()

    def limit_of(limit: str, name: str) -> RateLimit | None:
        url, timeout = settings.cache_url, settings.cache_timeout_seconds
        return create_rate_limit(limit, url, timeout, name=name) if limit else None

    limit = limit_of(settings.rate_limit, "requests")
    failure_limit = limit_of(settings.key_failure_limit, "key-failures") if keys or settings.admin_key_list() else None
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(
        AccessControl, keys=keys, admin_keys=settings.admin_key_list(), limit=limit, failure_limit=failure_limit
    )
    app.add_middleware(RequestLifetime, deadline=settings.deadline_seconds)
    app.add_middleware(RequestContext, metrics=metrics, store=store, routes=app.router.routes)
    return [created for created in (limit, failure_limit) if created is not None]


class RequestContext:
    """Gives each request an id, a log line and its place in the metrics, and turns a stray exception into a 500.

    The id is the client's `X-Request-ID` if that is sane, else a new one. It is in `request.state.request_id`, in the
    context variable `request_id`, and in the answer's header.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, store: ModelStore | None = None, routes: Sequence[BaseRoute] = ()
    ) -> None:
        self.app = app
        self.metrics = metrics
        self.store = store
        self.routes = routes  # to name the route of a request that was refused before it reached one
        self.series: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self.ids = random.Random()  # noqa: S311  (no secret; and the system's own cost a request its turn at the GIL)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request with its id, then log and count it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        id_ = given if SANE_REQUEST_ID.fullmatch(given) else f"{self.ids.getrandbits(128):032x}"
        scope.setdefault("state", {})["request_id"] = id_
        token = request_id.set(id_)
        status = CLIENT_CLOSED_REQUEST  # unless an answer starts
        started = False
        begin = time.perf_counter()
        generation = self.store.enter() if self.store is not None else None

        async def send_with_id(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                MutableHeaders(scope=message)["X-Request-ID"] = id_
            await send(message)

        try:
            with self.metrics.http_requests_in_progress.track_inprogress():
                try:
                    await self.app(scope, receive, send_with_id)
                except Exception as error:
                    response = internal_error(scope, error)
                    if started:
                        raise  # half an answer is out: let the server drop the connection
                    await response(scope, receive, send_with_id)
        finally:
            ModelStore.leave(generation)
            self._record(scope, status, time.perf_counter() - begin, id_)
            request_id.reset(token)

    def _record(self, scope: Scope, status: int, duration: float, id_: str) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = self._route_template(scope)
        requests, durations = self._series(method, route, status)
        requests.inc()
        durations.observe(duration)
        fields = {
            "method": method,
            "route": route,
            "status": status,
            "duration_seconds": round(duration, 6),
            "request_id": id_,
            "client": _peer(scope),
        }
        access_log.info("%s %s %d", method, route, status, extra={"fields": fields})

    def _route_template(self, scope: Scope) -> str:
        """`/models/{name}` of a request to `/models/vamp`, or `unmatched`; a path would be a label without bounds."""
        route = scope.get("route")
        if route is None:
            route = next((route for route in self.routes if route.matches(scope)[0] is not Match.NONE), None)
        return str(getattr(route, "path", None) or "unmatched")

    def _series(self, method: str, route: str, status: int) -> tuple[Counter, Histogram]:
        """The series of such requests; `labels` looks for each under a lock."""
        found = self.series.get((method, route, status))
        if found is None:
            found = self.series[method, route, status] = (
                self.metrics.http_requests_total.labels(method, route, str(status)),
                self.metrics.http_request_duration_seconds.labels(method, route),
            )
        return found


class AccessControl:
    """Who may ask, and how often.

    keys:          one of them must come in `X-API-Key`, else 401; none lets everyone in
    admin_keys:    one of them must come to reload the models, else 403; they count as keys as well
    limit:         requests of a client; past it, 429. A client is its key, or else its address
    failure_limit: requests of an address without a valid key, where keys are set; past it, 429

    On connections beyond the limit of connections, all but health checks and metrics are answered 503.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Iterable[str] = (),
        admin_keys: Iterable[str] = (),
        limit: RateLimit | None = None,
        failure_limit: RateLimit | None = None,
    ) -> None:
        self.app = app
        self.keys, self.admin_keys = _hashes(keys), _hashes(admin_keys)
        if self.keys:
            self.keys |= self.admin_keys
        self.limit, self.failure_limit = limit, failure_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 503, 429 or 401, or let the request through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if PROBE_PATHS.fullmatch(path):
            await self.app(scope, receive, send)
            return
        try:
            allowance = await self._check(scope, path)
        except Problem as problem:
            await problem_response(scope, problem)(scope, receive, send)
            return

        async def send_with_allowance(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(allowance.headers() if allowance else {})
            await send(message)

        await self.app(scope, receive, send_with_allowance if allowance else send)

    async def _check(self, scope: Scope, path: str) -> Allowance | None:
        """Count the request; what is left to its client, if it has a limit. Raises the `Problem` of a refusal."""
        if OVER_LIMIT in scope.get("state", {}):
            raise Overloaded("Too many connections are open; try again shortly.", headers={"Connection": "close"})
        client = f"address:{client_network(_peer(scope))}"
        if self.keys or path in ADMIN_PATHS:
            allowed = self.admin_keys if path in ADMIN_PATHS else self.keys
            given = Headers(scope=scope).get("x-api-key", "").encode("latin-1")
            key = _known_key(allowed, given)
            if key is not None:
                client = f"key:{key}"
            elif not OPEN_PATHS.fullmatch(path):
                await self._count(self.failure_limit, client, "requests without a valid key")
                await self._count(self.limit, client)
                if path in ADMIN_PATHS:
                    raise Forbidden("Reloading the models needs one of the keys in VAMP_ADMIN_KEYS, in X-API-Key.")
                raise Unauthorized("Send one of the service's keys in the header X-API-Key.")
        scope.setdefault("state", {})["client"] = client
        if OPEN_PATHS.fullmatch(path):
            return None
        return await self._count(self.limit, client)

    @staticmethod
    async def _count(limit: RateLimit | None, client: str, counted: str = "requests") -> Allowance | None:
        if limit is None:
            return None
        allowance = await limit.hit(client)
        if not allowance.allowed:
            raise allowance.problem(counted)
        return allowance


class BodyLimit:
    """Refuses a body of more than `max_bytes` with 413: at once if it says its length, else once it has passed it."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 413, or let the request through with its body counted."""
        if scope["type"] != "http" or _has_no_body(scope):
            await self.app(scope, receive, send)
            return
        refusal = TooLarge(f"The body may have at most {self.max_bytes} bytes.")
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self.max_bytes:
            await problem_response(scope, refusal)(scope, receive, send)
            return
        count = 0
        started = False

        async def counting_receive() -> Message:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > self.max_bytes:
                raise refusal
            return message

        async def guarded_send(message: Message) -> None:
            nonlocal started
            # the application may have taken the refusal for a broken form and answer 400: say 413 instead
            if count <= self.max_bytes or started:
                started = started or message["type"] == "http.response.start"
                await send(message)

        try:
            await self.app(scope, counting_receive, guarded_send)
        except Exception:
            if count <= self.max_bytes or started:
                raise
        if count > self.max_bytes and not started:
            await problem_response(scope, refusal)(scope, receive, send)


def _hashes(keys: Iterable[str]) -> dict[bytes, str]:
    """A hash for each key, to name it without telling it."""
    return {key.encode(): hashlib.sha256(key.encode()).hexdigest()[:32] for key in keys}


def _known_key(keys: Mapping[bytes, str], given: bytes) -> str | None:
    """Hash of the key, found in a time that does not tell how much of a guess is right."""
    matches = [hash_ for key, hash_ in keys.items() if hmac.compare_digest(key, given)]
    return matches[0] if matches else None


def _has_no_body(scope: Scope) -> bool:
    """Whether the request says neither a length nor a transfer encoding, by one of which every body is announced."""
    return not any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "unknown"
