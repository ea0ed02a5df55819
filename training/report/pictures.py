"""Images that a model generates, and sheets of them, as in Figures 4, 5 and 6 of the paper."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from training.plots import VALID
from vampprior.card import CheckpointError
from vampprior.latent_model import LatentModel

__all__ = ["Panel", "draw_panels", "draw_prototypes", "pseudo_inputs_of", "reconstruct", "sample"]

GAP = 2
"""Pixels between two images of a sheet."""
WIDTH, PAD, TITLE = 2.5, 0.08, 0.3
"""Width of a panel, of the margin on its sides, and height of its title, in inches."""
LETTERS = 14
"""Letters of a title per inch."""


def sample(model: LatentModel, n: int, seed: int, component: int | None = None) -> Tensor:
    """Mean images (n, C, H, W) of draws from the prior or one of its components; drawn images if autoregressive."""
    return model.sample(n, component, generator=torch.Generator().manual_seed(seed))


def reconstruct(model: LatentModel, x: Tensor, seed: int) -> Tensor:
    """Images (N, C, H, W) decoded from the posterior means of images `x`; pixels are drawn if autoregressive."""
    return model.reconstruct(x, generator=torch.Generator().manual_seed(seed))


def pseudo_inputs_of(model: LatentModel) -> Tensor:
    """Pseudo-inputs (K, C, H, W), each scaled to a maximum of 1; raises `CheckpointError` if the prior has none."""
    inputs = model.prior.pseudo_inputs
    if inputs is None:
        raise CheckpointError(
            f"the prior {model.config.prior} has no pseudo-inputs to show; choose a checkpoint with a VampPrior"
        )
    return inputs / inputs.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)


class Panel(NamedTuple):
    """Images (N, C, H, W) in [0, 1] under a title, `columns` in a row."""

    title: str
    images: Tensor
    columns: int

    @property
    def aspect(self) -> float:
        """Height of the sheet over its width, without the title."""
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
    """Above, samples of the pseudo-input in their top left corner; below, pseudo-inputs (Figure 4)."""
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
    """The images on white: shape (height, width) or, in color, (height, width, C)."""
    n, channels, height, width = panel.images.shape
    lines, columns = math.ceil(n / panel.columns), panel.columns
    sheet = np.ones((channels, lines * (height + GAP) - GAP, columns * (width + GAP) - GAP), dtype=np.float32)
    for index, image in enumerate(panel.images.numpy()):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        sheet[:, top : top + height, left : left + width] = image
    return sheet[0] if channels == 1 else sheet.transpose(1, 2, 0)
