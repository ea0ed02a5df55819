"""The errors that a client may see; `service.http.problems` answers with them.

Problem
 +- BadRequest              400  the request cannot be read
 +- Unauthorized            401  no key, or a wrong one
 +- Forbidden               403  the key may not do this
 +- NotFound                404  no such path
 |   +- ModelNotFound            no such model or version
 |   +- PseudoInputNotFound      no such pseudo-input
 |   +- CalibrationNotFound      no such calibration
 +- MethodNotAllowed        405  the path has other methods
 +- NotAcceptable           406  no format that the client accepts
 +- HeadTimeout             408  the request's head did not come in time
 +- ReloadRefused           409  the models stay as they were
 +- ReloadUnderWay          409  the models are being loaded
 +- TooLarge                413  a body, an image or a number of images over its limit
 +- UnsupportedMediaType    415  not an image format that is accepted
 +- BadParameter            422  a parameter out of range
 +- BadImage                422  an image that cannot be used
 |   +- WrongSize                an image of another size than the model's
 +- RateLimited             429  the client is over its limit
 +- HeadersTooLarge         431  the request's head has too many bytes
 +- Internal                500  a fault of ours; nothing of it leaves the process but the request id
 +- Overloaded              503  the queue is full, or too many uploads are held or decoded
 +- NotReady                503  the model has not loaded, or the service is stopping
 +- DeadlineExceeded        504  waiting plus computing took too long
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

__all__ = [
    "BadImage",
    "BadParameter",
    "BadRequest",
    "CalibrationNotFound",
    "DeadlineExceeded",
    "Forbidden",
    "HeadTimeout",
    "HeadersTooLarge",
    "Internal",
    "MethodNotAllowed",
    "ModelNotFound",
    "NotAcceptable",
    "NotFound",
    "NotReady",
    "Overloaded",
    "Problem",
    "PseudoInputNotFound",
    "RateLimited",
    "ReloadRefused",
    "ReloadUnderWay",
    "TooLarge",
    "Unauthorized",
    "UnsupportedMediaType",
    "WrongSize",
    "printable",
    "quoted",
]

MAX_QUOTED = 80
"""Characters of a client's text in an error message."""


def printable(text: str, max_chars: int) -> str:
    """`text` with control characters and the like as escapes (`\\x1b`), cut to about `max_chars` characters."""
    cut = text if len(text) <= max_chars else f"{text[:max_chars]}..."
    return cut if cut.isprintable() else "".join(map(_escape, cut))


def quoted(text: str) -> str:
    """A client's text between quotes for an error message, as `printable` gives it."""
    return f"'{printable(text, MAX_QUOTED)}'"


def _escape(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


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


class Forbidden(Problem):
    """The key may not do this."""

    status, slug, title = 403, "forbidden", "Forbidden"


class NotFound(Problem):
    """Nothing is at this path."""

    status, slug, title = 404, "not-found", "No such path"


class ModelNotFound(NotFound):
    """No model has this name and version."""

    slug, title = "model-not-found", "No such model"


class PseudoInputNotFound(NotFound):
    """The model has no pseudo-input of this number."""

    slug, title = "pseudo-input-not-found", "No such pseudo-input"


class CalibrationNotFound(NotFound):
    """The model has no calibration of this name."""

    slug, title = "calibration-not-found", "No such calibration"


class MethodNotAllowed(Problem):
    """The path exists, but not with this method."""

    status, slug, title = 405, "method-not-allowed", "Method not allowed"


class NotAcceptable(Problem):
    """The client accepts none of the formats of the answer."""

    status, slug, title = 406, "not-acceptable", "Not acceptable"


class HeadTimeout(Problem):
    """The request line and headers did not come in time."""

    status, slug, title = 408, "request-timeout", "Request timeout"


class ReloadRefused(Problem):
    """The store cannot replace the models that answer, which stay as they were."""

    status, slug, title = 409, "reload-refused", "Models not replaced"
    default_headers: ClassVar[Mapping[str, str]] = {"Retry-After": "60"}


class ReloadUnderWay(Problem):
    """The models are being loaded already."""

    status, slug, title = 409, "reload-under-way", "Models are being loaded"
    default_headers: ClassVar[Mapping[str, str]] = {"Retry-After": "5"}


class TooLarge(Problem):
    """A body, an image or a number of images is over its limit."""

    status, slug, title = 413, "too-large", "Request too large"


class UnsupportedMediaType(Problem):
    """The body or the image is in a format that is not accepted."""

    status, slug, title = 415, "unsupported-media-type", "Unsupported media type"


class BadParameter(Problem):
    """A parameter is missing, has the wrong type or is out of range."""

    status, slug, title = 422, "bad-parameter", "Bad parameter"


class BadImage(Problem):
    """The upload is an image that cannot be used."""

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


class HeadersTooLarge(Problem):
    """The request line and headers have too many bytes."""

    status, slug, title = 431, "headers-too-large", "Request header fields too large"


class Internal(Problem):
    """A fault of ours."""

    status, slug, title = 500, "internal", "Internal error"


class Overloaded(Problem):
    """The lane is full, or too many uploads are held or decoded at once."""

    status, slug, title = 503, "overloaded", "Overloaded"
    default_headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}


class NotReady(Problem):
    """The model has not loaded yet, or the service is stopping."""

    status, slug, title = 503, "not-ready", "Not ready"
    default_headers: ClassVar[Mapping[str, str]] = {"Retry-After": "2"}


class DeadlineExceeded(Problem):
    """Waiting plus computing took too long."""

    status, slug, title = 504, "deadline-exceeded", "Deadline exceeded"
