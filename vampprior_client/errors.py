"""The exceptions of the client.

ClientError
 +- InvalidImage                   an input that is not an image; nothing was sent
 +- ConnectionFailed               the service cannot be reached, or the connection broke
 |   +- TimedOut                   no answer in time; not retried
 +- ServiceError                   the service answered with an error
     +- RequestError          4xx  the request has to be changed
     |   +- BadRequest        400  the request cannot be read
     |   +- Unauthorized      401  no API key, or a wrong one
     |   +- Forbidden         403  the key may not do this
     |   +- NotFound          404  no such model, pseudo-input or calibration
     |   +- Conflict          409  the models are being loaded
     |   +- TooLarge          413  a body, an image or a number of images over the service's limit
     |   +- UnsupportedMediaType 415  not an image format that the service takes
     |   +- InvalidInput      422  a parameter out of range, or an image that cannot be used
     |   +- RateLimited       429  the client is over its limit; retried
     +- ServerError           5xx  the service failed
         +- Unavailable       503  the service is full or not ready; retried
         +- DeadlineExceeded  504  the computation took longer than the service allows
"""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

import httpx
import msgspec

__all__ = [
    "BadRequest",
    "ClientError",
    "Conflict",
    "ConnectionFailed",
    "DeadlineExceeded",
    "Forbidden",
    "InvalidImage",
    "InvalidInput",
    "NotFound",
    "RateLimited",
    "RequestError",
    "ServerError",
    "ServiceError",
    "TimedOut",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "UnsupportedMediaType",
    "problem_error",
    "service_error",
    "transport_error",
]


class ClientError(Exception):
    """Base of all exceptions of the client."""


class InvalidImage(ClientError, ValueError):
    """The input is not an image that can be sent."""


class ConnectionFailed(ClientError):
    """The service cannot be reached, or the connection broke before the answer was complete."""


class TimedOut(ConnectionFailed):
    """The service did not answer within the client's timeout."""


class ServiceError(ClientError):
    """An answer that is an error (RFC 9457).

    Args:
        status: HTTP status.
        type: Stable name of the kind of problem, such as `/problems/model-not-found`; empty if the answer has none.
        title: The kind of problem in words.
        detail: What is wrong, and what to do about it.
        request_id: Id of the request in the service's log.
        retry_after: Seconds after which the service suggests to try again; None if it does not.
    """

    def __init__(
        self, status: int, *, type: str, title: str, detail: str, request_id: str, retry_after: float | None
    ) -> None:
        super().__init__(f"{status} {title}: {detail}" if detail else f"{status} {title}")
        self.status, self.type, self.title, self.detail = status, type, title, detail
        self.request_id, self.retry_after = request_id, retry_after


class RequestError(ServiceError):
    """The request has to be changed before it can succeed (4xx)."""


class BadRequest(RequestError):
    """The service cannot read the request (400)."""


class Unauthorized(RequestError):
    """The API key is missing or wrong (401)."""


class Forbidden(RequestError):
    """The API key does not allow this call (403)."""


class NotFound(RequestError):
    """There is no such model, pseudo-input or calibration (404)."""


class Conflict(RequestError):
    """The models are being loaded (409)."""


class TooLarge(RequestError):
    """A body, an image or a number of images is over the service's limit (413)."""


class UnsupportedMediaType(RequestError):
    """The service does not take this image format (415)."""


class InvalidInput(RequestError):
    """A parameter is out of range, or an image cannot be used (422)."""


class RateLimited(RequestError):
    """The client is over its limit of requests (429)."""


class ServerError(ServiceError):
    """The service failed (5xx)."""


class Unavailable(ServerError):
    """The service is full or not ready (503)."""


class DeadlineExceeded(ServerError):
    """Waiting and computing took longer than the service allows (504)."""


CLASSES: dict[int, type[ServiceError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    415: UnsupportedMediaType,
    422: InvalidInput,
    429: RateLimited,
    503: Unavailable,
    504: DeadlineExceeded,
}


class _Problem(msgspec.Struct):
    """The fields of a problem document that are read; a proxy's error page has none of them."""

    type: str = ""
    title: str = ""
    detail: str = ""
    request_id: str = ""


def service_error(response: httpx.Response) -> ServiceError:
    """The exception of an answer whose status is not 2xx, and whose body has been read."""
    headers = response.headers
    return problem_error(
        response.status_code,
        response.content,
        title=response.reason_phrase,
        request_id=headers.get("x-request-id", ""),
        retry_after=_seconds(headers.get("retry-after", "")),
    )


def problem_error(
    status: int, body: bytes, *, title: str = "", request_id: str = "", retry_after: float | None = None
) -> ServiceError:
    """The exception of a problem document; `title` and `request_id` stand in for what it lacks."""
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except msgspec.DecodeError:
        problem = _Problem()
    return CLASSES.get(status, ServerError if status >= 500 else RequestError)(
        status,
        type=problem.type,
        title=problem.title or title,
        detail=problem.detail,
        request_id=problem.request_id or request_id,
        retry_after=retry_after,
    )


def transport_error(error: httpx.TransportError, url: str) -> ConnectionFailed:
    """The exception of a request that got no answer."""
    kind = TimedOut if isinstance(error, httpx.TimeoutException) else ConnectionFailed
    return kind(f"{url}: {error or type(error).__name__}")


def _seconds(retry_after: str) -> float | None:
    """The value of `Retry-After`, seconds or a date, in seconds from now; None if it is neither."""
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None
