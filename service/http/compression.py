"""JSON answers compressed with gzip, for clients that accept it."""

from __future__ import annotations

import asyncio
import gzip
from functools import partial

from fastapi import Request, Response

from service.http.negotiation import qualities

__all__ = ["compressed"]

MIN_BYTES = 1024
INLINE_BYTES = 16_384
"""Bodies up to this size are compressed on the event loop, which takes less than handing them to a thread."""
LEVEL = 4


async def compressed(request: Request, response: Response) -> Response:
    """The response, its body compressed if it is JSON, is not short, and the client accepts gzip."""
    body = response.body
    if len(body) < MIN_BYTES or response.media_type != "application/json":
        return response
    accepted = qualities(request.headers.get("accept-encoding", ""))
    if not accepted.get("gzip", accepted.get("*", 0.0)):
        return response
    compress = partial(gzip.compress, bytes(body), LEVEL, mtime=0)
    response.body = compress() if len(body) <= INLINE_BYTES else await asyncio.to_thread(compress)
    response.headers["Content-Encoding"] = "gzip"
    response.headers["Content-Length"] = str(len(response.body))
    return response
