"""The figure of images with their p-values, what their closest prototypes show, and their heat maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from training.data import Pixels
from vampprior.calibration import Calibration
from vampprior.heatmap import Prototypes
from vampprior.latent_model import LatentModel
from vampprior.novelty import Decision
from vampprior.statistics import image_statistics

__all__ = ["Explained", "draw_explanations", "explain"]

Plane = NDArray[np.float32]

ROWS = ("image", "closest\nprototypes", "heat map")
SIZE = 1.05
"""Width of an image in inches."""
MARGIN, TITLE = 0.35, 0.35
"""Width of the names of the rows, and height of the titles, in inches."""
FRAME = "0.6"
"""Gray of the frames, without which black images would melt into one another."""
NOVEL = "tab:red"


class Explained(NamedTuple):
    """An image with the decision about it; the three images have shape (H, W) and values in [0, 1]."""

    title: str
    image: Plane
    contrast: Plane
    heat_map: Plane
    decision: Decision


def explain(model: LatentModel, calibration: Calibration, images: Mapping[str, Pixels], seed: int) -> list[Explained]:
    """Decide on images (H, W) of 8-bit gray levels by their titles, and compare them with their closest prototypes."""
    x = model.likelihood.from_bytes(torch.from_numpy(np.stack(list(images.values())))[:, None])
    generator = torch.Generator().manual_seed(seed)
    statistics = image_statistics(model, x, num_samples=calibration.num_samples, generator=generator)
    prototypes = Prototypes.of(model)
    columns = (images, x[:, 0], prototypes.contrast(x)[:, 0], prototypes.heat_map(x), calibration.decide(statistics))
    return [
        Explained(title, image.numpy(), contrast.numpy(), heat_map.numpy(), decision)
        for title, image, contrast, heat_map, decision in zip(*columns, strict=True)
    ]


def draw_explanations(columns: Sequence[Explained], path: Path) -> None:
    """Draw a column per image: its title and p-value, the image, its closest prototypes, and its heat map."""
    height, width = columns[0].image.shape
    size = (SIZE * len(columns) + MARGIN, len(ROWS) * SIZE * height / width + TITLE)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0))
    grid = figure.subplots(len(ROWS), len(columns), squeeze=False)
    hottest = max(float(column.heat_map.max()) for column in columns)
    for lines, column in zip(grid.T, columns, strict=True):
        novel = column.decision.novel
        title = f"{column.title}\np = {column.decision.p_value:.2g}{', new' if novel else ''}"
        lines[0].set_title(title, fontsize=7, color=NOVEL if novel else "black", parse_math=False)
        _show(lines[0], column.image, "gray", 1.0)
        _show(lines[1], column.contrast, "gray", 1.0)
        _show(lines[2], column.heat_map, "inferno", hottest)
    for axes, name in zip(grid[:, 0], ROWS, strict=True):
        axes.set_ylabel(name, fontsize=7)
    figure.savefig(path, dpi=160, format="png")


def _show(axes: Axes, image: Plane, colors: str, greatest: float) -> None:
    axes.imshow(image, cmap=colors, vmin=0.0, vmax=greatest, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=FRAME, linewidth=0.8)
