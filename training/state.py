"""What a run leaves on disk after every epoch, so that it can be resumed: its state and its metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from training.recipe import RecipeError

__all__ = ["METRICS_FILE", "STATE_FILE", "RunState", "StateFolder"]

STATE_FILE, METRICS_FILE = "state.safetensors", "metrics.jsonl"


@dataclass(frozen=True)
class RunState:
    """A run between two epochs.

    weights:   tensors of each part of the run, such as its model, by their names
    optimizer: tensors of each parameter's optimizer state, by its number and their names
    progress:  all else, as plain values
    """

    weights: dict[str, dict[str, Tensor]]
    optimizer: dict[int, dict[str, Tensor]]
    progress: dict[str, Any]


class StateFolder:
    """A run's folder: `state.safetensors`, replaced whole after every epoch, and a line of `metrics.jsonl` for each."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, state: RunState, metrics: Mapping[str, Any]) -> None:
        """Write the state after an epoch, and the epoch's metrics."""
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / METRICS_FILE, "a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
        tensors = {f"{part}.{name}": tensor for part, named in state.weights.items() for name, tensor in named.items()}
        for number, named in state.optimizer.items():
            tensors |= {f"adam.{number}.{name}": tensor for name, tensor in named.items()}
        partial = self.path / (STATE_FILE + ".partial")
        save_file(tensors, partial, metadata={"progress": json.dumps(state.progress)})
        partial.replace(self.path / STATE_FILE)

    def load(self, device: torch.device) -> RunState | None:
        """The last state, on the device; None if the run was stopped in its first epoch.

        Raises `RecipeError` if there is no run, or if it is damaged.
        """
        if not self.path.is_dir():
            raise RecipeError(f"there is no run to resume in {self.path}")
        path = self.path / STATE_FILE
        if not path.exists():
            return None
        weights: dict[str, dict[str, Tensor]] = {}
        optimizer: dict[int, dict[str, Tensor]] = {}
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                progress = json.loads(file.metadata()["progress"])
                for key in file.keys():  # noqa: SIM118
                    part, name = key.split(".", maxsplit=1)
                    if part == "adam":
                        number, name = name.split(".")
                        optimizer.setdefault(int(number), {})[name] = file.get_tensor(key)
                    else:
                        weights.setdefault(part, {})[name] = file.get_tensor(key)
        except SafetensorError as error:
            raise RecipeError(f"{path} is damaged ({error}); remove the folder to start anew") from error
        return RunState(weights, optimizer, progress)

    def history(self) -> list[dict[str, Any]]:
        """Metrics of every epoch so far, oldest first."""
        return [json.loads(line) for line in self._lines()]

    def keep_epochs(self, count: int) -> None:
        """Drop metrics of epochs after the saved state: a kill can come between the two writes."""
        path = self.path / METRICS_FILE
        partial = path.with_name(path.name + ".partial")
        partial.write_text("".join(line + "\n" for line in self._lines()[:count]), encoding="utf-8")
        partial.replace(path)

    def _lines(self) -> list[str]:
        path = self.path / METRICS_FILE
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
