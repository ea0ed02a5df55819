"""A model that answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from service.engine.client import EngineModel
from service.engine.engine import Engine
from service.engine.protocol import UNIT_SAMPLES, Loaded
from service.errors import CalibrationNotFound, PseudoInputNotFound, quoted
from vampprior.card import Card

__all__ = ["LoadedModel"]


@dataclass(frozen=True)
class LoadedModel:
    """A checkpoint that answers.

    engine:            computes with it
    weights:           the prior's component weights, shape (K,), summing to 1
    has_pseudo_inputs: whether the prior's components are pseudo-inputs
    calibrations:      number of images of each calibration, by name
    """

    card: Card
    engine: EngineModel
    weights: NDArray[np.float32]
    has_pseudo_inputs: bool
    calibrations: Mapping[str, int]

    @classmethod
    def of(cls, message: Loaded, engine: Engine) -> LoadedModel:
        """The model that an engine has loaded."""
        card = Card.from_dict(json.loads(message.card))
        client = EngineModel(
            engine,
            message.reference,
            num_pixels=card.model.num_pixels,
            max_rows=message.max_rows,
            seconds_per_row=message.unit_seconds / UNIT_SAMPLES,
            autoregressive=message.autoregressive,
            has_pseudo_inputs=message.has_pseudo_inputs,
        )
        weights = np.frombuffer(message.weights, np.float32)
        return cls(card, client, weights, message.has_pseudo_inputs, message.calibrations)

    @property
    def reference(self) -> str:
        """`name@version`."""
        return f"{self.card.name}@{self.card.version}"

    @cached_property
    def digest(self) -> str:
        """A hash for cache keys: of the card, since answers hold its name, and it holds the sha256 of the rest."""
        return hashlib.sha256(json.dumps(self.card.to_dict(), sort_keys=True).encode()).hexdigest()

    @cached_property
    def headers(self) -> dict[str, str]:
        """Headers of its answers."""
        return {"X-Model": self.card.name, "X-Model-Version": self.card.version}

    @property
    def num_components(self) -> int:
        """Components K of the prior."""
        return len(self.weights)

    @property
    def latent_dims(self) -> dict[str, int]:
        """Units of each stochastic layer, top first."""
        config = self.card.model
        return {"z1": config.z1_dim} if config.model == "vae" else {"z2": config.z2_dim, "z1": config.z1_dim}

    def component(self, number: int) -> int:
        """The number of a prior component; raises `PseudoInputNotFound` if there is none of that number."""
        if not 0 <= number < self.num_components:
            kind = "pseudo-inputs" if self.has_pseudo_inputs else "components"
            raise PseudoInputNotFound(
                f"{self.reference} has {kind} 0 to {self.num_components - 1}, none numbered {number}"
            )
        return number

    def calibration_size(self, name: str) -> int:
        """Number of images of a calibration; raises `CalibrationNotFound` if there is none of that name."""
        if name not in self.calibrations:
            known = ", ".join(self.calibrations) or "none"
            raise CalibrationNotFound(
                f"{self.reference} has no calibration {quoted(name)}; there are: {known}. "
                f"`python -m training calibrate {self.reference}` makes one"
            )
        return self.calibrations[name]

    def component_of(self, pseudo_input: int) -> int:
        """The prior component of a pseudo-input; raises `PseudoInputNotFound` if there is none of that number."""
        if not self.has_pseudo_inputs:
            raise PseudoInputNotFound(
                f"the prior of {self.reference} is {self.card.model.prior!r} and has no pseudo-inputs but "
                f"{self.num_components} component{'s' if self.num_components > 1 else ''}, which GET /pseudo-inputs "
                "shows decoded; leave pseudo_input out to sample from the whole prior"
            )
        return self.component(pseudo_input)
