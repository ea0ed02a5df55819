"""Sheets of images, as in Figures 4, 5 and 6 of the paper."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from training.plots import VALID

__all__ = ["Panel", "draw_panels", "draw_prototypes"]

GAP = 2
"""Pixels between two images of a sheet."""
WIDTH, PAD, TITLE = 2.5, 0.08, 0.3
"""Inches: how wide a panel is, what is left free on its sides, and how high its title is."""
LETTERS = 14
"""Of a title to the inch."""


class Panel(NamedTuple):
    """Images (N, C, H, W) in [0, 1] under a title, so many in a row."""

    title: str
    images: Tensor
    columns: int

    @property
    def aspect(self) -> float:
        """Height over width of its sheet, without the title."""
        height, width = self.images.shape[-2:]
        return math.ceil(len(self.images) / self.columns) * (height + GAP) / (self.columns * (width + GAP))


def draw_panels(rows: Sequence[Sequence[Panel]], path: Path) -> None:
    """Panels side by side (Figures 5 and 6)."""
    width = max(len(row) for row in rows)
    heights = [(WIDTH - 2 * PAD) * row[0].aspect + TITLE for row in rows]
    figure = Figure(figsize=(WIDTH * width, sum(heights)), layout=ConstrainedLayoutEngine(w_pad=PAD))
    grid = figure.subplots(len(rows), width, squeeze=False, height_ratios=heights)
    for line, row in zip(grid, rows, strict=True):
        for axes in line[len(row) :]:
            axes.axis("off")
        for axes, panel in zip(line, row, strict=False):
            _show(axes, panel, WIDTH)
    figure.savefig(path, dpi=200, format="png")


def draw_prototypes(groups: Sequence[Panel], prototypes: Panel, path: Path, *, title: str) -> None:
    """Above, images that belong to the pseudo-input in their top left corner; below, pseudo-inputs (Figure 4)."""
    width = WIDTH * len(groups)
    heights = [(WIDTH - 2 * PAD) * groups[0].aspect + TITLE, width * prototypes.aspect + TITLE]
    figure = Figure(figsize=(width, sum(heights) + TITLE), layout=ConstrainedLayoutEngine(w_pad=PAD))
    figure.suptitle(title, fontsize=10)
    (upper,), (lower,) = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)
    for axes, group in zip(upper.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        _show(axes, group, WIDTH)
        sides = [side + 1 for side in reversed(group.images.shape[-2:])]
        axes.add_patch(Rectangle((-1.0, -1.0), *sides, fill=False, edgecolor=VALID, linewidth=1.6, clip_on=False))
    _show(lower.subplots(), prototypes, width)
    figure.savefig(path, dpi=200, format="png")


def _show(axes: Axes, panel: Panel, width: float) -> None:
    axes.imshow(_sheet(panel), cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    axes.set_title(textwrap.fill(panel.title, width=int(LETTERS * width)), fontsize=8, parse_math=False)
    axes.axis("off")


def _sheet(panel: Panel) -> NDArray[np.float32]:
    """The images on white, of shape (height, width) or, in colour, (height, width, C)."""
    n, channels, height, width = panel.images.shape
    lines, columns = math.ceil(n / panel.columns), panel.columns
    sheet = np.ones((channels, lines * (height + GAP) - GAP, columns * (width + GAP) - GAP), dtype=np.float32)
    for index, image in enumerate(panel.images.numpy()):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        sheet[:, top : top + height, left : left + width] = image
    return sheet[0] if channels == 1 else sheet.transpose(1, 2, 0)
