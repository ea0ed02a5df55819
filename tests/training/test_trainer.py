from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file

from training.data import Dataset
from training.optim import NormalizedAdam
from training.recipe import Recipe, RecipeError
from training.runs import Run
from training.trainer import Trainer
from vampprior.card import CheckpointError
from vampprior.checkpoint import load_checkpoint

CPU = torch.device("cpu")
MetricsOf = Callable[[Path], list[dict[str, float]]]


def with_training(recipe: Recipe, **changes: object) -> Recipe:
    return replace(recipe, training=replace(recipe.training, **changes))


class Scripted(Trainer):
    """Validates to given ELBOs; in each epoch every weight becomes the number of that epoch."""

    elbos: Iterator[float]

    def train_epoch(self, kl_weight: float, generator: torch.Generator) -> tuple[float, float, float]:
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.fill_(self.epoch + 1)
        self.average.update_parameters(self.model)
        return 0.0, 0.0, 0.0

    def _validate(self) -> tuple[float, float, float]:
        return next(self.elbos), 0.0, 0.0


@pytest.mark.parametrize(
    ("elbos", "stops_at", "best"),
    [
        ([-5, -4, -6, -6, -6, -6], 5, 2),  # the best came in the warm-up of 3 epochs: patience of 2 counts from its end
        ([-5, -4, -6, -6, -3, -4, -4], 7, 5),  # a better one starts the patience anew
        ([-5, -4, -4, -4, -4], 5, 2),  # as good is not better
        ([-9, -8, -7, -6, -5, -4, -3, -2], 8, 8),  # eight epochs at most
    ],
)
def test_training_stops_when_patience_is_spent_and_keeps_the_best_weights(
    elbos: list[float], stops_at: int, best: int, recipe: Recipe, digits: Dataset, tmp_path: Path
) -> None:
    recipe = with_training(recipe, warmup_epochs=3, patience=2, max_epochs=8)
    trainer = Scripted(recipe, digits, tmp_path, CPU)
    trainer.elbos = iter(elbos)
    left = []
    while not trainer.finished:
        left.append(trainer.epochs_left)
        trainer.run_epoch()
    assert (trainer.epoch, trainer.best_epoch) == (stops_at, best)
    assert left[-1] == 1
    assert {value.item() for p in trainer.best_model().parameters() for value in p.flatten()} == {float(best)}
    assert trainer.summary()["best_valid_elbo"] == elbos[best - 1]


def test_the_last_weights_are_kept_if_the_recipe_says_so(recipe: Recipe, digits: Dataset, tmp_path: Path) -> None:
    trainer = Scripted(with_training(recipe, patience=1, max_epochs=4, keep="last"), digits, tmp_path, CPU)
    trainer.elbos = iter([-5, -3, -6, -4])
    while not trainer.finished:
        trainer.run_epoch()
    assert trainer.epoch == 4
    assert {value.item() for p in trainer.best_model().parameters() for value in p.flatten()} == {4.0}
    summary = trainer.summary()
    assert (summary["best_epoch"], summary["best_valid_elbo"]) == (4, -4)


def test_the_weights_that_are_kept_are_a_moving_average_of_every_tenth_step_and_the_last(
    recipe: Recipe, digits: Dataset, tmp_path: Path
) -> None:
    trainer = Trainer(with_training(recipe, ema_decay=0.7), digits, tmp_path, CPU)
    step, steps = trainer.optimizer.step, []

    def noting(*arguments: object) -> object:
        outcome = step(*arguments)
        steps.append(trainer.model.p_x.pixels.bias.detach().clone())
        return outcome

    trainer.optimizer.step = noting
    trainer.run_epoch()
    assert len(steps) == 13
    average = 0.7**10 * steps[9] + (1 - 0.7**10) * steps[12]
    torch.testing.assert_close(trainer.best_weights["p_x.pixels.bias"], average)
    assert not torch.equal(average, steps[-1])


def test_the_validated_model_stays_in_evaluation_mode(trainer: Trainer) -> None:
    trainer.run_epoch()
    assert trainer.model.training
    assert not any(module.training for module in trainer.validated_model.modules())


def test_the_kl_weight_rises_to_one_over_the_warm_up(trainer: Trainer) -> None:
    assert [trainer.run_epoch().kl_weight for _ in range(3)] == [0.5, 1.0, 1.0]


