"""From images to rows of the journal: a few batches are read and computed at once, and kept in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bulk.journal import Journal
from service.bulk.rows import Row, What
from service.bulk.scorers import Scorer
from service.bulk.sources import Item
from service.errors import Problem, WrongSize
from service.images import Target
from vampprior_client.async_client import in_order

__all__ = ["load_image", "score_all"]

IMAGES = {What.NOVELTY: 64, What.LOGLIK: 8, What.BOTH: 8}
"""Images of a batch. With log-likelihoods it takes seconds, which is what a kill may cost."""
IN_FLIGHT = 4

Levels = NDArray[np.uint8]


async def score_all(
    scorer: Scorer,
    items: Sequence[Item],
    journal: Journal,
    what: What,
    target: Target,
    on_scored: Callable[[int], None],
) -> None:
    """Score the images that the journal lacks, and append their rows to it in order.

    Args:
        scorer: Who computes.
        items: All images.
        journal: Where rows go.
        what: What is computed.
        target: What images are turned into.
        on_scored: Called with the number of images of each batch that has been appended.
    """
    remaining = iter([item for item in items if item.name not in journal.done])

    def work() -> Iterator[Coroutine[Any, Any, list[Row]]]:
        while batch := list(islice(remaining, IMAGES[what])):
            yield _score(scorer, batch, what, target)

    async for rows in in_order(work(), IN_FLIGHT):
        journal.append(rows)
        on_scored(len(rows))


def load_image(item: Item, target: Target) -> Levels | str:
    """The image in the model's shape (C, H, W), or why there is none."""
    try:
        return target.fit(item.read())
    except WrongSize as error:
        return f"{error.detail.partition('. ')[0]}. The options --resize and --invert fit it."
    except Problem as error:
        return error.detail
    except (OSError, ValueError) as error:
        return f"The image cannot be read: {error}"


async def _score(scorer: Scorer, items: Sequence[Item], what: What, target: Target) -> list[Row]:
    images = await asyncio.to_thread(lambda: [load_image(item, target) for item in items])
    good = [image for image in images if not isinstance(image, str)]
    scored = iter(await _rows(scorer, np.stack(good), what) if good else [])
    return [
        Row(file=item.name, error=image) if isinstance(image, str) else Row.of(item.name, *next(scored))
        for item, image in zip(items, images, strict=True)
    ]


async def _rows(scorer: Scorer, levels: Levels, what: What) -> list[tuple[Any, Any]]:
    """Log-likelihood and novelty of each image, None for what is not wanted."""
    nothing = [None] * len(levels)
    try:
        async with asyncio.TaskGroup() as group:
            scores = group.create_task(scorer.log_likelihoods(levels)) if what.loglik else None
            novelty = group.create_task(scorer.novelty(levels)) if what.novelty else None
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return list(zip(scores.result() if scores else nothing, novelty.result() if novelty else nothing, strict=True))
