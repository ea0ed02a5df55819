"""The models of one reading of the store, with the engine that computes with them."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from service.engine.engine import Engine
from service.engine.protocol import Loaded, Refused, reference_of
from service.metrics import Metrics
from service.models.loaded import LoadedModel
from service.settings import Settings

__all__ = ["Generation", "Refusal", "matches"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Refusal:
    """A folder of the store that does not answer, and why."""

    reference: str
    reason: str


class Generation:
    """Checkpoints that were loaded together into processes of their own.

    requests: that began while it was the present generation, and are still under way
    """

    def __init__(
        self, folders: Sequence[Path], refusals: Sequence[Refusal], settings: Settings, metrics: Metrics
    ) -> None:
        self.pending = {reference_of(folder) for folder in folders}
        self.models: list[LoadedModel] = []
        """By name, the newest version of each name first."""
        self.refusals = list(refusals)
        self.requests = 0
        self._answering: dict[str, LoadedModel] = {}  # by `name@version`, and the newest of each name by `name`
        self.engine = Engine(
            folders,
            device=settings.device,
            workers=settings.worker_counts(),
            max_requests=settings.queue_length,
            max_rows=settings.queued_rows,
            max_seconds=settings.deadline_seconds,
            metrics=metrics,
            on_loaded=self._add,
            on_refused=self._refuse,
        )

    def find(self, reference: str) -> LoadedModel | None:
        """The model of that reference, `name@version`, or of a name its newest version."""
        return self._answering.get(reference)

    def refusal_of(self, reference: str) -> Refusal | None:
        """Why what is called that does not answer."""
        return next((refusal for refusal in self.refusals if matches(reference, refusal.reference)), None)

    def is_pending(self, reference: str) -> bool:
        """True if what is called that has still to be loaded."""
        return any(matches(reference, pending) for pending in self.pending)

    def _add(self, message: Loaded) -> None:
        self.pending.discard(message.reference)
        self._set([*self._others(message.reference), LoadedModel.of(message, self.engine)])
        logger.info("loaded model %s", message.reference)

    def _refuse(self, message: Refused) -> None:
        self.pending.discard(message.reference)
        self._set(self._others(message.reference))
        self.refusals = [refusal for refusal in self.refusals if refusal.reference != message.reference]
        self.refusals.append(Refusal(message.reference, message.reason))
        logger.error("refused model %s: %s", message.reference, message.reason)

    def _others(self, reference: str) -> list[LoadedModel]:
        return [model for model in self.models if model.reference != reference]

    def _set(self, models: Sequence[LoadedModel]) -> None:
        newest_first = sorted(models, key=lambda model: _order(model.card.version), reverse=True)
        self.models = sorted(newest_first, key=lambda model: model.card.name)
        self._answering = {m.card.name: m for m in reversed(self.models)} | {m.reference: m for m in self.models}


def matches(wanted: str, reference: str) -> bool:
    """Whether a `name@version` is called that, a `name@version` or a `name`."""
    return reference == wanted if "@" in wanted else reference.partition("@")[0] == wanted


def _order(version: str) -> list[int]:
    """Versions as numbers, so that 10 is newer than 9."""
    return [int(part) for part in re.findall(r"\d+", version)]
