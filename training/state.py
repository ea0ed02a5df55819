"""The state of a run on disk, from which it is resumed: `state.safetensors` and `metrics.jsonl`, written each epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from training.recipe import RecipeError
from vampprior.files import atomic_write

__all__ = ["METRICS_FILE", "STATE_FILE", "RunState", "StateFolder"]

STATE_FILE, METRICS_FILE = "state.safetensors", "metrics.jsonl"


@dataclass(frozen=True)
class RunState:
    """A run between two epochs.

    weights:   tensors of each part of the run, such as its model, by name
    optimizer: tensors of the optimizer state of each parameter, by the number of the parameter and by name
    progress:  all other values
    """

    weights: Mapping[str, Mapping[str, Tensor]]
    optimizer: Mapping[int, Mapping[str, Tensor]]
    progress: Mapping[str, Any]


class StateFolder:
    """The folder of a run. Files are written on a thread of their own while the next epoch is trained."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer = ThreadPoolExecutor(1, "state")
        self._writing: Future[None] | None = None

    def save(self, state: RunState, metrics: Mapping[str, Any]) -> None:
        """Start writing the state and the metrics of an epoch, both copied first; raises errors of the last writing."""
        tensors = {f"{part}.{name}": tensor for part, named in state.weights.items() for name, tensor in named.items()}
        for number, named in state.optimizer.items():
            tensors |= {f"adam.{number}.{name}": tensor for name, tensor in named.items()}
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
        self.wait()
        self._writing = self._writer.submit(self._write, copies, json.dumps(state.progress), json.dumps(metrics))

    def _write(self, tensors: dict[str, Tensor], progress: str, metrics: str) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / METRICS_FILE, "a", encoding="utf-8") as file:
            file.write(metrics + "\n")
        with atomic_write(self.path / STATE_FILE) as partial:
            save_file(tensors, partial, metadata={"progress": progress})

    def wait(self) -> None:
        """Wait until the last state is written; raises an `OSError` of the writing."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def load(self, device: torch.device) -> RunState | None:
        """The last state, on the device; None if the run was stopped in its first epoch.

        Raises `RecipeError` if there is no run or if the file is damaged.
        """
        self.wait()
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
            raise RecipeError(f"{path} is damaged ({error}); remove the folder to start from the beginning") from error
        return RunState(weights, optimizer, progress)

    def history(self) -> list[dict[str, Any]]:
        """Metrics of every epoch so far, oldest first."""
        return [json.loads(line) for line in self._lines()]

    def keep_epochs(self, count: int) -> None:
        """Drop metrics of epochs after the saved state, which remain if a run is killed between the two writes."""
        lines = self._lines()[:count]
        with atomic_write(self.path / METRICS_FILE) as partial:
            partial.write_text("".join(line + "\n" for line in lines), encoding="utf-8")

    def _lines(self) -> list[str]:
        self.wait()
        path = self.path / METRICS_FILE
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        return [line.rstrip("\n") for line in lines if line.endswith("\n")]  # the last one may still be incomplete