@pytest.mark.parametrize("annealing", [False, True])
def test_the_learning_rate_stays_or_falls_linearly(
    annealing: bool, recipe: Recipe, digits: Dataset, tmp_path: Path
) -> None:
    recipe = with_training(recipe, annealing=annealing, learning_rate=4e-3)
    trainer = Trainer(recipe, digits, tmp_path, CPU)
    rates = []
    for _ in range(2):
        trainer.run_epoch()
        rates += {group["lr"].item() for group in trainer.optimizer.param_groups}
    trainer.folder.wait()
    trainer = Trainer(recipe, digits, tmp_path, CPU)
    trainer.resume()
    while not trainer.finished:
        trainer.run_epoch()
        rates += {group["lr"].item() for group in trainer.optimizer.param_groups}
    assert rates == pytest.approx([4e-3, 3e-3, 2e-3, 1e-3] if annealing else [4e-3] * 4)


def test_training_raises_the_bound_on_real_digits(recipe: Recipe, digits: Dataset, tmp_path: Path) -> None:
    recipe = with_training(recipe, max_epochs=15, learning_rate=2e-3)
    trainer = Trainer(recipe, digits, tmp_path, CPU)
    lines = [trainer.run_epoch() for _ in range(15)]
    # the bound of independent pixels, each with its own frequency: what a model without latents can reach
    frequency = digits.train.mean(axis=0).clip(1e-3, 1 - 1e-3)
    baseline = np.where(digits.valid, np.log(frequency), np.log1p(-frequency)).sum(axis=(1, 2, 3)).mean()
    assert lines[-1].train_elbo > lines[0].train_elbo + 5
    assert lines[-1].valid_elbo > baseline


def test_a_bound_of_several_samples_is_above_the_elbo(recipe: Recipe, digits: Dataset, tmp_path: Path) -> None:
    trainer = Trainer(with_training(recipe, importance_samples=5), digits, tmp_path, CPU)
    for line in [trainer.run_epoch() for _ in range(2)]:
        assert line.train_elbo > line.train_reconstruction - line.train_kl + 0.1
        assert line.valid_elbo > line.valid_reconstruction - line.valid_kl + 0.1


@pytest.mark.parametrize(("importance", "validation", "draws"), [(1, 1, 1), (5, 1, 5), (1, 7, 7), (3, 1000, 1000)])
def test_validation_draws_no_less_than_training(
    importance: int, validation: int, draws: int, recipe: Recipe, digits: Dataset, tmp_path: Path
) -> None:
    recipe = with_training(recipe, importance_samples=importance, validation_samples=validation)
    assert recipe.training.draws == {"train": importance, "valid": draws}
    few = dataclasses.replace(digits, train=digits.train[:100], valid=digits.valid[:8])
    line = Trainer(recipe, few, tmp_path, CPU).run_epoch()
    gap = line.valid_elbo - (line.valid_reconstruction - line.valid_kl)
    assert gap == pytest.approx(0, abs=1e-4) if draws == 1 else gap > 0.1


def test_a_bound_is_its_reconstruction_less_its_kl(trainer: Trainer) -> None:
    line = trainer.run_epoch()
    assert line.train_elbo == pytest.approx(line.train_reconstruction - line.train_kl, abs=1e-4)
    assert line.valid_elbo == pytest.approx(line.valid_reconstruction - line.valid_kl, abs=1e-4)


