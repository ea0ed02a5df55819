"""Conditional requests (RFC 9110, section 13): the tags of answers, and clients that have one already."""

from __future__ import annotations

import hashlib

from fastapi import Request, Response

__all__ = ["etag_of", "not_modified"]

REVALIDATE = {"Cache-Control": "no-cache", "Vary": "Accept, Accept-Encoding"}
"""A cache may keep the answer, but has to ask whether it still holds: models are replaced while the service runs."""


def etag_of(*parts: str | bytes) -> str:
    """The tag of the answer that these parts determine, such as the key under which it is cached.

    It is a weak one, because an answer may be compressed on its way.
    """
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode()
        digest.update(b"%d:" % len(data) + data)  # the length, so that no two lists of parts are joined to the same
    return f'W/"{digest.hexdigest()}"'


def not_modified(request: Request, etag: str) -> Response | None:
    """The answer 304 to a GET or HEAD request whose `If-None-Match` names the tag; None for any other request."""
    given = request.headers.get("if-none-match")
    if given is None or request.method not in ("GET", "HEAD"):
        return None
    tags = {tag.strip().removeprefix("W/") for tag in given.split(",")}
    if "*" not in tags and etag.removeprefix("W/") not in tags:
        return None
    return Response(status_code=304, headers={"ETag": etag, **REVALIDATE})
