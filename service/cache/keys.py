"""Keys of cached answers."""

from __future__ import annotations

import hashlib
from importlib.metadata import version

__all__ = ["cache_key"]

STREAMS = 2
"""Raised when the same seed gives other answers than before."""
APPLICATION = f"vampprior:{version('vampprior')}:{STREAMS}"
"""Start of every key, so that neither another program nor another version of this one finds its answers."""


def cache_key(operation: str, model_sha256: str, *parts: bytes | str) -> str:
    """`vampprior:{version}:{streams}:{operation}:{model sha256}:{hash of the parts}`.

    The hash covers the length of each part, so that `("ab",)` and `("a", "b")` have different keys.
    """
    digest = hashlib.blake2b(digest_size=32)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(b"%c%d:" % (b"s" if isinstance(part, str) else b"b", len(data)) + data)
    return f"{APPLICATION}:{operation}:{model_sha256}:{digest.hexdigest()}"
