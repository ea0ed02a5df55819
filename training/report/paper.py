"""The paper's numbers (Tomczak & Welling, 2018), Tables 1 to 5 and Sec. 8.4.2, and the network behind each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from vampprior.config import ModelConfig
from vampprior.likelihoods import LIKELIHOODS

__all__ = ["BITS", "NATS", "SLOWDOWNS", "TABLES", "Cell", "PaperData", "PaperRow", "PaperTable", "Unit", "unit_of"]


@dataclass(frozen=True)
class Unit:
    """What a log-likelihood is given in.

    tolerance: how much worse than the paper is still called equal
    higher_is_better: if not, it is a code length
    """

    name: str
    decimals: int
    tolerance: float
    higher_is_better: bool

    def from_nats(self, nats: float, num_pixels: int) -> float:
        """A log-likelihood of an image in this unit."""
        return nats if self.higher_is_better else -nats / (num_pixels * math.log(2.0))

    def show(self, value: float, spread: float | None) -> str:
        """A value in this unit and its error, if that is known."""
        text = f"{value:.{self.decimals}f}"
        return text if spread is None else f"{text} ± {spread:.{self.decimals}f}"

    def is_worse(self, ours: float, paper: float) -> bool:
        """Whether ours is worse than the paper's by more than the tolerance."""
        return (paper - ours if self.higher_is_better else ours - paper) > self.tolerance


NATS = Unit("nats", decimals=2, tolerance=0.5, higher_is_better=True)
BITS = Unit("bits per dimension", decimals=3, tolerance=0.02, higher_is_better=False)


def unit_of(likelihood: str) -> Unit:
    """Bits per dimension for gray images, nats for any others."""
    known = LIKELIHOODS.get(likelihood)
    return NATS if known is None or known.binary else BITS


@dataclass(frozen=True)
class PaperData:
    """A data set of the paper.

    names:          what the cards of its checkpoints call it; several, if the paper averages over several splits
    num_components: K of the paper's priors that have a choice (Sec. 5.1)
    substitute:     name of a data set that stands in for it, whose numbers do not compare
    """

    title: str
    names: tuple[str, ...]
    num_components: int = 500
    likelihood: str = "bernoulli"
    image_shape: tuple[int, int, int] = (1, 28, 28)
    substitute: str | None = None

    @property
    def unit(self) -> Unit:
        """Of its log-likelihoods in the paper."""
        return unit_of(self.likelihood)


STATIC_MNIST = PaperData("static MNIST", ("static_mnist",))
DYNAMIC_MNIST = PaperData("dynamic MNIST", ("dynamic_mnist",))
OMNIGLOT = PaperData("OMNIGLOT", ("omniglot",), num_components=1000, substitute="omniglot_raw28")
CALTECH = PaperData("Caltech 101 Silhouettes", ("caltech101_silhouettes",))
FREY_FACES = PaperData(
    "Frey Faces",
    ("frey_faces_1", "frey_faces_2", "frey_faces_3"),
    likelihood="logistic",
    image_shape=(1, 28, 20),
)
HISTOPATHOLOGY = PaperData("Histopathology", ("histopathology",), likelihood="logistic")


@dataclass(frozen=True)
class Cell:
    """A model of the paper fitted to a data set: layers of the paper's widths, which are `ModelConfig`'s defaults.

    num_components: K of the prior; None if it has none to choose
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
        """Whether that network is this cell's."""
        wanted = ModelConfig(self.model, self.prior, self.data.likelihood, self.data.image_shape)
        num_components = config.num_components if self.num_components is None else self.num_components
        return config == replace(wanted, num_components=num_components)


@dataclass(frozen=True)
class PaperRow:
    """A test log-likelihood that the paper gives, in the unit of its data set; `cell` is None for other papers' models.

    model: as the paper calls it
    """

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


_MODELS = {
    "vae": "VAE (L = 1)",
    "hvae": "HVAE (L = 2)",
    "conv_hvae": "ConvHVAE (L = 2)",
    "pixel_hvae": "PixelHVAE (L = 2)",
}
_PRIORS = {"standard": "standard", "mog": "MoG", "vampprior_data": "VampPrior data", "vampprior": "VampPrior"}


def _own(data: PaperData, model: str, prior: str, value: float) -> PaperRow:
    return PaperRow(data, f"{_MODELS[model]} + {_PRIORS[prior]}", value, Cell.of(data, model, prior))


def _table_1(values: Mapping[PaperData, tuple[float, ...]]) -> tuple[PaperRow, ...]:
    """Rows of Table 1, whose columns are the models, each with the standard prior and with the VampPrior."""
    columns = [(model, prior) for model in _MODELS for prior in ("standard", "vampprior")]
    return tuple(
        _own(data, model, prior, value)
        for data, line in values.items()
        for (model, prior), value in zip(columns, line, strict=True)
    )


