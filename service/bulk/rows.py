"""A row of the output of a bulk run."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Self

import msgspec

from vampprior_client import LogLikelihood, Novelty

__all__ = ["LOGLIK_COLUMNS", "NOVELTY_COLUMNS", "Row", "What", "columns_of"]


class What(StrEnum):
    """What is computed for each image."""

    BOTH = "both"
    LOGLIK = "loglik"
    NOVELTY = "novelty"

    @property
    def loglik(self) -> bool:
        """True if log-likelihoods are computed."""
        return self is not What.NOVELTY

    @property
    def novelty(self) -> bool:
        """True if novelty is decided."""
        return self is not What.LOGLIK


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result of one image: scores, or the error that prevents them. Fields are those of the HTTP interface.

    Args:
        file: Name of the image.
        novelty_score: `score` of `POST /novelty`.
        prototypes: Indices of the prototypes that explain the image best.
        error: Why the image could not be scored.
    """

    file: str
    log_likelihood: float | None = None
    standard_error: float | None = None
    bits_per_dim: float | None = None
    elbo: float | None = None
    effective_sample_size: float | None = None
    pareto_k: float | None = None
    reliability: str | None = None
    percentile: float | None = None
    novel: bool | None = None
    p_value: float | None = None
    novelty_score: float | None = None
    prototypes: tuple[int, ...] = ()
    error: str | None = None

    @classmethod
    def of(cls, name: str, score: LogLikelihood | None, novelty: Novelty | None) -> Self:
        """The row of an image from what was computed of it."""
        fields: dict[str, Any] = {}
        if score is not None:
            fields |= {column: getattr(score, column) for column in LOGLIK_COLUMNS}
        if novelty is not None:
            fields |= {
                "novel": novelty.novel,
                "p_value": novelty.p_value,
                "novelty_score": novelty.score,
                "prototypes": tuple(prototype.index for prototype in novelty.prototypes),
            }
        return cls(file=name, **fields)


LOGLIK_COLUMNS = (
    "log_likelihood",
    "standard_error",
    "bits_per_dim",
    "elbo",
    "effective_sample_size",
    "pareto_k",
    "reliability",
    "percentile",
)
NOVELTY_COLUMNS = ("novel", "p_value", "novelty_score", "prototypes")


def columns_of(what: What) -> Sequence[str]:
    """Columns of an output, in their order."""
    loglik = LOGLIK_COLUMNS if what.loglik else ()
    return ["file", *(NOVELTY_COLUMNS if what.novelty else ()), *loglik, "error"]
