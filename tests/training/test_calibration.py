from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from training.calibration import Binarize, Calibrator, Images, latent_map, load_images, validation_images
from training.data import Dataset, DatasetError
from vampprior.calibration import Calibration, CalibrationError, read_calibration, read_calibrations
from vampprior.card import read_card
from vampprior.checkpoint import load_checkpoint
from vampprior.importance import log_likelihood
from vampprior.statistics import image_statistics

CPU = torch.device("cpu")
Command = Callable[..., Any]


def calibrated(checkpoint: Path, images: Images, max_bytes: int = 1 << 20, **options: Any) -> Calibration:
    return Calibrator(checkpoint, CPU, max_bytes, **options).run(images, lambda added: None)


def equal(one: Calibration, other: Calibration) -> bool:
    return np.array_equal(one.scores, other.scores) and all(
        np.array_equal(column, other.log_likelihoods[samples]) for samples, column in one.log_likelihoods.items()
    )


@pytest.fixture
def few(digits: Dataset) -> Images:
    images = validation_images(digits)
    assert images.labels is not None
    return Images(images.pixels[:30], images.labels[:30])


def test_the_statistics_are_those_of_the_library(checkpoint: Path, few: Images) -> None:
    calibration = calibrated(checkpoint, few)
    model, card = load_checkpoint(checkpoint)
    index = 5
    x = model.likelihood.from_bytes(torch.from_numpy(few.pixels[index : index + 1]))
    noise = torch.randn(16, model.noise_dim, generator=torch.Generator().manual_seed(index))[None]
    expected = image_statistics(model, x, noise=noise)
    assert calibration.statistics.elbo[index] == pytest.approx(expected.elbo[0], rel=1e-5)
    assert calibration.statistics.kl["z2"][index] == pytest.approx(expected.kl["z2"][0], rel=1e-5)
    assert (calibration.weights_sha256, calibration.num_samples) == (card.weights_sha256, 16)
    more = torch.randn(100, model.noise_dim, generator=torch.Generator().manual_seed(index))[None]
    value = log_likelihood(model, x, num_samples=100, noise=more).value.float().numpy()[0]
    assert np.abs(calibration.log_likelihoods[100] - value).min() < 1e-5
    assert {samples: len(column) for samples, column in calibration.log_likelihoods.items()} == dict.fromkeys(
        (1, 16, 100, 500), 30
    )


def test_neither_threads_nor_memory_change_a_calibration(checkpoint: Path, few: Images) -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(calibrated(checkpoint, few, max_bytes=100_000))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert equal(*found)
    other = calibrated(checkpoint, few, max_bytes=10_000)
    np.testing.assert_allclose(other.scores, found[0].scores, rtol=1e-3, atol=1e-3)


def test_another_seed_gives_another_calibration(checkpoint: Path, few: Images) -> None:
    assert not equal(calibrated(checkpoint, few), calibrated(checkpoint, few, seed=1))


def test_progress_reaches_its_total(checkpoint: Path, few: Images) -> None:
    calibrator, added = Calibrator(checkpoint, CPU, 50_000, num_samples=4), []
    calibrator.run(few, added.append)
    assert sum(added) == calibrator.num_draws(30) == 30 * (1 + 4 + 16 + 100 + 500)
    assert len(added) > 10


def test_large_tables_are_of_a_thousand_random_images(checkpoint: Path) -> None:
    calibrator = Calibrator(checkpoint, CPU, 1 << 20)
    assert calibrator.num_draws(3000) == 3000 * (1 + 16) + 1000 * (100 + 500)


def test_weights_that_give_no_finite_number_are_refused(checkpoint: Path, few: Images) -> None:
    calibrator = Calibrator(checkpoint, CPU, 1 << 20)
    with torch.no_grad():
        next(calibrator.model.p_x.parameters()).fill_(torch.nan)  # type: ignore[operator, union-attr]
    with pytest.raises(FloatingPointError, match="not finite"):
        calibrator.run(few, lambda added: None)


