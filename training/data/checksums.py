"""Checksums by which a downloaded file is known to be the right one."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

__all__ = ["Checksum", "GitBlob", "Sha256"]


@dataclass(frozen=True)
class Checksum(ABC):
    """A digest of a file's bytes, in hexadecimal digits."""

    digest: str
    kind: ClassVar[str]

    @classmethod
    @abstractmethod
    def of(cls, path: Path) -> Self:
        """The checksum of this kind of the file at that path."""

    def __str__(self) -> str:
        return f"{self.kind} {self.digest}"


class Sha256(Checksum):
    """The sha256 of a file's bytes."""

    kind = "sha256"

    @classmethod
    def of(cls, path: Path) -> Self:
        with open(path, "rb") as file:
            return cls(hashlib.file_digest(file, "sha256").hexdigest())


class GitBlob(Checksum):
    """The name that Git gives a file's content: the sha1 of a header with its length, and of its bytes.

    It is known without the file, for every file of a public repository.
    """

    kind = "git blob"

    @classmethod
    def of(cls, path: Path) -> Self:
        begun = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        with open(path, "rb") as file:
            return cls(hashlib.file_digest(file, lambda: begun).hexdigest())
