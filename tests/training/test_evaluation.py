from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.data import Dataset, DatasetError
from training.evaluation import Evaluation, Plan
from vampprior.card import CheckpointError, read_card, write_card
from vampprior.checkpoint import load_checkpoint
from vampprior.importance import log_likelihood

PLAN = Plan(num_samples=20, max_images=12, max_bytes=2048, seed=0)
CPU = torch.device("cpu")
Open = Callable[..., Evaluation]


@pytest.fixture
def open_evaluation(checkpoint: Path, tmp_path: Path) -> Open:
    def open_with(**changes: object) -> Evaluation:
        return Evaluation(checkpoint, replace(PLAN, **changes), tmp_path / "runs", CPU)  # type: ignore[arg-type]

    return open_with


def silently(done: int, mean: float) -> None:
    pass


def test_scores_are_the_log_likelihoods_of_the_chosen_images(open_evaluation: Open, digits: Dataset) -> None:
    evaluation = open_evaluation()
    evaluation.score(silently)
    index = 5
    x = torch.from_numpy(digits.test)[evaluation.indices[index : index + 1]].float()
    generator = torch.Generator().manual_seed(index)
    expected = log_likelihood(evaluation.model, x, num_samples=20, generator=generator, max_bytes=PLAN.max_bytes)
    assert evaluation.scores.columns["value"][index] == expected.value[0]
    assert evaluation.scores.columns["standard_error"][index] == expected.standard_error[0]


def test_a_stopped_evaluation_goes_on_to_the_same_numbers(open_evaluation: Open) -> None:
    whole = open_evaluation()
    whole.score(silently)
    whole.scores.path.unlink()

    def stop_at_five(done: int, mean: float) -> None:
        if done == 5:
            raise KeyboardInterrupt

    first = open_evaluation()
    with pytest.raises(KeyboardInterrupt):
        first.score(stop_at_five)
    second = open_evaluation()
    second.scores.load()
    assert second.scores.done == 5
    seen = []
    second.score(lambda done, mean: seen.append(done))
    assert seen == [6, 7, 8, 9, 10, 11, 12]
    for name, column in whole.scores.columns.items():
        assert torch.equal(second.scores.columns[name], column)
    ours, theirs = second.metrics(), whole.metrics()
    assert ours.pop("wall_clock_seconds") >= 0
    theirs.pop("wall_clock_seconds")
    assert ours == theirs


def test_scores_do_not_depend_on_the_number_of_threads(open_evaluation: Open) -> None:
    before, columns = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            evaluation = open_evaluation()
            evaluation.score(silently)
            with ThreadPoolExecutor(1) as pool:  # a new thread; the calling one keeps its number in any case
                assert pool.submit(torch.get_num_threads).result() == threads
            columns.append(evaluation.scores.columns)
            evaluation.scores.path.unlink()
    finally:
        torch.set_num_threads(before)
    for name, column in columns[0].items():
        assert torch.equal(columns[1][name], column)


def test_batches_of_several_images_cover_all_of_them(open_evaluation: Open) -> None:
    evaluation = open_evaluation()
    evaluation = open_evaluation(max_bytes=100 * evaluation.model.bytes_per_row)  # five images at once
    seen = []
    evaluation.score(lambda done, mean: seen.append(done))
    assert seen == [5, 10, 12]


@pytest.mark.parametrize("change", [{"seed": 1}, {"num_samples": 21}, {"max_bytes": 2049}, {"max_images": 13}])
def test_another_plan_keeps_its_own_scores(change: dict[str, int], open_evaluation: Open) -> None:
    assert open_evaluation(**change).scores.path != open_evaluation().scores.path


def test_other_weights_keep_their_own_scores(open_evaluation: Open, checkpoint: Path) -> None:
    before = open_evaluation().scores.path
    card = read_card(checkpoint)
    assert PLAN.key(card.weights_sha256, "a") != PLAN.key("another", "a") != PLAN.key("another", "b")
    assert before == open_evaluation().scores.path


def test_damaged_scores_are_forgotten(open_evaluation: Open) -> None:
    evaluation = open_evaluation()
    evaluation.scores.path.parent.mkdir(parents=True, exist_ok=True)
    evaluation.scores.path.write_bytes(b"damaged")
    evaluation.scores.load()
    assert evaluation.scores.done == 0


def test_a_subset_is_drawn_at_random_by_its_seed() -> None:
    indices = PLAN.image_indices(10_000)
    assert len(indices) == len(indices.unique()) == 12
    assert indices.sort().values.equal(indices)
    assert indices.max() > 1000  # not the first ones, which may all be of one class
    assert indices.equal(PLAN.image_indices(10_000))
    assert not indices.equal(replace(PLAN, seed=1).image_indices(10_000))
    assert PLAN.image_indices(7).tolist() == replace(PLAN, max_images=None).image_indices(7).tolist() == list(range(7))


