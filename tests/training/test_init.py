"""`init` writes recipes that `train` takes as they are."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from training.data import Dataset, load_dataset
from training.data.dataset import DatasetError
from training.data.survey import look_at
from training.init import recipe_text
from training.recipe import Recipe, find_recipe
from training.trainer import Trainer
from vampprior import LIKELIHOODS, Preparation
from vampprior.card import read_card


@pytest.fixture(autouse=True)
def short_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.init.MEASURED_SECONDS", 0.0)


def picture(index: int, kind: str, size: tuple[int, int] = (12, 10)) -> Image.Image:
    """A picture of its own for each index: smooth colours, smooth gray, or strokes in black and white."""
    random = np.random.default_rng(index)
    channels = {"rgb": (3,), "gray": (), "binary": ()}[kind]
    image = Image.fromarray(random.integers(40, 216, (4, 4, *channels), dtype=np.uint8)).resize(size)
    return image.point(lambda level: 255 if level > 127 else 0) if kind == "binary" else image


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder with a number of pictures of a kind."""

    def make(kind: str, number: int = 30) -> Path:
        folder = tmp_path / "My Pictures"
        (folder / "more").mkdir(parents=True)
        for index in range(number):
            picture(index, kind).save(folder / ("more" if index % 2 else "") / f"{index}.png")
        return folder

    return make


@pytest.mark.parametrize("kind", ["rgb", "gray", "binary"])
def test_the_mode_is_told_by_the_pixels(kind: str, make_folder: Any) -> None:
    survey = look_at(make_folder(kind))
    assert (survey.wanted.size, survey.wanted.mode) == ((10, 12), kind)
    assert survey.lines[0] == "30 image files: 30 PNG"
    assert survey.lines[1] == "size: all 12x10"


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(64, 48)], (48, 64)),  # one size, which is kept
        ([(65, 48)], (32, 32)),
        ([(1000, 700), (700, 1000), (40, 40)], (32, 32)),
        ([(30, 40), (24, 24)], (16, 16)),
    ],
)
def test_a_size_is_found_that_suits_most_images(
    sizes: list[tuple[int, int]], expected: tuple[int, int], tmp_path: Path
) -> None:
    for index in range(21):
        picture(index, "gray", sizes[index % len(sizes)]).save(tmp_path / f"{index}.jpg")
    survey = look_at(tmp_path)
    assert survey.wanted.size == expected
    assert look_at(tmp_path, (9, 9)).wanted.size == (9, 9)


def test_arrays_are_looked_at_as_well(tmp_path: Path) -> None:
    images = np.stack([np.asarray(picture(index, "rgb")) for index in range(25)])
    np.save(tmp_path / "images.npy", images)
    survey = look_at(tmp_path / "images.npy")
    assert survey.lines == ["array images: 25 images", "size: 12x10, 3 channels"]
    assert (survey.wanted.size, survey.wanted.mode) == ((10, 12), "rgb")


def test_a_folder_of_files_that_are_no_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("hello")
    with pytest.raises(DatasetError, match=r"none of the 1 image files in .* can be read"):
        look_at(tmp_path)


@pytest.mark.parametrize(
    ("kind", "likelihood", "model"),
    [
        ("rgb", "logistic_mixture", "resnet_hvae"),
        ("gray", "discretized_logistic", "hvae"),
        ("binary", "bernoulli", "hvae"),
    ],
)
def test_a_recipe_is_written_that_trains(
    command: Any, make_folder: Any, tmp_path: Path, kind: str, likelihood: str, model: str
) -> None:
    folder, target = make_folder(kind), tmp_path / "own.toml"
    (folder / "broken.png").write_text("hello")
    picture(0, kind).save(folder / "copy.png")
    code, out, err = command("init", folder, "--output", target)
    assert code == 0, err
    assert "skipped 1 file that cannot be read: broken.png" in out
    assert "left out 1 image equal to another one" in out
    assert "24 images for training, 3 for validation and calibration, 3 for the test; too few to decide" in out
    assert "training takes about " in out
    assert "ABOUT_TIME" not in target.read_text()
    recipe = find_recipe(str(target))
    assert (recipe.name, recipe.model.likelihood, recipe.model.model) == ("my-pictures", likelihood, model)
    assert (recipe.model.num_components, recipe.pseudo_inputs.start) == (10, "kmeans")
    code, out, err = command("train", target, "training.max_epochs=1", "training.warmup_epochs=0")
    assert code == 0, err
    assert "note: skipped 1 file" in out
    card = read_card(tmp_path / "store" / "my-pictures" / "1")
    assert card.preparation == Preparation((10, 12), kind, "crop")
    assert card.model.image_shape == card.preparation.image_shape
    code, _, err = command("evaluate", "my-pictures", "--num-samples", 2, "--no-calibrate")
    assert code == 0, err


def test_a_recipe_that_exists_is_replaced_only_by_force(command: Any, make_folder: Any, tmp_path: Path) -> None:
    folder, target = make_folder("gray"), tmp_path / "own.toml"
    target.write_text("mine")
    code, _, err = command("init", folder, "--output", target)
    assert (code, target.read_text()) == (2, "mine")
    assert "own.toml exists; give another --output, or replace it with --force" in err
    code, _, err = command("init", folder, "--output", target, "--force", "--size", 8, "--mode", "binary")
    assert code == 0, err
    images = tomllib.loads(target.read_text())["images"]
    assert images == {"size": 8, "mode": "binary", "fit": "crop", "augment": []}


