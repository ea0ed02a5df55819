"""The folders of a model store, `<store>/<name>/<version>/`, found without opening a file."""

from __future__ import annotations

import os
from pathlib import Path

from vampprior.card import CARD_FILE

__all__ = ["StoreError", "check_store", "describe_error", "find_names", "find_versions", "fingerprint"]

MAX_NAMES = 20
"""Names in an error message."""


class StoreError(Exception):
    """The model store cannot be used; the message says why in one line."""


def find_names(store: Path) -> list[Path]:
    """Folders of models, sorted by name. Raises `StoreError` if the store cannot be read."""
    try:
        return _folders(store)
    except FileNotFoundError as error:
        raise StoreError(f"VAMP_MODEL_STORE is {store}, but there is no folder {store.absolute()}") from error
    except NotADirectoryError as error:
        raise StoreError(f"VAMP_MODEL_STORE is {store}, but {store.absolute()} is not a folder") from error
    except OSError as error:
        raise StoreError(f"VAMP_MODEL_STORE is {store}, which cannot be read: {describe_error(error)}") from error


def find_versions(model: Path) -> list[Path]:
    """Folders of a model's versions that hold a card or may not be looked into. Raises `OSError`."""
    return [folder for folder in _folders(model) if _may_exist(folder / CARD_FILE)]


def fingerprint(store: Path) -> tuple[tuple[str, int, int], ...]:
    """Path, size and time of change of every file in the folders of checkpoints; empty if the store cannot be read."""
    try:
        folders = [version for name in find_names(store) for version in find_versions(name)]
        files = [Path(entry) for folder in folders for entry in os.scandir(folder)]
        return tuple(sorted((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files))
    except (StoreError, OSError):
        return ()


def check_store(store: Path, default_model: str) -> None:
    """Raise `StoreError` if the store, or the default model's folder in it, is missing or cannot be read."""
    names = [folder.name for folder in find_names(store)]
    name, _, version = default_model.partition("@")
    if name not in names:
        raise StoreError(f"VAMP_DEFAULT_MODEL is {default_model}, but {store.absolute()} has {_list(names, 'model')}")
    try:
        versions = [folder.name for folder in find_versions(store / name)]
    except OSError as error:
        raise StoreError(f"the default model {default_model} cannot be read: {describe_error(error)}") from error
    if not versions or (version and version not in versions):
        found = f"{(store / name).absolute()} has {_list(versions, 'version')} with a {CARD_FILE}"
        raise StoreError(f"VAMP_DEFAULT_MODEL is {default_model}, but {found}")


def describe_error(error: OSError) -> str:
    """The system's message and the path, such as `permission denied: /models/vamp`."""
    reason = (error.strerror or str(error)).lower()
    return f"{reason}: {Path(error.filename).absolute()}" if error.filename else reason


def _folders(folder: Path) -> list[Path]:
    """Folders in a folder, sorted by name."""
    with os.scandir(folder) as entries:
        return sorted(Path(entry) for entry in entries if _may_be_folder(entry))


def _may_be_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return True  # whoever looks into it finds the reason


def _may_exist(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # whoever opens it finds the reason
    return True


def _list(names: list[str], noun: str) -> str:
    if not names:
        return f"no {noun}"
    shown = ", ".join(names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")
    return f"only the {noun}{'' if len(names) == 1 else 's'} {shown}"