def test_the_metrics_agree_with_each_other(open_evaluation: Open) -> None:
    evaluation = open_evaluation(max_images=None, num_samples=25, max_bytes=1 << 20)
    evaluation.score(silently)
    metrics = evaluation.metrics()
    values = evaluation.scores.columns["value"].numpy()
    errors = evaluation.scores.columns["standard_error"].numpy()
    assert metrics["num_images"] == len(values) == 250
    assert metrics["num_samples"] == 25
    assert metrics["log_likelihood"] == pytest.approx(values.mean())
    assert metrics["log_likelihood_standard_error"] == pytest.approx(values.std(ddof=1) / np.sqrt(250))
    assert metrics["monte_carlo_standard_error"] == pytest.approx(np.sqrt((errors**2).sum()) / 250)
    assert metrics["bits_per_dim"] == pytest.approx(-values.mean() / 64 / np.log(2))
    assert metrics["log_likelihood"] > metrics["elbo"]
    assert metrics["reconstruction"] - metrics["kl"] == metrics["elbo"]
    k = evaluation.scores.columns["pareto_k"].numpy()
    assert metrics["reliable_share"] == (k < 0.7).mean()
    assert 0 < metrics["reliable_share"] < 1
    sizes = evaluation.scores.columns["effective_sample_size"].numpy()
    assert (sizes < metrics["median_effective_sample_size"]).sum() <= 125
    assert (sizes > metrics["median_effective_sample_size"]).sum() <= 125


def test_a_unit_is_active_if_its_posterior_mean_moves_with_the_image(open_evaluation: Open) -> None:
    evaluation = open_evaluation(num_samples=2)
    evaluation.score(silently)
    head = evaluation.model.get_submodule("q_z2.head.linear")
    with torch.no_grad():
        for parameter in head.parameters():
            parameter[:3] = 0.0  # the means of three of the four units of z2
        head.weight[3] = 10.0
    assert evaluation.metrics()["active_units"]["z2"] == 1


def test_the_card_takes_the_metrics_and_stays_a_card(open_evaluation: Open, checkpoint: Path) -> None:
    before = read_card(checkpoint)
    evaluation = open_evaluation()
    evaluation.score(silently)
    evaluation.write(evaluation.metrics())
    _, card = load_checkpoint(checkpoint)
    assert card.metrics["num_images"] == 12
    assert replace(card, metrics={}, scores_sha256="") == before
    columns = evaluation.scores.columns
    assert card.scores is not None
    for name, column in card.scores._asdict().items():
        np.testing.assert_array_equal(column, columns["value" if name == "log_likelihood" else name].float())
    assert card.quantiles()["values"][0] == pytest.approx(columns["value"].min().item(), rel=1e-6)
    assert card.percentile(columns["value"].median().item()) == pytest.approx(50, abs=10)
    assert (checkpoint / "log_likelihoods.png").stat().st_size > 1000


def test_a_score_that_is_not_finite_is_not_written(open_evaluation: Open, checkpoint: Path) -> None:
    evaluation = open_evaluation()
    evaluation.score(silently)
    evaluation.scores.columns["value"][3] = -torch.inf
    with pytest.raises(FloatingPointError, match="not finite"):
        evaluation.write(evaluation.metrics())
    assert read_card(checkpoint).metrics == {}


def test_a_checkpoint_of_other_data_or_of_none_is_refused(open_evaluation: Open, checkpoint: Path) -> None:
    card = read_card(checkpoint)
    sha256 = card.dataset["sha256"] | {"test": "0" * 64}
    write_card(checkpoint, replace(card, dataset=dict(card.dataset) | {"sha256": sha256}))
    with pytest.raises(DatasetError, match="the test images of digits are not those on the card of tiny@1"):
        open_evaluation()
    write_card(checkpoint, replace(card, training={}))
    with pytest.raises(CheckpointError, match="tiny@1 does not name its data set"):
        open_evaluation()


def test_validation_images_are_scored_but_not_written(open_evaluation: Open, digits: Dataset) -> None:
    evaluation = open_evaluation(split="valid")
    evaluation.score(silently)
    assert torch.equal(evaluation.images, torch.from_numpy(digits.gray("valid")))
    assert evaluation.scores.path != open_evaluation().scores.path
    assert evaluation.reason_not_to_write() == "the card is for metrics of test images"


@pytest.mark.parametrize(
    ("change", "written"),
    [
        ({}, True),
        ({"seed": 1}, True),
        ({"max_images": 13}, True),
        ({"num_samples": 21}, True),
        ({"max_images": 11}, False),
        ({"num_samples": 19}, False),
        ({"max_images": 11, "num_samples": 21}, False),
    ],
)
def test_metrics_of_more_images_or_samples_are_kept(
    change: dict[str, int], written: bool, open_evaluation: Open
) -> None:
    evaluation = open_evaluation()
    assert evaluation.reason_not_to_write() == ""
    evaluation.score(silently)
    evaluation.write(evaluation.metrics())
    reason = open_evaluation(**change).reason_not_to_write()
    assert (reason == "") == written
    assert written or reason.startswith("the card has metrics of 12 images with 20 samples")


def test_the_gain_of_refinement_is_over_the_plain_scores_of_the_same_images(
    open_evaluation: Open, checkpoint: Path
) -> None:
    part = open_evaluation()
    part.score(silently)
    part.write(part.metrics())
    refined = open_evaluation(refine=2)
    refined.score(silently)
    assert "gain_over_plain" not in refined.metrics()  # the plain scores are of other images

    plain = open_evaluation(max_images=None)
    plain.score(silently)
    plain.write(plain.metrics())
    refined = open_evaluation(refine=2)
    refined.score(silently)
    metrics = refined.metrics()
    differences = refined.scores.columns["value"] - plain.scores.columns["value"][refined.indices]
    assert metrics["gain_over_plain"] == pytest.approx(differences.mean().item(), abs=1e-5)
    assert metrics["gain_over_plain_standard_error"] == pytest.approx(differences.std().item() / 12**0.5, abs=1e-5)
    refined.write(metrics)
    written = read_card(checkpoint).metrics
    assert (written["num_images"], written["refined"]["num_images"], written["refined"]["refine"]) == (250, 12, 2)
