"""The numbers of the paper (Tomczak & Welling, 2018), read from `paper.toml`, and the network behind each."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from vampprior.config import ModelConfig
from vampprior.likelihoods import LIKELIHOODS

__all__ = [
    "BITS",
    "DATA",
    "NATS",
    "SLOWDOWNS",
    "TABLES",
    "Cell",
    "PaperData",
    "PaperRow",
    "PaperTable",
    "Unit",
    "unit_of",
]


@dataclass(frozen=True)
class Unit:
    """The unit of a log-likelihood.

    tolerance:        differences from the paper up to this count as equal
    higher_is_better: False for a code length
    """

    name: str
    decimals: int
    tolerance: float
    higher_is_better: bool

    def from_nats(self, nats: float, num_pixels: int) -> float:
        """Convert the log-likelihood of an image."""
        return nats if self.higher_is_better else -nats / (num_pixels * math.log(2.0))

    def show(self, value: float, spread: float | None) -> str:
        """Format a value in this unit with its error, if that is known."""
        text = f"{value:.{self.decimals}f}"
        return text if spread is None else f"{text} ± {spread:.{self.decimals}f}"

    def is_worse(self, ours: float, paper: float) -> bool:
        """True if ours is worse than the paper's by more than the tolerance."""
        return (paper - ours if self.higher_is_better else ours - paper) > self.tolerance


NATS = Unit("nats", decimals=2, tolerance=0.5, higher_is_better=True)
BITS = Unit("bits per dimension", decimals=3, tolerance=0.02, higher_is_better=False)


def unit_of(likelihood: str) -> Unit:
    """Bits per dimension for gray images, nats for all others."""
    known = LIKELIHOODS.get(likelihood)
    return NATS if known is None or known.binary else BITS


class PaperData(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A data set of the paper; `paper.toml` describes its fields."""

    title: str
    names: tuple[str, ...]
    num_components: int = 500
    likelihood: str = "bernoulli"
    image_shape: tuple[int, int, int] = (1, 28, 28)
    substitute: str | None = None

    @property
    def unit(self) -> Unit:
        """The unit of its log-likelihoods in the paper."""
        return unit_of(self.likelihood)


@dataclass(frozen=True)
class Cell:
    """A model of the paper on a data set; its layers have the default widths of `ModelConfig`.

    num_components: K of the prior; None for the standard prior
    """

    data: PaperData
    model: str
    prior: str
    num_components: int | None

    @classmethod
    def of(cls, data: PaperData, model: str, prior: str) -> Cell:
        """The cell with the paper's K for that data set."""
        return cls(data, model, prior, None if prior == "standard" else data.num_components)

    def fits(self, config: ModelConfig) -> bool:
        """True if the network is this cell's."""
        wanted = ModelConfig(self.model, self.prior, self.data.likelihood, self.data.image_shape)
        num_components = config.num_components if self.num_components is None else self.num_components
        return config == replace(wanted, num_components=num_components)


@dataclass(frozen=True)
class PaperRow:
    """A test log-likelihood in the paper, in the unit of its data set; `cell` is None for models of other papers."""

    data: PaperData
    model: str
    value: float
    cell: Cell | None = None


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper, its rows from top to bottom."""

    number: int
    caption: str
    rows: tuple[PaperRow, ...]


_FILE: dict[str, Any] = tomllib.loads(Path(__file__).with_name("paper.toml").read_text(encoding="utf-8"))

DATA = msgspec.convert(_FILE["data"], dict[str, PaperData])


def _row(row: Mapping[str, Any]) -> PaperRow:
    data = DATA[row["data"]]
    if "model" not in row:
        return PaperRow(data, row["label"], row["value"])
    label = row.get("label", f"{_FILE['models'][row['model']]} + {_FILE['priors'][row['prior']]}")
    return PaperRow(data, label, row["value"], Cell.of(data, row["model"], row["prior"]))


TABLES = tuple(
    PaperTable(table["number"], table["caption"], tuple(map(_row, table["rows"]))) for table in _FILE["tables"]
)
SLOWDOWNS: dict[str, dict[int, float]] = {
    model: {int(k): slowdown for k, slowdown in slowdowns.items()} for model, slowdowns in _FILE["slowdowns"].items()
}
"""Wall-clock time with the VampPrior over that with the standard prior, by model and K (Sec. 8.4.2)."""
