"""Pages that the `type` of a problem leads to: what the problem is, and what a client can do about it."""

from __future__ import annotations

import html
from collections.abc import Iterable

from fastapi import Request, Response

from service.errors import (
    BadImage,
    BadParameter,
    BadRequest,
    CalibrationNotFound,
    DeadlineExceeded,
    Forbidden,
    HeadersTooLarge,
    HeadTimeout,
    Internal,
    MethodNotAllowed,
    ModelNotFound,
    NotAcceptable,
    NotFound,
    NotReady,
    Overloaded,
    Problem,
    PseudoInputNotFound,
    RateLimited,
    ReloadRefused,
    ReloadUnderWay,
    TooLarge,
    Unauthorized,
    UnsupportedMediaType,
    WrongSize,
)

__all__ = ["REMEDIES", "problem", "problems"]

REMEDIES: dict[type[Problem], str] = {
    BadRequest: "Build the request with an HTTP library rather than by hand.",
    Unauthorized: "Send one of the service's keys in the header X-API-Key; its operator gives them out.",
    Forbidden: "Use a key that is allowed to do this; its operator gives them out.",
    NotFound: "Look the path up in the documentation at /docs.",
    ModelNotFound: "GET /models lists the models that answer.",
    PseudoInputNotFound: "GET /pseudo-inputs lists the pseudo-inputs of a model; they are numbered from 0.",
    CalibrationNotFound: "GET /models/{name} lists the calibrations of a model.",
    MethodNotAllowed: "Use one of the methods in the header Allow.",
    NotAcceptable: "Ask for a format that the call has, in Accept or with format=; the documentation lists them.",
    HeadTimeout: "Send the request line and the headers at once.",
    ReloadRefused: "Mend the checkpoint that the answer names, then ask again. The models that answered still do.",
    ReloadUnderWay: "Ask again after the seconds in Retry-After.",
    TooLarge: "Send fewer or smaller images at a time; the answer names the limit, which the operator can raise.",
    UnsupportedMediaType: "Convert the image to PNG, JPEG or WebP, and name its media type in Content-Type.",
    BadParameter: "The answer names each bad parameter and what is allowed.",
    BadImage: "The answer says what is wrong with which image; other images of the request were not used either.",
    WrongSize: "Send images of the model's size, or add resize=true.",
    RateLimited: "Ask again after the seconds in Retry-After.",
    HeadersTooLarge: "Send fewer headers, or shorter ones.",
    Internal: "Report it with the request id, by which the operator finds the cause in the log.",
    Overloaded: "Ask again after the seconds in Retry-After.",
    NotReady: "Ask again after the seconds in Retry-After; GET /health/ready says what the service waits for.",
    DeadlineExceeded: "Ask for less: fewer images, or a smaller num_samples.",
}
"""What a client can do about each kind of problem."""


async def problems(_: Request) -> Response:
    """List every kind of problem."""
    items = (f'<li><a href="problems/{kind.slug}">{_title(kind)}</a></li>' for kind in REMEDIES)
    return _page("Problems", ["<ul>", *items, "</ul>"])


async def problem(request: Request) -> Response:
    """Explain one kind of problem."""
    kind = next((kind for kind in REMEDIES if kind.slug == request.path_params["slug"]), None)
    if kind is None:
        raise NotFound("There is no problem of this name; /problems lists all.")
    sentences = (html.escape(text) for text in ((kind.__doc__ or "").splitlines()[0], REMEDIES[kind]))
    return _page(
        _title(kind), [*(f"<p>{sentence}</p>" for sentence in sentences), '<p><a href=".">All problems</a></p>']
    )


def _title(kind: type[Problem]) -> str:
    return html.escape(f"{kind.title} ({kind.status})")


def _page(title: str, body: Iterable[str]) -> Response:
    head = f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>{title}</title><h1>{title}</h1>'
    return Response("\n".join([head, *body]), media_type="text/html")
