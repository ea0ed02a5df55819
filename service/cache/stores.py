"""Where values are kept: the interface, and why a value may be missing."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Corrupt", "Skipped", "Store", "StoreFailed"]


class Skipped(Exception):  # noqa: N818
    """The store was not asked."""


class StoreFailed(Exception):  # noqa: N818
    """The store failed to answer."""


class Corrupt(Exception):  # noqa: N818
    """The store holds something under this key that this service did not write."""


class Store(Protocol):
    """Where values are kept."""

    name: str

    async def get(self, key: str) -> bytes | None:
        """The value, or None. Raises `Skipped`, `StoreFailed` or `Corrupt`, and nothing else."""

    def put(self, key: str, value: bytes) -> None:
        """Keep the value if possible, without delay and without a word if not."""

    async def close(self) -> None:
        """Finish what is under way."""
