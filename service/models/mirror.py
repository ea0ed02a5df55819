"""A local copy of a model store that lies elsewhere, such as `s3://bucket/models`."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.models.catalog import StoreError
from vampprior.card import CARD_FILE, CHECKPOINT_NAME
from vampprior.files import atomic_write

__all__ = ["Mirror", "is_remote"]

INDEX_FILE = ".index.json"
FILE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.(json|safetensors|png)"
COPIED = re.compile(f"({CHECKPOINT_NAME})/({CHECKPOINT_NAME})/({FILE_NAME})")
"""Files of checkpoints. Nothing else is copied, and no name can lead out of the folder."""
MAX_FILES, MAX_BYTES = 10_000, 64 * 2**30
PIECE_BYTES = 2**20


def is_remote(store: str) -> bool:
    """Whether a store is named by an address rather than a folder."""
    return "://" in store


class Mirror:
    """Keeps the files of checkpoints of a store at an address in a folder.

    The address is one of fsspec's. A file is copied again when its size, tag or time of change differs from when it was
    copied. Whether its content is right, the loader of checkpoints finds by the hashes in the card.

    Args:
        address: Such as `s3://bucket/models`.
        cache: Folder of copies; each address has one of its own in it.
    """

    def __init__(self, address: str, cache: Path) -> None:
        self.address = address
        self.folder = cache / hashlib.sha256(address.encode()).hexdigest()[:16]

    def listing(self) -> dict[str, str]:
        """What tells whether a file has changed, by its path `<name>/<version>/<file>`. Raises `StoreError`."""
        return {path: _version(entry) for path, (_, entry) in self._find().items()}

    def update(self) -> Path:
        """Make the folder equal to the store, and return it. Raises `StoreError` if that fails.

        A card comes after the other files of its checkpoint, so that an interrupted copy is no checkpoint.
        """
        found, index = self._find(), self._read_index()
        for path in sorted(found, key=lambda path: (path.endswith(f"/{CARD_FILE}"), path)):
            remote, entry = found[path]
            if index.get(path) == _version(entry) and (self.folder / path).is_file():
                continue
            index.pop(path, None)
            self._write_index(index)
            self._copy(remote, self.folder / path)
            index[path] = _version(entry)
            self._write_index(index)
        for path in set(index) - set(found):
            (self.folder / path).unlink(missing_ok=True)
            index.pop(path)
        self._write_index(index)
        self._remove_strangers(set(found))
        return self.folder

    def _find(self) -> dict[str, tuple[str, Mapping[str, Any]]]:
        """Full path and description of each file, by its path in the store."""
        try:
            system, root = self._open()
            system.invalidate_cache()
            entries = system.find(root, detail=True, maxdepth=3)
        except ImportError as error:
            scheme = self.address.partition("://")[0]
            raise StoreError(
                f"VAMP_MODEL_STORE is {self.address}: install what reads {scheme}://, {error}; "
                "pip install 'vampprior[remote]' has fsspec and S3"
            ) from error
        except Exception as error:  # each kind of file system has errors of its own
            raise StoreError(
                f"VAMP_MODEL_STORE is {self.address}, which cannot be read: {_in_a_line(error)}"
            ) from error
        found = {}
        for remote, entry in entries.items():
            path = remote.removeprefix(root).lstrip("/")
            if COPIED.fullmatch(path) and entry.get("type") == "file":
                found[path] = (remote, entry)
        total = sum(int(entry.get("size") or 0) for _, entry in found.values())
        if len(found) > MAX_FILES or total > MAX_BYTES:
            raise StoreError(
                f"VAMP_MODEL_STORE is {self.address}, which has {len(found)} files of {total} bytes together; at most "
                f"{MAX_FILES} files of {MAX_BYTES} bytes are copied"
            )
        if not found:
            raise StoreError(
                f"VAMP_MODEL_STORE is {self.address}, which has no checkpoints <name>/<version>/{CARD_FILE}"
            )
        return found

    def _open(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        system, root = url_to_fs(self.address)
        return system, str(root).rstrip("/")

    def _copy(self, remote: str, target: Path) -> None:
        system, _ = self._open()
        try:
            with atomic_write(target) as partial, system.open(remote, "rb") as source, open(partial, "wb") as copy:
                shutil.copyfileobj(source, copy, PIECE_BYTES)
        except Exception as error:
            raise StoreError(f"{self.address}: {remote} cannot be copied: {_in_a_line(error)}") from error

    def _remove_strangers(self, wanted: set[str]) -> None:
        """Remove what an interrupted copy or a lost index has left, and then empty folders."""
        for path in sorted(self.folder.rglob("*"), reverse=True):
            name = path.relative_to(self.folder).as_posix()
            if path.is_file() and name not in wanted and name != INDEX_FILE:
                path.unlink()
            elif path.is_dir() and not any(path.iterdir()):
                path.rmdir()

    def _read_index(self) -> dict[str, str]:
        try:
            index = json.loads((self.folder / INDEX_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        is_index = isinstance(index, dict) and all(isinstance(value, str) for value in index.values())
        return {path: value for path, value in index.items() if COPIED.fullmatch(path)} if is_index else {}

    def _write_index(self, index: Mapping[str, str]) -> None:
        try:
            with atomic_write(self.folder / INDEX_FILE) as partial:
                partial.write_text(json.dumps(index, sort_keys=True), encoding="utf-8")
        except OSError as error:
            raise StoreError(f"VAMP_MODEL_CACHE: {self.folder} cannot be written: {_in_a_line(error)}") from error


def _version(entry: Mapping[str, Any]) -> str:
    """What changes when a file does: size, and tag or time of change as its file system names them."""
    keys = ("ETag", "etag", "md5Hash", "generation", "LastModified", "mtime", "created", "last_modified")
    return repr([entry.get("size"), *(str(entry[key]) for key in keys if key in entry)])


def _in_a_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