def _others(data: PaperData, values: Mapping[str, float]) -> tuple[PaperRow, ...]:
    return tuple(PaperRow(data, model, value) for model, value in values.items())


TABLES = (
    PaperTable(
        1,
        "Test log-likelihood with the standard prior and with the VampPrior",
        _table_1(
            {
                STATIC_MNIST: (-88.56, -85.57, -86.05, -83.19, -82.41, -81.09, -80.58, -79.78),
                DYNAMIC_MNIST: (-84.50, -82.38, -82.42, -81.24, -80.40, -79.75, -79.70, -78.45),
                OMNIGLOT: (-108.50, -104.75, -103.52, -101.18, -97.65, -97.56, -90.11, -89.76),
                CALTECH: (-123.43, -114.55, -112.08, -108.28, -106.35, -104.22, -85.51, -86.22),
                FREY_FACES: (4.63, 4.57, 4.61, 4.51, 4.49, 4.45, 4.43, 4.38),
                HISTOPATHOLOGY: (6.07, 6.04, 5.82, 5.75, 5.59, 5.58, 4.84, 4.82),
            }
        ),
    ),
    PaperTable(
        2,
        "Test log-likelihood for static MNIST",
        (
            *_others(STATIC_MNIST, {"VAE (L = 1) + NF": -85.10, "VAE (L = 2)": -87.86, "IWAE (L = 2)": -85.32}),
            # SG is the standard Gaussian prior (Sec. 4), for which Table 1 has -86.05
            PaperRow(STATIC_MNIST, "HVAE (L = 2) + SG", -85.89, Cell.of(STATIC_MNIST, "hvae", "standard")),
            _own(STATIC_MNIST, "hvae", "mog", -85.07),
            _own(STATIC_MNIST, "hvae", "vampprior_data", -85.71),
            _own(STATIC_MNIST, "hvae", "vampprior", -83.19),
            *_others(STATIC_MNIST, {"AVB + AC (L = 1)": -80.20, "VLAE": -79.03, "VAE + IAF": -79.88}),
            _own(STATIC_MNIST, "conv_hvae", "vampprior", -81.09),
            _own(STATIC_MNIST, "pixel_hvae", "vampprior", -79.78),
        ),
    ),
    PaperTable(
        3,
        "Test log-likelihood for dynamic MNIST",
        (
            *_others(DYNAMIC_MNIST, {"VAE (L = 2) + VGP": -81.32, "CaGeM-0 (L = 2)": -81.60, "LVAE (L = 5)": -81.74}),
            _own(DYNAMIC_MNIST, "hvae", "vampprior_data", -81.71),
            _own(DYNAMIC_MNIST, "hvae", "vampprior", -81.24),
            *_others(DYNAMIC_MNIST, {"VLAE": -78.53, "VAE + IAF": -79.10, "PixelVAE": -78.96}),
            _own(DYNAMIC_MNIST, "conv_hvae", "vampprior", -79.78),  # -79.75 in Table 1
            _own(DYNAMIC_MNIST, "pixel_hvae", "vampprior", -78.45),
        ),
    ),
    PaperTable(
        4,
        "Test log-likelihood for OMNIGLOT",
        (
            *_others(OMNIGLOT, {"VR-MAX (L = 2)": -103.72, "IWAE (L = 2)": -103.38, "LVAE (L = 5)": -102.11}),
            _own(OMNIGLOT, "hvae", "vampprior", -101.18),
            *_others(OMNIGLOT, {"VLAE": -89.83}),
            _own(OMNIGLOT, "conv_hvae", "vampprior", -97.56),
            _own(OMNIGLOT, "pixel_hvae", "vampprior", -89.76),
        ),
    ),
    PaperTable(
        5,
        "Test log-likelihood for Caltech 101 Silhouettes",
        (
            *_others(CALTECH, {"IWAE (L = 1)": -117.21, "VR-MAX (L = 1)": -117.10}),
            _own(CALTECH, "hvae", "vampprior", -108.28),
            *_others(CALTECH, {"VLAE": -78.53}),  # -77.36 in the paper's text
            _own(CALTECH, "conv_hvae", "vampprior", -104.22),
            _own(CALTECH, "pixel_hvae", "vampprior", -86.22),
        ),
    ),
)

SLOWDOWNS: dict[str, dict[int, float]] = {
    "hvae": {500: 1.4, 1000: 1.4},
    "conv_hvae": {500: 1.9, 1000: 2.1},
    "pixel_hvae": {500: 1.4, 1000: 1.7},
}
"""Wall-clock with the VampPrior over that with the standard prior, by model and K (Sec. 8.4.2)."""
