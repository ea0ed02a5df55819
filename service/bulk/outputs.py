"""The output of a bulk run, as CSV, JSON lines or Parquet, written row by row and then moved into place."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from service.bulk.rows import Row
from vampprior.files import atomic_write

__all__ = ["OUTPUTS", "write_output"]

ROWS_AT_ONCE = 10_000


def write_output(path: Path, rows: Iterable[Row], columns: Sequence[str]) -> None:
    """Write rows in the format that the suffix of `path` names; the file is complete or as it was before."""
    with atomic_write(path) as partial:
        OUTPUTS[path.suffix.lower()](partial, rows, columns)


def _write_csv(path: Path, rows: Iterable[Row], columns: Sequence[str]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_csv_cell(getattr(row, column)) for column in columns] for row in rows)


def _csv_cell(value: Any) -> Any:
    """Booleans as in JSON, indices separated by spaces, and an empty cell for None."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def _write_jsonl(path: Path, rows: Iterable[Row], columns: Sequence[str]) -> None:
    with open(path, "wb") as file:
        for row in rows:
            file.write(msgspec.json.encode({column: getattr(row, column) for column in columns}) + b"\n")


def _write_parquet(path: Path, rows: Iterable[Row], columns: Sequence[str]) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    types = {
        "file": pa.string(),
        "reliability": pa.string(),
        "error": pa.string(),
        "novel": pa.bool_(),
        "prototypes": pa.list_(pa.int32()),
    }
    schema = pa.schema([(column, types.get(column, pa.float64())) for column in columns])
    with ParquetWriter(path, schema) as writer:
        for part in _parts(rows):
            values = {column: [getattr(row, column) for row in part] for column in columns}
            writer.write_table(pa.table(values, schema))


def _parts(rows: Iterable[Row]) -> Iterator[list[Row]]:
    remaining = iter(rows)
    while part := list(islice(remaining, ROWS_AT_ONCE)):
        yield part


OUTPUTS: dict[str, Callable[[Path, Iterable[Row], Sequence[str]], None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}
"""A writer for each suffix of an output."""
