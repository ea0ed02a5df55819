"""Recipes that are trained together, by the part of the paper that they are for."""

from __future__ import annotations

from collections.abc import Sequence

from training.report.paper import (
    CALTECH,
    DYNAMIC_MNIST,
    FREY_FACES,
    HISTOPATHOLOGY,
    OMNIGLOT,
    STATIC_MNIST,
    TABLES,
    Cell,
)

__all__ = ["LISTS", "expand"]

DATA = (STATIC_MNIST, DYNAMIC_MNIST, CALTECH, FREY_FACES, OMNIGLOT, HISTOPATHOLOGY)
MODELS = ("hvae", "vae", "conv_hvae", "pixel_hvae")
PRIORS = ("vampprior", "standard", "mog", "vampprior_data")
"""What matters most comes first, for a sweep may be stopped."""
COMPONENTS = (1, 10, 50, 100, 200, 500, 1000)


def _place(cell: Cell) -> tuple[int, int, int]:
    return DATA.index(cell.data), MODELS.index(cell.model), PRIORS.index(cell.prior)


def _cells() -> tuple[str, ...]:
    """Every cell of Table 1, and the other priors of the HVAE in Tables 2 and 3; Frey Faces on each of its splits."""
    cells = {row.cell for table in TABLES for row in table.rows if row.cell is not None}
    return tuple(f"{name}-{cell.model}-{cell.prior}" for cell in sorted(cells, key=_place) for name in cell.data.names)


def _components() -> tuple[str, ...]:
    """What Figures 2 and 3 compare; the plain name has the paper's K."""
    sizes = ["" if k == STATIC_MNIST.num_components else f"-{k}" for k in COMPONENTS]
    varied = (f"static_mnist-hvae-{prior}{size}" for prior in ("mog", "vampprior") for size in sizes)
    return ("static_mnist-hvae-standard", *varied)


LISTS = {"table1": _cells(), "components": _components()}


def expand(words: Sequence[str]) -> list[str]:
    """The recipes of the lists of those names; what is no list's name is a recipe. Each comes once."""
    return list(dict.fromkeys(recipe for word in words for recipe in LISTS.get(word, (word,))))