def test_a_resumed_run_gives_the_numbers_of_an_uninterrupted_one(
    recipe: Recipe, digits: Dataset, tmp_path: Path, metrics_of: MetricsOf
) -> None:
    whole = Trainer(recipe, digits, tmp_path / "whole", CPU)
    while not whole.finished:
        whole.run_epoch()
    first = Trainer(recipe, digits, tmp_path / "parts", CPU)
    first.run_epoch()
    first.run_epoch()
    first.folder.wait()
    second = Trainer(recipe, digits, tmp_path / "parts", CPU)
    second.resume()
    assert second.epoch == 2
    while not second.finished:
        second.run_epoch()
    second.folder.wait()
    whole.folder.wait()
    assert metrics_of(tmp_path / "parts") == metrics_of(tmp_path / "whole")
    assert len(second.folder.history()) == 4
    ours, theirs = (load_file(tmp_path / name / "state.safetensors") for name in ("parts", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(("normalize_gradients", "kind"), [(True, NormalizedAdam), (False, torch.optim.AdamW)])
def test_gradients_are_normalized_unless_the_recipe_says_otherwise(
    normalize_gradients: bool, kind: type, recipe: Recipe, digits: Dataset, tmp_path: Path
) -> None:
    trainer = Trainer(
        with_training(recipe, normalize_gradients=normalize_gradients, weight_decay=0.3), digits, tmp_path, CPU
    )
    assert type(trainer.optimizer) is kind
    assert {group["weight_decay"] for group in trainer.optimizer.param_groups} == {0.3, 0.0}


def test_training_starts_with_the_weights_of_a_checkpoint(
    checkpoint: Path, recipe: Recipe, digits: Dataset, tmp_path: Path
) -> None:
    run = Run(replace(recipe, init_checkpoint="tiny@1"), "2", tmp_path / "runs", tmp_path / "store")
    trainer = run.start(digits, CPU)
    started, _ = load_checkpoint(checkpoint)
    for weights in (trainer.model.state_dict(), trainer.average.module.state_dict(), trainer.best_weights):
        for name, tensor in started.state_dict().items():
            assert torch.equal(weights[name], tensor)
    trainer.run_epoch()
    assert not torch.equal(trainer.model.p_x.pixels.bias, started.p_x.pixels.bias)
    assert trainer.summary()["recipe"]["init_checkpoint"] == "tiny@1"
    trainer.folder.wait()
    again = run.resume(digits, CPU)
    assert torch.equal(again.model.p_x.pixels.bias, trainer.model.p_x.pixels.bias)


def test_a_start_of_another_model_is_refused(checkpoint: Path, recipe: Recipe, digits: Dataset, tmp_path: Path) -> None:
    recipe = replace(recipe, init_checkpoint="tiny@1", model=dataclasses.replace(recipe.model, hidden_dim=20))
    with pytest.raises(RecipeError, match="tiny@1 is another model: hidden_dim was 16 and is now 20"):
        Run(recipe, "2", tmp_path / "runs", tmp_path / "store").start(digits, CPU)


def test_a_start_that_is_not_there_says_what_is(
    checkpoint: Path, recipe: Recipe, digits: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint 'tiny@7' in .*; there are: tiny@1"):
        Run(replace(recipe, init_checkpoint="tiny@7"), "2", tmp_path / "runs", tmp_path / "store").start(digits, CPU)


def test_epochs_after_the_saved_state_are_forgotten(trainer: Trainer, recipe: Recipe, digits: Dataset) -> None:
    trainer.run_epoch()
    trainer.folder.wait()
    with open(trainer.folder.path / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 2, "half a li')  # a kill between the two writes, or in the first
    again = Trainer(recipe, digits, trainer.folder.path, CPU)
    again.resume()
    assert [line["epoch"] for line in again.folder.history()] == [1]
    again.run_epoch()
    assert [line["epoch"] for line in again.folder.history()] == [1, 2]


def test_a_run_stopped_in_its_first_epoch_begins_again(recipe: Recipe, digits: Dataset, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n')
    trainer = Trainer(recipe, digits, tmp_path, CPU)
    trainer.resume()
    assert trainer.epoch == 0
    assert trainer.folder.history() == []


def test_another_recipe_or_other_data_cannot_resume(trainer: Trainer, recipe: Recipe, digits: Dataset) -> None:
    trainer.run_epoch()
    trainer.folder.wait()
    other_recipe = Trainer(with_training(recipe, learning_rate=1e-3), digits, trainer.folder.path, CPU)
    with pytest.raises(RecipeError, match=r"another recipe: training.learning_rate was 0.0005 and is now 0.001"):
        other_recipe.resume()
    other_data = Trainer(recipe, dataclasses.replace(digits, valid=digits.test), trainer.folder.path, CPU)
    with pytest.raises(RecipeError, match="started on other data"):
        other_data.resume()


def test_a_run_older_than_a_setting_goes_on_with_its_default(
    trainer: Trainer, recipe: Recipe, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = recipe.to_dict()
    del older["training"]["batch_size"]
    monkeypatch.setattr(Recipe, "to_dict", lambda self: older)
    trainer.run_epoch()
    trainer.folder.wait()
    monkeypatch.undo()
    Trainer(recipe, digits, trainer.folder.path, CPU).resume()
    with pytest.raises(RecipeError, match=r"training\.batch_size was 100 and is now 7"):
        Trainer(with_training(recipe, batch_size=7), digits, trainer.folder.path, CPU).resume()


def test_a_run_with_an_unknown_setting_is_refused_in_one_line(
    trainer: Trainer, recipe: Recipe, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Recipe, "to_dict", lambda self: {"name": "tiny", "dataset": "digits", "optimizer": "sgd"})
    trainer.run_epoch()
    trainer.folder.wait()
    monkeypatch.undo()
    with pytest.raises(RecipeError, match=r"is of another version of this program: unknown key optimizer"):
        Trainer(recipe, digits, trainer.folder.path, CPU).resume()


@pytest.mark.parametrize(
    ("shorter", "longer"), [({"max_epochs": 2}, {"max_epochs": 4}), ({"patience": 1}, {"patience": 3})]
)
def test_a_finished_run_is_extended_to_the_numbers_of_a_longer_one(
    shorter: dict[str, int],
    longer: dict[str, int],
    recipe: Recipe,
    digits: Dataset,
    tmp_path: Path,
    metrics_of: MetricsOf,
) -> None:
    common = {"warmup_epochs": 0, "max_epochs": 6, "learning_rate": 0.2}  # too large, so that patience is spent
    first = Trainer(with_training(recipe, **common | shorter), digits, tmp_path / "parts", CPU)
    while not first.finished:
        first.run_epoch()
    first.folder.wait()
    second = Trainer(with_training(recipe, **common | longer), digits, tmp_path / "parts", CPU)
    second.resume()
    assert second.epoch == first.epoch
    assert not second.finished
    whole = Trainer(with_training(recipe, **common | longer), digits, tmp_path / "whole", CPU)
    for trainer in (second, whole):
        while not trainer.finished:
            trainer.run_epoch()
        trainer.folder.wait()
    assert second.epoch == whole.epoch > first.epoch
    assert metrics_of(tmp_path / "parts") == metrics_of(tmp_path / "whole")
    assert all(torch.equal(second.best_weights[name], tensor) for name, tensor in whole.best_weights.items())


def test_a_state_that_cannot_be_written_stops_the_run(recipe: Recipe, digits: Dataset, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    trainer = Trainer(recipe, digits, tmp_path / "run", CPU)
    trainer.run_epoch()
    with pytest.raises(FileExistsError):
        trainer.folder.wait()


def test_the_state_is_that_of_the_end_of_the_epoch(trainer: Trainer, recipe: Recipe, digits: Dataset) -> None:
    """Weights that change while the state is written do not get into it."""
    trainer.run_epoch()
    expected = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.zero_()
    trainer.folder.wait()
    again = Trainer(recipe, digits, trainer.folder.path, CPU)
    again.resume()
    assert all(torch.equal(again.model.state_dict()[name], tensor) for name, tensor in expected.items())


def test_only_full_batches_take_the_compiled_step(trainer: Trainer) -> None:
    """1297 images make twelve batches of 100 and one of 97, which would have to be compiled for itself."""
    sizes: dict[str, list[int]] = {"full": [], "plain": []}
    plain = trainer._loss

    def noting(kind: str) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
        def loss(batches: list[tuple[torch.Tensor, ...]], weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            sizes[kind].append(len(batches[0][0]))
            return plain(batches, weight)

        return loss

    trainer._full_loss, trainer._loss = noting("full"), noting("plain")
    trainer.run_epoch()
    assert sizes == {"full": [100] * 12, "plain": [97]}


def test_no_run_and_a_damaged_run_cannot_resume(trainer: Trainer) -> None:
    with pytest.raises(RecipeError, match="there is no run to resume in"):
        trainer.resume()
    trainer.run_epoch()
    trainer.folder.wait()
    path = trainer.folder.path / "state.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RecipeError, match=r"state\.safetensors is damaged"):
        trainer.resume()


@pytest.mark.parametrize(
    ("likelihood", "levels", "message"),
    [
        ("bernoulli", 255, "bernoulli takes black and white images, but those of digits are gray"),
        ("logistic", 1, "logistic takes gray images, but those of digits are binary"),
    ],
)
def test_images_that_do_not_suit_the_likelihood_are_refused(
    likelihood: str, levels: int, message: str, recipe: Recipe, digits: Dataset, tmp_path: Path
) -> None:
    recipe = replace(recipe, model=dataclasses.replace(recipe.model, likelihood=likelihood))
    with pytest.raises(RecipeError, match=message):
        Trainer(recipe, dataclasses.replace(digits, levels=levels), tmp_path, CPU)


def test_a_network_that_does_not_take_the_images_is_a_matter_of_the_recipe(
    recipe: Recipe, digits: Dataset, tmp_path: Path
) -> None:
    recipe = replace(recipe, model=dataclasses.replace(recipe.model, prior="unheard of"))
    with pytest.raises(RecipeError, match=r"\[model\]: unknown prior 'unheard of'"):
        Trainer(recipe, digits, tmp_path, CPU)


def test_a_bound_that_is_not_finite_stops_the_run_and_spoils_nothing(
    recipe: Recipe, digits: Dataset, tmp_path: Path
) -> None:
    trainer = Scripted(recipe, digits, tmp_path, CPU)
    trainer.elbos = iter([-5.0, float("nan")])
    trainer.run_epoch()
    with pytest.raises(FloatingPointError, match="the bound of epoch 2 is not finite"):
        trainer.run_epoch()
    assert [line["epoch"] for line in trainer.folder.history()] == [1]
    assert trainer.best_epoch == 1


def test_without_a_compiler_the_plain_step_trains(
    recipe: Recipe, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.trainer.can_compile", lambda device: False)
    trainer = Trainer(with_training(recipe, compile=True), digits, tmp_path, CPU)
    assert not trainer.compiled
    assert np.isfinite(trainer.run_epoch().valid_elbo)


@pytest.mark.parametrize("settled", ["float32", "bfloat16"])
def test_the_summary_says_what_auto_came_to_and_the_run_goes_on_with_auto(
    settled: str, recipe: Recipe, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.trainer.resolve_precision", lambda choice, device: settled)
    recipe = with_training(recipe, precision="auto")
    trainer = Trainer(recipe, digits, tmp_path, CPU)
    auto = trainer.run_epoch()
    settings = trainer.summary()["recipe"]
    assert settings["training"]["precision"] == settled
    assert recipe.change_since(settings) == ""
    plain = Trainer(with_training(recipe, precision=settled), digits, tmp_path / "plain", CPU).run_epoch()
    assert dataclasses.replace(plain, seconds=auto.seconds) == auto
    trainer.folder.wait()
    again = Trainer(recipe, digits, tmp_path, CPU)
    again.resume()
    assert again.epoch == 1


def test_pseudo_inputs_start_where_the_recipe_says(recipe: Recipe, digits: Dataset, tmp_path: Path) -> None:
    recipe = Recipe.from_dict(recipe.to_dict() | {"pseudo_inputs": {"mean": 0.25, "std": 0.0}})
    pseudo_inputs = Trainer(recipe, digits, tmp_path, CPU).model.prior.pseudo_inputs
    assert pseudo_inputs is not None
    assert pseudo_inputs.shape == (5, 1, 8, 8)
    assert pseudo_inputs.unique().tolist() == [0.25]


def test_the_summary_goes_into_json(trainer: Trainer) -> None:
    trainer.run_epoch()
    summary = json.loads(json.dumps(trainer.summary(), allow_nan=False))
    assert (summary["epochs"], summary["best_epoch"], summary["seed"]) == (1, 1, 1)
    assert summary["recipe"]["name"] == "tiny"


def test_gray_images_train_at_the_middle_of_their_bins(recipe: Recipe, tmp_path: Path) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (200, 1, 4, 4)).astype(np.uint8)
    recipe = replace(recipe, model=dataclasses.replace(recipe.model, likelihood="logistic", prior="vampprior_data"))
    trainer = Trainer(recipe, Dataset("gray", gray, gray, gray, levels=255), tmp_path, CPU)
    before = trainer.run_epoch().valid_elbo
    assert trainer.run_epoch().valid_elbo > before
    pseudo_inputs = trainer.model.prior.pseudo_inputs
    assert pseudo_inputs is not None
    assert torch.equal(pseudo_inputs * 256 % 1, torch.full_like(pseudo_inputs, 0.5))
