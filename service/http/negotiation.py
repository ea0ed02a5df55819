"""What a client accepts: the quality values of headers such as `Accept` (RFC 9110, section 12.4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

__all__ = ["qualities"]


@lru_cache(maxsize=256)
def qualities(header: str) -> Mapping[str, float]:
    """Quality of each item of a header, in its order; 1 where none is given, and 0 for one that is no number.

    Example:
        >>> qualities("image/png, application/json;q=0.5")
        {'image/png': 1.0, 'application/json': 0.5}
    """
    found: dict[str, float] = {}
    for item in header.lower().split(","):
        name, *parameters = [part.strip() for part in item.split(";")]
        quality = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        try:
            found.setdefault(name, max(0.0, float(quality)))
        except ValueError:
            found.setdefault(name, 0.0)
    return found
