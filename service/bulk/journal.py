"""The journal of a bulk run: results in a file beside the output, so that a run that was killed can continue."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

import msgspec

from service.bulk.rows import Row
from service.bulk.sources import SourceError

__all__ = ["Journal"]

_encode = msgspec.json.Encoder().encode
_decode_row = msgspec.json.Decoder(Row).decode


class Journal:
    """Rows in JSON lines, which are only ever appended, after a line with the parameters of the run.

    A line that a kill left incomplete is cut off when the journal is opened again, and its image is scored again. The
    file is locked while it is open.

    Args:
        path: Where it is, or is created.
        parameters: What the results depend on.

    Raises:
        SourceError: If another process uses the journal, or it is of a run with other parameters.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> with Journal(Path(folder.name) / "journal", {"seed": 0}) as journal:
        ...     journal.append([Row(file="a.png", p_value=0.5)])
        >>> with Journal(Path(folder.name) / "journal", {"seed": 0}) as journal:
        ...     journal.done, [row.p_value for row in journal.rows()]
        ({'a.png'}, [0.5])
    """

    def __init__(self, path: Path, parameters: Mapping[str, Any]) -> None:
        self.path, self.done = path, set[str]()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = open(path, "a+b")  # noqa: SIM115 - closed by `close`
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._recover(_encode(parameters))
        except BlockingIOError as error:
            self._file.close()
            raise SourceError(f"another run is writing {path}") from error
        except SourceError:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the journal; it stays on disk."""
        self._file.close()

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows, in one write that the system keeps even if this process is killed after it."""
        self._file.write(b"".join(_encode(row) + b"\n" for row in rows))
        self._file.flush()
        self.done.update(row.file for row in rows)

    def rows(self) -> Iterator[Row]:
        """All rows, read one by one."""
        with open(self.path, "rb") as file:
            next(file, None)  # the parameters
            yield from map(_decode_row, file)

    def delete(self) -> None:
        """Delete the journal, whose results have been written elsewhere."""
        self.path.unlink()
        self.close()

    def _recover(self, parameters: bytes) -> None:
        """Read what is done, and cut off what is incomplete."""
        self._file.seek(0)
        first = self._file.readline()
        end = len(first)
        if not first.endswith(b"\n"):
            self._file.truncate(0)
            self._file.write(parameters + b"\n")
            self._file.flush()
            return
        if first != parameters + b"\n":
            raise SourceError(
                f"{self.path} is of a run with other parameters, {first.decode(errors='replace').strip()}; "
                "repeat that command to finish it, or begin anew with --overwrite"
            )
        for line in self._file:
            try:
                row = _decode_row(line) if line.endswith(b"\n") else None
            except msgspec.DecodeError:
                row = None
            if row is None:
                break
            self.done.add(row.file)
            end += len(line)
        self._file.truncate(end)
        self._file.seek(0, os.SEEK_END)