def test_the_map_shows_the_main_directions_of_the_posterior_means(checkpoint: Path, digits: Dataset) -> None:
    model, _ = load_checkpoint(checkpoint)
    images = validation_images(digits)
    plane = latent_map(model, images)
    means = model.encode(torch.from_numpy(digits.valid).float())["z2"].mean.double().numpy()
    variances = np.linalg.eigvalsh(np.cov(means.T))[::-1]
    np.testing.assert_allclose(plane.points.var(0, ddof=1), variances[:2], rtol=1e-5)
    np.testing.assert_allclose(plane.project(means), plane.points, atol=1e-5)
    np.testing.assert_allclose(plane.components @ plane.components.T, np.eye(2), atol=1e-9)
    np.testing.assert_array_equal(plane.labels, digits.labels["valid"])
    assert plane.prototypes.shape == (5, 2)


def test_the_map_has_at_most_two_thousand_points(checkpoint: Path, digits: Dataset) -> None:
    model, _ = load_checkpoint(checkpoint)
    plane = latent_map(model, Images(np.tile(digits.gray("valid"), (9, 1, 1, 1))))
    assert plane.points.shape == (2000, 2)
    assert set(plane.labels) == {-1}


def test_labels_belong_to_their_images(digits: Dataset) -> None:
    """Images of a digit look more like the mean of their own class than like those of the others."""
    labels = digits.labels["train"]
    means = np.stack([digits.train[labels == digit].mean(0) for digit in range(10)])
    distances = np.abs(digits.valid[:, None] - means).sum((2, 3, 4))
    assert (distances.argmin(1) == digits.labels["valid"]).mean() > 0.8


def test_labels_that_do_not_fit_are_left_out(digits: Dataset) -> None:
    arrays = {"train_labels": np.zeros(3, int), "valid_labels": np.zeros(250), "test_labels": np.arange(250)}
    assert list(digits.with_labels(arrays).labels) == ["test"]


