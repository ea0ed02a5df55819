"""Pictures of a run: curves of the bounds, and a histogram of the log-likelihoods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

__all__ = ["TRAIN", "VALID", "clean", "draw_curves", "draw_histogram", "y_limits"]

TRAIN, VALID, BEST, WARMUP = "#4c78a8", "#e45756", "#333333", "#f2cf5b"


def draw_curves(
    history: Sequence[dict[str, Any]], path: Path, *, title: str, warmup_epochs: int, bounds: str = "ELBO"
) -> None:
    """Draw the bound and the KL of every epoch (nats per image), with the warm-up shaded and the best epoch marked.

    history: metrics of the epochs, oldest first; at least one
    """
    epochs = [line["epoch"] for line in history]
    best = max(history, key=lambda line: line["valid_elbo"])
    figure = Figure(figsize=(8.0, 6.4), layout="constrained")
    elbo, kl = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    for axes, quantity in ((elbo, "elbo"), (kl, "kl")):
        values = {split: [line[f"{split}_{quantity}"] for line in history] for split in ("train", "valid")}
        axes.plot(epochs, values["train"], color=TRAIN, label="train", linewidth=1.4)
        axes.plot(epochs, values["valid"], color=VALID, label="validation", linewidth=1.4)
        axes.set_ylim(y_limits([*values["train"], *values["valid"]]))
        axes.axvspan(0, min(warmup_epochs, epochs[-1]), color=WARMUP, alpha=0.2, linewidth=0, label="warm-up")
        axes.axvline(best["epoch"], color=BEST, linestyle=":", linewidth=1.0)
        clean(axes)
    label = f"best: {best['valid_elbo']:.2f} at epoch {best['epoch']}"
    elbo.plot([best["epoch"]], [best["valid_elbo"]], "o", color=BEST, markersize=5, label=label, zorder=3)
    elbo.set(ylabel=f"{bounds} (nats)", title=title)
    elbo.legend(loc="lower right", frameon=False)
    kl.set(ylabel="KL (nats)", xlabel="epoch", xlim=(0, max(2, epochs[-1])))
    kl.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.savefig(path, dpi=120)


def draw_histogram(values: NDArray[np.float64], path: Path, *, title: str) -> None:
    """Draw a histogram of the log-likelihoods (nats) of test images, as in Figure 7 of the paper."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.hist(values, bins=min(100, max(10, math.isqrt(len(values)))), color=TRAIN, edgecolor="white", linewidth=0.4)
    axes.axvline(values.mean(), color=VALID, linewidth=1.4, label=f"mean {values.mean():.2f}")
    axes.set(xlabel="log-likelihood (nats)", ylabel="test images", title=title)
    axes.legend(loc="upper left", frameon=False)
    clean(axes)
    figure.savefig(path, dpi=120)


def y_limits(values: Sequence[float]) -> tuple[float, float]:
    """Limits of the y axis that show most values; up to a tenth at each end may lie outside."""
    low, high = np.quantile(values, [0.1, 0.9])
    middle = np.clip(values, low - 0.5 * (high - low), high + 0.5 * (high - low))
    margin = 0.05 * float(np.ptp(middle)) or 1.0
    return float(middle.min()) - margin, float(middle.max()) + margin


def clean(axes: Axes) -> None:
    """Remove the frame on sides without an axis, and draw a grid in the background."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
