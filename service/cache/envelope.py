"""The form in which answers are stored outside of this process, where other programs may overwrite them."""

from __future__ import annotations

import hashlib
import hmac

__all__ = ["OVERHEAD_BYTES", "Envelope"]

FORMAT = b"vamp\x01"
"""Marks a stored value and the version of its layout: this prefix, the checksum, the value."""
CHECKSUM_BYTES = 16
OVERHEAD_BYTES = len(FORMAT) + CHECKSUM_BYTES
"""Bytes that a stored value has more than the value itself."""


class Envelope:
    """Adds a checksum of cache key and value to each value, and refuses values whose checksum is wrong.

    A damaged value, a value of another program, and a value that was moved to another key are all refused.

    secret: makes the checksum a message authentication code (keyed BLAKE2b), so that only a service with the same
            secret can write values that are accepted

    Example:

        >>> envelope = Envelope("secret")
        >>> envelope.open("key", envelope.seal("key", b"value"))
        b'value'
        >>> envelope.open("other key", envelope.seal("key", b"value")) is None
        True
    """

    def __init__(self, secret: str = "") -> None:
        self._key = hashlib.sha512(secret.encode()).digest()  # BLAKE2b takes a key of at most 64 bytes

    def seal(self, key: str, value: bytes) -> bytes:
        """The bytes to store for `value` under `key`."""
        return FORMAT + self._checksum(key, value) + value

    def open(self, key: str, stored: bytes) -> bytes | None:
        """The value in bytes that were found under `key`, or None if `seal` did not make them for this key."""
        value = stored[OVERHEAD_BYTES:]
        checksum = stored[len(FORMAT) : OVERHEAD_BYTES]
        if stored.startswith(FORMAT) and hmac.compare_digest(checksum, self._checksum(key, value)):
            return value
        return None

    def _checksum(self, key: str, value: bytes) -> bytes:
        name = key.encode()
        digest = hashlib.blake2b(b"%d:" % len(name), digest_size=CHECKSUM_BYTES, key=self._key)
        digest.update(name)
        digest.update(value)
        return digest.digest()
