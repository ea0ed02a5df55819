"""`python -m training table`: Tables 1 to 5 of the paper beside the results of a store's checkpoints."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TextIO

import typer

from training.report.paper import BITS, NATS, SLOWDOWNS, TABLES, Cell, PaperRow, unit_of
from training.report.refined import NONE, REFINED_COLUMNS, refined_columns
from training.report.results import Cards, Result, beyond_the_paper, dataset_name, number, reference, score
from training.terminal import Store, console, print_table
from vampprior.card import Card

__all__ = ["Section", "markdown", "sections", "table"]

WORSE = "†"
RUN_COLUMNS = (
    "test images",
    "samples",
    "epochs (best/all)",
    "seed",
    "beyond the paper",
    "device",
    "wall-clock",
    "checkpoint",
)
LEGEND = (
    f"Nats: higher is better. {BITS.name.capitalize()} (Frey Faces, Histopathology): lower is better.",
    "Ours: mean over the scored test images ± its standard error. Frey Faces: mean over the splits ± their standard "
    "deviation.",
    "Each cell has two numbers, which are never mixed. Ours is the plain estimate, which is the paper's protocol. For "
    "the refined one, the posterior is first fitted to each image by some steps of Adam.",
    "Gain: nats by which the refined log-likelihoods exceed the plain ones of the same images, which may be a random "
    "part of the test images.",
    "k-hat < 0.7: share of the images whose estimate is reliable, plain / refined.",
    f"{NONE}: not evaluated.",
    f"{WORSE} worse than the paper by more than {NATS.tolerance} nats or {BITS.tolerance} bits per dimension.",
    "Rows without ours are models of other papers.",
    "Stopped early: the run ended before its patience was spent.",
    "Wall-clock: time of training, which includes pauses of the run and other work of the machine.",
    "Beyond the paper: settings that the paper's training lacks; `training/recipe.py` describes them.",
    "SG: the standard Gaussian prior, for which the paper has different numbers in Table 1 and in Table 2.",
    "Not comparable: another data set is used in place of the paper's.",
    "Several checkpoints of a cell: the newest version is shown, and the others are among the other checkpoints.",
)


def table(
    store: Store = Path("model_store"),
    markdown_: Annotated[bool, typer.Option("--markdown", help="Write Markdown.")] = False,
    output: Annotated[Path | None, typer.Option(help="File to write to, instead of the terminal.")] = None,
) -> None:
    """Compare the checkpoints of a store with Tables 1 to 5 of the paper."""
    found = sections(Cards.read(store))
    with _opened(output) as file:
        if markdown_:
            file.write(markdown(found, command=_command(store, output)))
        else:
            _print(found, file)


def _command(store: Path, output: Path | None) -> str:
    """The command that writes the page."""
    words = ["python", "-m", "training", "table", "--markdown"]
    if store != Path("model_store"):
        words += ["--store", str(store)]
    if output is not None:
        words += ["--output", str(output)]
    return shlex.join(words)


@dataclass(frozen=True)
class Section:
    """A table with its title."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def sections(cards: Cards) -> list[Section]:
    """The tables of the paper and, where there are any, training times, other checkpoints and unreadable ones."""
    header = ("data set", "model", "paper", "ours", *REFINED_COLUMNS, *RUN_COLUMNS)
    tables = [
        Section(
            f"Table {table.number}: {table.caption}", header, [line for row in table.rows for line in _row(row, cards)]
        )
        for table in TABLES
    ]
    more = [
        Section(
            "Wall-clock per epoch",
            ("data set", "model", "K", "standard", "VampPrior", "ratio", "paper's ratio", "device"),
            list(_wall_clock(cards.from_scratch())),
        ),
        Section(
            "Other checkpoints",
            ("data set", "model", "prior", "K", "log-likelihood", *REFINED_COLUMNS, *RUN_COLUMNS),
            [_other(card) for card in _others(cards)],
        ),
        Section("Checkpoints that cannot be read", ("problem",), [(problem,) for problem in cards.problems]),
    ]
    return tables + [section for section in more if section.rows]


def markdown(found: Sequence[Section], command: str) -> str:
    """The tables as a Markdown page."""
    lines = [f"Written by `{command}` from the cards of the checkpoints.", "", "# Results", ""]
    lines += [f"- {line}" for line in LEGEND]
    for section in found:
        lines += ["", f"## {section.title}", ""]
        lines += [_markdown_row(section.header), _markdown_row("---" for _ in section.header)]
        lines += [_markdown_row(row) for row in section.rows]
    return "\n".join(lines) + "\n"


def _markdown_row(texts: Iterable[str]) -> str:
    return "| " + " | ".join(text.replace("|", r"\|") for text in texts) + " |"