def test_training_calibrates_and_the_command_does_it_again(command: Command, recipe_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store" / "tiny" / "1"
    assert "calibration.safetensors: 250 images, 16 samples each" in command("train", recipe_file).out
    before = (folder / "calibration.safetensors").read_bytes(), (folder / "card.json").read_bytes()
    assert command("calibrate", "tiny").code == 0
    assert ((folder / "calibration.safetensors").read_bytes(), (folder / "card.json").read_bytes()) == before
    assert command("calibrate", "tiny", "--num-samples", 8).code == 0
    assert read_calibration(folder, read_card(folder)).num_samples == 8


def test_an_evaluation_calibrates_where_training_did_not(command: Command, recipe_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store" / "tiny" / "1"
    command("train", recipe_file, "--no-calibrate")
    assert not (folder / "calibration.safetensors").exists()
    options = ("--num-samples", 2, "--max-images", 5)
    command("evaluate", "tiny", *options, "--split", "valid")
    command("evaluate", "tiny", *options, "--no-calibrate")
    assert read_card(folder).calibrations == {}
    assert "calibration.safetensors: 250 images" in command("evaluate", "tiny", *options).out
    card = read_card(folder)
    assert len(read_calibrations(folder, card)["default"]) == 250
    assert card.metrics["num_images"] == 5
    assert "calibration" not in command("evaluate", "tiny", *options).out
    assert read_card(folder).calibrations == card.calibrations


def test_new_weights_lose_the_calibrations_of_the_old_ones(command: Command, recipe_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store" / "tiny" / "1"
    command("train", recipe_file)
    (folder / "calibration-mine.safetensors").touch()
    command("train", recipe_file, "--resume", "--overwrite", "--no-calibrate", "training.max_epochs=5")
    assert read_card(folder).calibrations == {}
    assert not list(folder.glob("calibration*"))


def test_own_normal_images_have_a_calibration_of_their_own(
    command: Command, recipe_file: Path, tmp_path: Path, digits: Dataset
) -> None:
    folder, own = tmp_path / "store" / "tiny" / "1", tmp_path / "own"
    command("train", recipe_file)
    own.mkdir()
    for index, image in enumerate(digits.gray("test")[:25, 0]):
        Image.fromarray(image // 255 * 200).save(own / f"{index:02}.png")  # gray, so that it must be thresholded
    answer = command("calibrate", "tiny", "--images", own, "--name", "mine")
    assert answer.code == 0
    found = read_calibrations(folder, read_card(folder))
    assert {name: len(calibration) for name, calibration in found.items()} == {"default": 250, "mine": 25}
    own_variation = found["mine"].statistics.total_variation
    assert (own_variation == own_variation.round()).all()


def test_pixels_of_own_gray_images_are_drawn_by_their_levels(
    command: Command, checkpoint: Path, tmp_path: Path, digits: Dataset
) -> None:
    np.savez(tmp_path / "own.npz", images=digits.gray("test")[:, 0] // 255 * 102)
    card = read_card(checkpoint)
    drawn = load_images(card, tmp_path / "own.npz", binarize=Binarize.SAMPLE)
    assert set(np.unique(drawn.pixels)) == {0, 255}
    assert drawn.pixels.astype(bool).sum() / digits.test.sum() == pytest.approx(0.4, abs=0.02)
    assert load_images(card, tmp_path / "own.npz", binarize=Binarize.SAMPLE, seed=1).sha256 != drawn.sha256
    assert not load_images(card, tmp_path / "own.npz").pixels.any()
    answer = command("calibrate", checkpoint, "--images", tmp_path / "own.npz", "--name", "b", "--binarize", "sample")
    assert answer.code == 0
    assert read_calibration(checkpoint, read_card(checkpoint), "b").images_sha256 == drawn.sha256


def test_gray_levels_are_not_drawn_for_a_model_that_takes_them_as_they_are(checkpoint: Path, tmp_path: Path) -> None:
    card = read_card(checkpoint)
    gray = replace(card, model=replace(card.model, likelihood="logistic"))
    with pytest.raises(CalibrationError, match="for binary models, and this one takes gray levels"):
        load_images(gray, tmp_path / "own.npz", binarize=Binarize.SAMPLE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "own.npz"], "--images and --name go together"),
        (["--binarize", "sample"], "--binarize sample is for --images"),
        (["--name", "mine"], "--images and --name go together"),
        (["--images", "own.npz", "--name", "No"], "must be lower-case letters"),
        (["--images", "own.npz", "--name", "mine"], "the images have shape (1, 5, 6), the model's (1, 8, 8)"),
        (["--images", "missing", "--name", "mine"], "is neither a folder of images nor an .npz or .npy file"),
    ],
)
def test_images_that_cannot_calibrate_are_refused(
    arguments: list[str],
    message: str,
    command: Command,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "own.npz", images=np.random.default_rng(0).integers(0, 256, (40, 5, 6), dtype=np.uint8))
    answer = command("calibrate", checkpoint, *arguments)
    assert answer.code == 2
    assert message in answer.err
    assert not list(checkpoint.glob("calibration*"))


def test_too_few_images_are_refused_or_leave_a_checkpoint_without_calibration(
    command: Command, recipe_file: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "own.npz", images=np.random.default_rng(0).integers(0, 256, (40, 6, 7), dtype=np.uint8))
    recipe_file.write_text(recipe_file.read_text().replace('"digits"', f'"{(tmp_path / "own.npz").as_posix()}"'))
    trained = command("train", recipe_file)
    assert trained.code == 0
    assert "not calibrated: there are 4 calibration images; at least 20 are needed" in trained.out
    assert "at least 20 are needed" in command("calibrate", "tiny").err


def test_validation_images_must_be_those_of_training(checkpoint: Path) -> None:
    card = read_card(checkpoint)
    assert len(load_images(card).pixels) == 250
    sha256 = card.dataset["sha256"] | {"valid": "0" * 64}
    changed = replace(card, dataset=dict(card.dataset) | {"sha256": sha256})
    with pytest.raises(DatasetError, match="the valid images of digits are not those on the card"):
        load_images(changed)


def test_a_name_is_checked_before_anything_is_computed(checkpoint: Path) -> None:
    with pytest.raises(CalibrationError, match="must be lower-case letters"):
        Calibrator(checkpoint, CPU, 1 << 20, name="../mine")
