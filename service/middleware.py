"""What surrounds every request: its id, log line and metrics; who may ask, and how often; how much they may send.

RequestContext > RequestLifetime > AccessControl > BodyLimit > the application
"""

from __future__ import annotations

import hmac
import logging
import math
import random
import re
import time
from collections.abc import Iterable

from fastapi import FastAPI
from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from prometheus_client import Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Problem, RateLimited, TooLarge, Unauthorized
from service.lifetime import RequestLifetime
from service.logs import configure_logging, request_id
from service.metrics import Metrics
from service.problems import CLIENT_CLOSED_REQUEST, internal_error, problem_response
from service.settings import Settings

__all__ = ["AccessControl", "BodyLimit", "RequestContext", "configure_logging", "install_middleware", "request_id"]

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# what anyone may read without a key: probes, metrics, the documentation and the studio page
OPEN_PATHS = re.compile(r"/|/(health|docs|static|static-offline-docs)/.*|/(docs|openapi\.json|metrics)")
UNLIMITED_PATHS = re.compile(r"/health/.*|/metrics")

access_log = logging.getLogger("service.access")


def install_middleware(app: FastAPI, settings: Settings, metrics: Metrics) -> None:
    """Put the four around `app`, in their order."""
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    if (keys := settings.api_key_list()) or settings.rate_limit:
        app.add_middleware(AccessControl, keys=keys, rate_limit=settings.rate_limit)
    app.add_middleware(RequestLifetime, deadline=settings.deadline_seconds)
    app.add_middleware(RequestContext, metrics=metrics)


class RequestContext:
    """Gives each request an id, a log line and its place in the metrics, and turns a stray exception into a 500.

    The id is the client's `X-Request-ID` if that is sane, else a new one. It is in `request.state.request_id`, in the
    context variable `request_id`, and in the answer's header.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics
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
            self._record(scope, status, time.perf_counter() - begin, id_)
            request_id.reset(token)

    def _record(self, scope: Scope, status: int, duration: float, id_: str) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = _route_template(scope)
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

    keys:       one of them must come in `X-API-Key`, else 401; none lets everyone in
    rate_limit: requests a client may make in a moving window, such as `100/minute`, else 429; empty sets no limit

    A client is its key, or else its address. Guesses at keys count against the address.
    """

    def __init__(self, app: ASGIApp, keys: Iterable[str] = (), rate_limit: str = "") -> None:
        self.app = app
        self.keys = [key.encode() for key in keys]
        self.limit: RateLimitItem | None = parse(rate_limit) if rate_limit else None
        self.limiter = MovingWindowRateLimiter(MemoryStorage()) if rate_limit else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 429 or 401, or let the request through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        key = self._known_key(Headers(scope=scope).get("x-api-key", "").encode("latin-1"))
        rate_headers: dict[str, str] = {}
        problem: Problem | None = None
        if not UNLIMITED_PATHS.fullmatch(path):
            rate_headers, problem = self._hit(f"key:{key}" if key is not None else f"address:{_peer(scope)}")
        if problem is None and self.keys and key is None and not OPEN_PATHS.fullmatch(path):
            problem = Unauthorized("Send one of the service's keys in the header X-API-Key.")

        async def send_with_rate(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(rate_headers)
            await send(message)

        app = self.app if problem is None else problem_response(scope, problem)
        await app(scope, receive, send_with_rate)

    def _known_key(self, given: bytes) -> int | None:
        """Index of the key, found in a time that does not tell how much of a guess is right."""
        matches = [hmac.compare_digest(key, given) for key in self.keys]
        return matches.index(True) if any(matches) else None

    def _hit(self, client: str) -> tuple[dict[str, str], Problem | None]:
        """Count a request; the `RateLimit` headers of its answer, and the problem if it is one too many."""
        if self.limit is None or self.limiter is None:
            return {}, None
        allowed = self.limiter.hit(self.limit, client)
        window = self.limiter.get_window_stats(self.limit, client)
        seconds = str(max(1, math.ceil(window.reset_time - time.time())))
        headers = {
            "RateLimit-Limit": str(self.limit.amount),
            "RateLimit-Remaining": str(max(0, window.remaining)),
            "RateLimit-Reset": seconds,
        }
        if allowed:
            return headers, None
        detail = (
            f"The limit is {self.limit.amount} requests per {self.limit.get_expiry()} seconds; wait {seconds} seconds."
        )
        return headers, RateLimited(detail, headers={"Retry-After": seconds})


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


def _has_no_body(scope: Scope) -> bool:
    """Whether the request says neither a length nor a transfer encoding, by one of which every body is announced."""
    return not any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])


def _route_template(scope: Scope) -> str:
    """`/models/{name}` of a request to `/models/vamp`, or `unmatched`; a path would be a label without bounds."""
    return str(getattr(scope.get("route"), "path", None) or "unmatched")


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "unknown"
