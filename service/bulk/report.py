"""The report of a bulk run: one page with no script and no outside request."""

from __future__ import annotations

import base64
import hashlib
import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from service.bulk.histogram import Histogram, histogram
from service.bulk.journal import Journal
from service.bulk.rows import Row, What
from service.bulk.scorers import Scorer
from service.bulk.scoring import load_image
from service.bulk.sources import Item
from service.images import Target, encode_png
from vampprior.files import atomic_write

__all__ = ["ODDEST", "write_report"]

ODDEST = 24
"""Images that are shown."""
MOST_BROKEN = 100
"""Broken images that are listed."""
P_BINS = 20
RED = np.array([1.0, 0.15, 0.1], np.float32)[:, None, None]

Images = NDArray[np.float32]


@dataclass(frozen=True)
class Figure:
    """A picture of an image, as a data URI."""

    source: str
    caption: str


@dataclass(frozen=True)
class Card:
    """One of the oddest images, with pictures: itself, its heat map, and the prototypes that explain it best."""

    row: Row
    figures: Sequence[Figure]


async def write_report(
    path: Path, journal: Journal, items: Sequence[Item], scorer: Scorer, what: What, target: Target
) -> None:
    """Write the report of a finished run: histograms, the oddest images by p-value, and the broken ones.

    Without novelty, the oddest images are the least likely ones.
    """
    names = {item.name for item in items}
    oddest = heapq.nsmallest(ODDEST, (row for row in journal.rows() if row.error is None), key=_oddness)
    cards = await _cards([row for row in oddest if row.file in names], items, scorer, target)
    style = _resource("report.css")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(_resource("report.html")).render(
        model=scorer.reference,
        style=Markup(style),  # noqa: S704 - our own file
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        histograms=_histograms(journal, what),
        cards=cards,
        what=what,
        broken=list(islice((row for row in journal.rows() if row.error), MOST_BROKEN)),
        **_totals(journal),
    )
    with atomic_write(path) as partial:
        partial.write_text(page, "utf-8")


def _oddness(row: Row) -> tuple[float, float, float]:
    """Sorts the oddest first: by p-value, then by score, then by log-likelihood."""
    p_value = 1.0 if row.p_value is None else row.p_value
    return p_value, -(row.novelty_score or 0.0), row.log_likelihood or 0.0


def _totals(journal: Journal) -> dict[str, int]:
    scored = broken = novel = 0
    for row in journal.rows():
        scored, broken, novel = scored + (row.error is None), broken + (row.error is not None), novel + bool(row.novel)
    return {"scored": scored, "num_broken": broken, "novel": novel}


def _histograms(journal: Journal, what: What) -> list[Histogram]:
    charts = []
    p_values = np.array([row.p_value for row in journal.rows() if row.p_value is not None])
    if len(p_values):
        charts.append(
            histogram(
                p_values,
                title="p-values",
                note="For images like those that the model was trained on, all bars would reach about the dashed line. "
                "A high first bar means that more images are unusual than that.",
                bounds=(0.0, 1.0),
                bins=P_BINS,
                expected=len(p_values) / P_BINS,
            )
        )
    scores = np.array([row.log_likelihood for row in journal.rows() if row.log_likelihood is not None])
    if what.loglik and len(scores):
        low, high = _inner_range(scores)
        note = "Higher is more likely. Simple images have high values, whether or not the model knows them."
        if beyond := int((scores < low).sum()):
            note += f" The first bar also holds {beyond:,} {'image' if beyond == 1 else 'images'} with lower values."
        charts.append(histogram(scores.clip(low, high), title="Log-likelihoods, in nats", note=note))
    return charts


def _inner_range(values: NDArray[np.floating]) -> tuple[float, float]:
    """The range of the values without those that lie far outside of the middle half (Tukey's outer fences)."""
    first, third = np.quantile(values, [0.25, 0.75])
    reach = 3.0 * (third - first)
    return float(max(values.min(), first - reach)), float(min(values.max(), third + reach))


async def _cards(rows: Sequence[Row], items: Sequence[Item], scorer: Scorer, target: Target) -> list[Card]:
    wanted = {row.file for row in rows}
    by_name = {item.name: item for item in items if item.name in wanted}
    loaded = [(row, load_image(by_name[row.file], target)) for row in rows]
    images = [(row, image) for row, image in loaded if not isinstance(image, str)]
    if not images:
        return []
    levels = np.stack([image for _, image in images])
    heat = await scorer.heat_maps(levels)
    prototypes = await scorer.prototypes(sorted({index for row, _ in images for index in row.prototypes}))
    return [
        Card(row, _figures(row, image, None if heat is None else heat[index], prototypes))
        for index, (row, image) in enumerate(images)
    ]


def _figures(
    row: Row, levels: NDArray[np.uint8], heat: Images | None, prototypes: Mapping[int, Images]
) -> list[Figure]:
    image = levels.astype(np.float32) / 255.0
    figures = [Figure(_data_uri(image), "image")]
    if heat is not None:
        strength = heat.clip(0.0, 1.0)
        overlay = (1.0 - strength) * 0.8 * np.broadcast_to(image, (3, *image.shape[1:])) + strength * RED
        figures.append(Figure(_data_uri(overlay.astype(np.float32)), "where it differs"))
    return figures + [Figure(_data_uri(prototypes[index]), f"prototype {index}") for index in row.prototypes]


def _data_uri(image: Images) -> str:
    return "data:image/png;base64," + base64.b64encode(encode_png(image)).decode()


def _resource(name: str) -> str:
    return (Path(__file__).parent / name).read_text("utf-8")
