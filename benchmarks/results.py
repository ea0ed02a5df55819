"""Results on disk, a file a figure, and all of them as one page, RESULTS.md."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import Options, describe_machine
from benchmarks.measure import Claim, Series

__all__ = ["PAGE", "Result", "Table", "claims_table", "measurements", "render_page", "save", "stored_rows"]

FOLDER = Path(__file__).parent / "results"
PAGE = Path(__file__).parent / "RESULTS.md"

Row = Mapping[str, Any]
"""A figure's result with its context, as plain values."""


@dataclass(frozen=True)
class Table:
    """A table of cells that are not measured in rounds, such as scores of several methods on several data sets."""

    title: str
    header: list[str]
    lines: list[list[str]]


@dataclass(frozen=True)
class Result:
    """What a figure found: the measurements, and the claims that rest on them."""

    series: list[Series]
    claims: list[Claim]
    settings: dict[str, Any] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)


def save(name: str, title: str, result: Result, options: Options) -> Row:
    """Write the figure's row and the page of all rows; return the row."""
    row = {
        "figure": name,
        "title": title,
        **describe_machine(),
        "settings": options.settings() | result.settings,
        "claims": [{**asdict(claim.value), "target": str(claim.target), "met": claim.met} for claim in result.claims],
        "series": [asdict(series) for series in result.series],
        **({"tables": [asdict(table) for table in result.tables]} if result.tables else {}),
    }
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(render_page(stored_rows()), encoding="utf-8")
    return row


def stored_rows() -> list[Row]:
    """Every figure's last row, by name."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))]


def render_page(rows: Iterable[Row]) -> str:
    """RESULTS.md: all claims, then each figure's measurements and where they were taken."""
    rows = list(rows)
    parts = ["# Results", "Written by `python -m benchmarks` from `results/*.json`.", claims_table(rows)]
    for row in rows:
        parts += [f"## {row['figure']}", f"{row['title']}.", measurements(row), _context(row)]
    return "\n\n".join(parts) + "\n"


def claims_table(rows: Iterable[Row]) -> str:
    """What was claimed and whether it holds, as a Markdown table."""
    lines = [
        [row["figure"], claim["name"], _value(claim), claim["target"], "yes" if claim["met"] else "**no**"]
        for row in rows
        for claim in row["claims"]
    ]
    return _table(["figure", "", "median (lowest to highest)", "target", "met"], lines)


def measurements(row: Row) -> str:
    """A figure's tables, if it has any, and its measurements as Markdown tables."""
    series = _table(["", "median (lowest to highest)"], [[item["name"], _value(item)] for item in row["series"]])
    tables = [f"{table['title']}\n\n{_table(table['header'], table['lines'])}" for table in row.get("tables", ())]
    return "\n\n".join([*tables, series])


def _value(item: Row) -> str:
    return f"{Series(item['name'], item['unit'], item['values'])} {item['unit']}".replace(" times", " x").rstrip()


def _context(row: Row) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in [*row["settings"].items(), *row["environment"].items()])
    versions = ", ".join(f"{name} {value}" for name, value in row["versions"].items() if value)
    processor = " with ".join(filter(None, [row["processor"], row.get("instructions")]))  # older rows lack the latter
    return (
        f"{row['date'][:10]}, commit {row['commit']}; {processor}, {row['cpus']} CPUs, "
        f"{row['memory_gib']} GiB, Linux {row['kernel']}; {settings}; {versions}"
    )


def _table(header: list[str], lines: list[list[str]]) -> str:
    widths = [max(len(line[column]) for line in [header, *lines]) for column in range(len(header))]
    cells = [header, ["-" * width for width in widths], *lines]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    )