def own_dataset(number: int, mode: Any = "gray", size: tuple[int, int] = (10, 12)) -> Dataset:
    preparation = Preparation(size, mode)
    images = np.zeros((number, *preparation.image_shape), np.uint8)
    return Dataset("own", images, images[:150], images[:20], 255).prepared(preparation, [])


@pytest.mark.parametrize(
    ("number", "components", "batch_size", "weight_decay"),
    [(24, 10, 16, 0.1), (400, 100, 40, 0.1), (5000, 500, 100, 0.0)],
)
def test_small_sets_get_fewer_pseudo_inputs_and_more_regularization(
    number: int, components: int, batch_size: int, weight_decay: float
) -> None:
    dataset = own_dataset(number, size=(16, 20))
    recipe = Recipe.from_dict(tomllib.loads(recipe_text("own", "/own images", dataset)))
    assert (recipe.model.num_components, recipe.training.batch_size) == (components, batch_size)
    assert recipe.training.weight_decay == weight_decay
    assert recipe.images.augment == (("shift",) if weight_decay else ())
    assert recipe.training.warmup_epochs < recipe.training.max_epochs


@pytest.mark.parametrize(("size", "augment"), [((16, 16), ("shift",)), ((40, 15), ())])
def test_images_of_a_small_side_are_not_shifted(size: tuple[int, int], augment: tuple[str, ...]) -> None:
    recipe = Recipe.from_dict(tomllib.loads(recipe_text("own", "/own", own_dataset(100, size=size))))
    assert recipe.images.augment == augment


@pytest.mark.parametrize(
    ("mode", "size", "model"),
    [("gray", (32, 32), "hvae"), ("gray", (33, 20), "resnet_hvae"), ("rgb", (8, 8), "resnet_hvae")],
)
def test_colour_and_large_images_get_a_residual_network(mode: Any, size: tuple[int, int], model: str) -> None:
    text = recipe_text("own", 'a "folder"\\', own_dataset(100, mode, size))
    recipe = Recipe.from_dict(tomllib.loads(text))
    assert (recipe.model.model, recipe.dataset) == (model, 'a "folder"\\')
    assert recipe.images.wanted.given((1, 1), "gray") == Preparation(size, mode)


def test_the_time_of_an_epoch_is_measured(digits: Dataset, recipe: Recipe, tmp_path: Path) -> None:
    trainer = Trainer(recipe, digits, tmp_path, torch.device("cpu"))
    assert trainer.seconds_per_epoch(0.0) > 0


def test_pseudo_inputs_of_noise_are_noticed(command: Any, make_folder: Any, tmp_path: Path) -> None:
    path = tmp_path / "noisy.toml"
    path.write_text(
        f'name = "noisy"\ndataset = "{make_folder("gray")}"\n[images]\nmode = "gray"\n'
        '[model]\nlikelihood = "logistic"\nnum_components = 5\nhidden_dim = 8\n'
        "[training]\nmax_epochs = 1\nwarmup_epochs = 0\n"
    )
    code, out, err = command("train", path)
    assert code == 0, err
    assert "note: the pseudo-inputs look like noise, so GET /pseudo-inputs shows them decoded" in out
    assert read_card(tmp_path / "store" / "noisy" / "1").pseudo_input_view == "decoded"
    code, out, err = command("train", path, "pseudo_inputs.start=kmeans", "pseudo_inputs.std=0", "name=clear")
    assert code == 0, err
    assert "look like noise" not in out
    assert read_card(tmp_path / "store" / "clear" / "1").pseudo_input_view == "input"


def test_own_images_of_calibrations_are_prepared_as_the_card_says(make_folder: Any, tmp_path: Path) -> None:
    from training.calibration import own_images
    from vampprior import Card, ModelConfig

    config = ModelConfig(image_shape=(3, 9, 9), likelihood="logistic_mixture", model="resnet_hvae")
    card = Card("a", "1", config, preparation=Preparation((9, 9), "rgb"))
    assert own_images(card, make_folder("gray")).pixels.shape == (30, 3, 9, 9)


def test_augmentation_is_for_named_sets_too(digits: Dataset, tmp_path: Path) -> None:
    recipe = Recipe.from_dict({"name": "r", "dataset": "digits", "images": {"augment": ["shift"]}})
    trainer = Trainer(recipe, digits, tmp_path, torch.device("cpu"))
    indices = torch.arange(50)
    plain = trainer.wake.view(indices, torch.Generator().manual_seed(0))
    batch, _ = trainer.wake.batch(indices, torch.Generator().manual_seed(0))
    assert torch.equal(plain[:, 0], torch.from_numpy(digits.train[:50, 0]).float())
    moved = (batch != plain).flatten(1).any(1)
    assert 25 < int(moved.sum()) < 50  # 8 of 9 shifts move


def test_dataset_of_a_recipe_follows_its_images(make_folder: Any) -> None:
    recipe = Recipe.from_dict({"name": "r", "dataset": str(make_folder("rgb")), "images": {"size": [8, 16]}})
    dataset = load_dataset(recipe.dataset, None, LIKELIHOODS["bernoulli"], recipe.images.wanted)
    assert (dataset.image_shape, dataset.levels) == ((1, 8, 16), 1)
    assert dataset.preparation == Preparation((8, 16), "binary")
