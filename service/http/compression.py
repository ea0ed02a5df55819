"""JSON answers compressed with gzip, for clients that accept it."""

from __future__ import annotations

import asyncio
import gzip
from functools import lru_cache, partial

from fastapi import Request, Response

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
    if not _accepts_gzip(request.headers.get("accept-encoding", "")):
        return response
    compress = partial(gzip.compress, bytes(body), LEVEL, mtime=0)
    response.body = compress() if len(body) <= INLINE_BYTES else await asyncio.to_thread(compress)
    response.headers["Content-Encoding"] = "gzip"
    response.headers["Content-Length"] = str(len(response.body))
    return response


@lru_cache(maxsize=256)
def _accepts_gzip(accept: str) -> bool:
    qualities: dict[str, float] = {}
    for item in accept.lower().split(","):
        coding, *parameters = [part.strip() for part in item.split(";")]
        quality = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        try:
            qualities[coding] = float(quality)
        except ValueError:
            qualities[coding] = 0.0
    return qualities.get("gzip", qualities.get("*", 0.0)) > 0.0