def _print(found: Sequence[Section], file: TextIO) -> None:
    terminal = console(file)
    for section in found:
        print_table(terminal, section.header, section.rows, title=section.title)
        terminal.print()
    terminal.print(*LEGEND, sep="\n")


@contextmanager
def _opened(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
    else:
        with open(path, "w", encoding="utf-8") as file:
            yield file


def _row(row: PaperRow, cards: Cards) -> list[tuple[str, ...]]:
    """A row of the paper and, if it was run, the same model on the substitute for the data set."""
    start = (row.data.title, row.model, f"{row.value:.2f}")
    if row.cell is None:
        return [(*start, "", *[""] * len(REFINED_COLUMNS), *_run(()))]
    result, substitute = cards.of_cell(row.cell), cards.of_substitute(row.cell)
    worse = result.mean is not None and row.data.unit.is_worse(result.mean, row.value)
    lines = [(*start, f"{result} {WORSE}" if worse else str(result), *refined_columns(result), *_run(result.cards))]
    if row.data.substitute and substitute.cards:
        shown = (str(substitute), *refined_columns(substitute), *_run(substitute.cards))
        lines.append((row.data.substitute, row.model, "not comparable", *shown))
    return lines


def _run(cards: Sequence[Card]) -> tuple[str, ...]:
    """`RUN_COLUMNS` of the cards; values that differ between cards are joined by commas."""
    described = [_run_of(card) for card in cards]
    return tuple(", ".join(dict.fromkeys(filter(None, column))) for column in zip(*described, strict=True)) or (
        "",
    ) * len(RUN_COLUMNS)


def _run_of(card: Card) -> tuple[str, ...]:
    early = " stopped early" if card.training.get("finished") is False else ""
    return (
        _images(card),
        _whole(number(card.metrics, "num_samples")),
        f"{card.training.get('best_epoch', '?')}/{card.training.get('epochs', '?')}{early}",
        str(card.training.get("seed", "")),
        beyond_the_paper(card),
        str(card.training.get("device", "")),
        _duration(number(card.training, "wall_clock_seconds")),
        reference(card),
    )


def _images(card: Card) -> str:
    scored, sizes = number(card.metrics, "num_images"), card.dataset.get("sizes")
    there = number(sizes, "test") if isinstance(sizes, dict) else None
    partly = scored is not None and there is not None and scored < there
    return f"{_whole(scored)} of {_whole(there)}" if partly else _whole(scored)


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def _wall_clock(cards: Cards) -> Iterator[tuple[str, ...]]:
    """Training times with the standard prior and with the VampPrior, on the paper's data or its substitute."""
    for data in dict.fromkeys(row.data for row in TABLES[0].rows):
        for model, slowdowns in SLOWDOWNS.items():
            standard, vampprior = (Cell.of(data, model, prior) for prior in ("standard", "vampprior"))
            for name, find in ((data.title, cards.of_cell), (data.substitute, cards.of_substitute)):
                times = find(standard), find(vampprior)
                if name and any(result.cards for result in times):
                    paper = f"{slowdowns[data.num_components]:.1f}"
                    yield (name, model, str(data.num_components), *_compare_times(*times, paper))


def _compare_times(standard: Result, vampprior: Result, paper: str) -> tuple[str, ...]:
    """Times per epoch and, where they were measured under the same conditions, their ratio."""
    times = standard.seconds_per_epoch, vampprior.seconds_per_epoch
    alike = len(standard.conditions | vampprior.conditions) == 1
    ratio = f"{times[1] / times[0]:.2f}" if alike and times[0] and times[1] else ""
    devices = dict.fromkeys(str(card.training.get("device", "")) for card in (*standard.cards, *vampprior.cards))
    shown = (_duration(result.seconds_per_epoch) if result.cards else "not run" for result in (standard, vampprior))
    return (*shown, ratio, paper, ", ".join(devices))


def _others(cards: Cards) -> list[Card]:
    """The cards that no row of the paper's tables shows."""
    cells = [row.cell for table in TABLES for row in table.rows if row.cell is not None]
    shown = {
        reference(card) for cell in cells for find in (cards.of_cell, cards.of_substitute) for card in find(cell).cards
    }
    return [card for card in cards.cards if reference(card) not in shown]


def _other(card: Card) -> tuple[str, ...]:
    unit, config = unit_of(card.model.likelihood), card.model
    found = score(card, unit)
    value = "not evaluated" if found is None else f"{unit.show(*found)} {unit.name}"
    shown = (value, *refined_columns(Result(unit, (card,))), *_run([card]))
    return (dataset_name(card), config.model, config.prior, str(config.num_components), *shown)
