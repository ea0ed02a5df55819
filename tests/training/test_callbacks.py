from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.callbacks import tensorboard
from training.data import Dataset
from training.recipe import Recipe, RecipeError
from training.runs import Run
from training.trainer import EpochMetrics, Trainer
from vampprior import ModelConfig


def read(folder: Path) -> EventAccumulator:
    """The events that TensorBoard shows."""
    return EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0}).Reload()


def test_tensorboard_gets_scalars_samples_and_pseudo_inputs_of_every_epoch(
    recipe: Recipe, digits: Dataset, tmp_path: Path
) -> None:
    run = Run(recipe, "1", tmp_path / "runs", tmp_path / "store")
    trainer = run.start(digits, torch.device("cpu"))
    with tensorboard(tmp_path / "events") as callback:
        run.fit(trainer, [callback])
    events, history = read(tmp_path / "events"), trainer.folder.history()
    for tag, key in (
        ("elbo/train", "train_elbo"),
        ("elbo/valid", "valid_elbo"),
        ("kl/valid", "valid_kl"),
        ("training/kl_weight", "kl_weight"),
    ):
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        assert found == [(line["epoch"], pytest.approx(line[key])) for line in history]
    assert [event.value for event in events.Scalars("training/learning_rate")] == pytest.approx([5e-4] * 4)
    for tag in ("samples", "pseudo-inputs"):
        assert [event.step for event in events.Images(tag)] == [1, 2, 3, 4]


def test_a_prior_without_pseudo_inputs_has_no_pictures_of_them(recipe: Recipe, digits: Dataset, tmp_path: Path) -> None:
    recipe = replace(recipe, model=ModelConfig(prior="standard", z1_dim=2, z2_dim=2, hidden_dim=4))
    trainer = Trainer(recipe, digits, tmp_path / "run", torch.device("cpu"))
    with tensorboard(tmp_path / "events") as callback:
        callback(trainer, trainer.run_epoch())
    assert read(tmp_path / "events").Tags()["images"] == ["samples"]


def test_epochs_that_a_resumed_run_repeats_are_shown_once(trainer: Trainer, tmp_path: Path) -> None:
    with tensorboard(tmp_path / "events") as callback:
        for _ in range(3):
            callback(trainer, trainer.run_epoch())
    again = EpochMetrics(2, 1.0, *[-7.0] * 6, seconds=1.0)
    with tensorboard(tmp_path / "events") as callback:
        callback(trainer, again)
    elbos = read(tmp_path / "events").Scalars("elbo/valid")
    assert [event.step for event in elbos] == [1, 2]
    assert elbos[-1].value == -7.0


def test_callbacks_change_no_number_and_see_every_epoch(recipe: Recipe, digits: Dataset, tmp_path: Path) -> None:
    runs = [Run(recipe, version, tmp_path / "runs", tmp_path / "store") for version in ("1", "2")]
    trainers = [run.start(digits, torch.device("cpu")) for run in runs]
    seen: list[EpochMetrics] = []
    with tensorboard(tmp_path / "events") as callback:
        runs[0].fit(trainers[0], [callback, lambda trainer, metrics: seen.append(metrics)])
    runs[1].fit(trainers[1])
    assert [metrics.epoch for metrics in seen] == [1, 2, 3, 4]
    first, second = (trainer.model.state_dict() for trainer in trainers)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_without_tensorboard_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with (
        pytest.raises(
            RecipeError, match=r"--tensorboard needs the tensorboard package: pip install '\.\[tensorboard\]'"
        ),
        tensorboard(tmp_path),
    ):
        pass
