from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from training.data import Dataset
from training.report.charts import Comparison, density
from training.report.explanations import explain
from training.report.pictures import pseudo_inputs_of, reconstruct, sample
from training.report.results import Cards
from vampprior.calibration import read_calibration
from vampprior.card import Card, CheckpointError, Scores
from vampprior.checkpoint import load_checkpoint, save_checkpoint
from vampprior.config import ModelConfig
from vampprior.heatmap import Prototypes
from vampprior.latent_model import LatentModel
from vampprior.models import build_model

Command = Callable[..., Any]
PutCard = Callable[..., Card]
TINY = {"image_shape": (1, 8, 8), "z1_dim": 4, "z2_dim": 3, "hidden_dim": 16, "num_components": 6}
QUANTILES = {"probabilities": [0.0, 0.25, 0.5, 1.0], "values": [-50.0, -46.0, -45.0, -40.0]}
PRIORS = {"mog": "MoG", "vampprior": "VampPrior"}


def random_model(**config: Any) -> LatentModel:
    """A model of digits with random weights and pseudo-inputs that are far apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(ModelConfig(**(TINY | config)))
        for name, tensor in model.prior.named_parameters():
            torch.nn.init.uniform_(tensor) if name == "free_inputs" else torch.nn.init.normal_(tensor)
    return model.eval()


@pytest.fixture
def put_model(digits: Dataset, tmp_path: Path) -> Callable[..., LatentModel]:
    """Writes a random model of digits into `<tmp_path>/store`, as if it was trained: `put_model(name, model="vae")`."""

    def put(name: str, **config: Any) -> LatentModel:
        model = random_model(**config)
        card = Card(
            name,
            "1",
            model.config,
            dataset=digits.describe(),
            training={"recipe": {"dataset": "digits"}},
            metrics={"log_likelihood": -45.5},
            log_likelihood_quantiles=QUANTILES,
        )
        save_checkpoint(tmp_path / "store" / name / "1", model, card)
        return model

    return put


@pytest.fixture
def figure(command: Command, tmp_path: Path) -> Callable[..., NDArray[np.uint8]]:
    """The pixels (H, W, 3) of the PNG that `python -m training figure ...` writes."""

    def draw(*arguments: object) -> NDArray[np.uint8]:
        path = tmp_path / "figure"
        answer = command("figure", *arguments, "--output", path)
        assert (answer.code, answer.out.split()) == (0, [str(path)]), answer.err
        image = Image.open(io.BytesIO(path.read_bytes()), formats=["PNG"])
        assert all(100 < side < 4000 for side in image.size)
        return np.asarray(image.convert("RGB"))

    return draw


@pytest.fixture
def error(command: Command, tmp_path: Path) -> Callable[..., str]:
    """The only line on standard error of a command that fails, and that writes nothing."""

    def run(*arguments: object) -> str:
        answer = command("figure", *arguments, "--output", tmp_path / "figure.png")
        assert answer.code == 2
        assert not (tmp_path / "figure.png").exists()
        (line,) = answer.err.splitlines()
        assert isinstance(line, str)
        return line

    return run


Figure = Callable[..., NDArray[np.uint8]]
Error = Callable[..., str]


@pytest.mark.parametrize("kind", ["vae", "hvae", "conv_hvae", "pixel_hvae"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "logistic"])
def test_every_model_generates_and_reconstructs_images(kind: str, likelihood: str, digits: Dataset) -> None:
    model = random_model(model=kind, likelihood=likelihood)
    x = model.likelihood.from_bytes(torch.from_numpy(digits.gray("test"))[:5])
    for images in (sample(model, 5, seed=1), sample(model, 5, seed=1, component=5), reconstruct(model, x, seed=1)):
        assert images.shape == (5, 1, 8, 8)
        assert images.min() >= 0
        assert images.max() <= 1
        if model.autoregressive and model.likelihood.binary:
            assert set(images.unique().tolist()) <= {0.0, 1.0}


def test_samples_repeat_with_their_seed_and_differ_with_another() -> None:
    model = random_model()
    assert sample(model, 4, seed=1).equal(sample(model, 4, seed=1))
    assert not sample(model, 4, seed=1).equal(sample(model, 4, seed=2))


def test_samples_of_a_component_are_of_that_component() -> None:
    """The prior with all its weight on a component draws what the component draws."""
    model = random_model(prior="weighted_vampprior")
    of_component = sample(model, 4, seed=1, component=2)
    model.prior.logits.data = torch.tensor([0.0, 0.0, 1000.0, 0.0, 0.0, 0.0])
    assert of_component.equal(sample(model, 4, seed=1))


def test_a_reconstruction_is_the_mean_image_at_the_posterior_means(digits: Dataset) -> None:
    model = random_model()
    x = model.likelihood.from_bytes(torch.from_numpy(digits.gray("test"))[:5])
    z2, z1 = (posterior.mean for posterior in model.encode(x).values())
    torch.testing.assert_close(reconstruct(model, x, seed=0), model.mean_image((z2, z1)))


def test_pseudo_inputs_are_stretched_to_full_brightness() -> None:
    model = random_model()
    model.prior.free_inputs.data = torch.rand(6, 1, 8, 8) * torch.linspace(0, 0.5, 6)[:, None, None, None]
    inputs = pseudo_inputs_of(model)
    assert inputs.amax(dim=(1, 2, 3)).tolist() == pytest.approx([0, 1, 1, 1, 1, 1])
    darkest = model.prior.pseudo_inputs
    torch.testing.assert_close(inputs[3], darkest[3] / darkest[3].max())


def test_figure_4_shows_the_chosen_pseudo_inputs(figure: Figure, put_model: Callable[..., LatentModel]) -> None:
    put_model("m")
    one, again = figure(4, "m", "--pseudo-input", 3), figure(4, "m", "--pseudo-input", 3)
    np.testing.assert_array_equal(one, again)
    other, two = figure(4, "m", "--pseudo-input", 4), figure(4, "m", "--pseudo-input", 3, "--pseudo-input", 4)
    assert (one != other).any()
    assert two.shape[1] == 2 * one.shape[1]
    drawn_anew = figure(4, "m", "--pseudo-input", 3, "--seed", 1)
    assert (one != drawn_anew).any()


def test_figure_4_chooses_by_seed_among_few_pseudo_inputs(
    figure: Figure, put_model: Callable[..., LatentModel]
) -> None:
    put_model("m", model="pixel_hvae", prior="vampprior_data", num_components=1)
    np.testing.assert_array_equal(figure(4, "m"), figure(4, "m", "--pseudo-input", 0))


def likeness(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Correlation of two pictures, which may be a pixel out of place."""
    small = [np.asarray(Image.fromarray(picture).resize((125, 125)).convert("L")).ravel() for picture in (one, other)]
    return float(np.corrcoef(small)[0, 1])


@pytest.mark.parametrize("number", [5, 6])
def test_figures_5_and_6_have_a_panel_a_checkpoint_and_one_of_real_images(
    number: int, figure: Figure, put_model: Callable[..., LatentModel]
) -> None:
    put_model("m")
    put_model("p", model="pixel_hvae", prior="mog")
    put_model("gray", likelihood="logistic", prior="standard")
    one, two = figure(number, "m"), figure(number, "m@1", "p", "--seed", 0)
    assert two.shape[1] * 2 == one.shape[1] * 3
    assert two.shape[0] == one.shape[0]
    panels = [np.hsplit(image, image.shape[1] // 500) for image in (one, two)]
    assert likeness(panels[0][0], panels[1][0]) > 0.9  # the same real images
    assert likeness(panels[0][1], panels[1][1]) > 0.9
    assert likeness(panels[0][0], panels[1][1]) < 0.8
    np.testing.assert_array_equal(two, figure(number, "m", "p"))


@pytest.mark.parametrize("likelihood", ["bernoulli", "logistic"])
def test_the_figure_of_novelty_has_a_column_per_image_and_is_drawn_anew_for_another_seed(
    likelihood: str, figure: Figure, command: Command, put_model: Callable[..., LatentModel], tmp_path: Path
) -> None:
    put_model("m", likelihood=likelihood)
    assert command("calibrate", "m").code == 0
    options = ("novelty", "m", "--data-dir", tmp_path)
    one, again, other = figure(*options), figure(*options), figure(*options, "--seed", 1)
    np.testing.assert_array_equal(one, again)
    assert one.shape == other.shape
    assert (one != other).any()
    assert one.shape[1] > 1.5 * one.shape[0]  # five columns of three images: no other data set is in the folder


def test_explanations_are_those_of_the_library(digits: Dataset) -> None:
    folder = Path(__file__).parents[3] / "model_store" / "digits-hvae-vampprior" / "1"
    model, card = load_checkpoint(folder)
    images = {"known": digits.gray("test")[0, 0], "inverted": 255 - digits.gray("test")[1, 0]}
    known, inverted = explain(model, read_calibration(folder, card), images, seed=0)
    assert (known.title, known.decision.novel, inverted.decision.novel) == ("known", False, True)
    x = torch.from_numpy(digits.test[:1]).float()
    prototypes = Prototypes.of(model)
    np.testing.assert_array_equal(known.image, digits.test[0, 0])
    np.testing.assert_allclose(known.contrast, prototypes.contrast(x)[0, 0].numpy(), atol=1e-6)
    np.testing.assert_allclose(known.heat_map, prototypes.heat_map(x)[0].numpy(), atol=1e-6)


def test_figure_7_puts_checkpoints_side_by_side_and_data_sets_below_one_another(
    figure: Figure, put_model: Callable[..., LatentModel], put_card: PutCard, tmp_path: Path
) -> None:
    put_model("m")
    put_model("v", model="vae")
    config = ModelConfig()
    other = Card("other", "1", config, dataset={"name": "another"}, log_likelihood_quantiles=QUANTILES)
    save_checkpoint(tmp_path / "store" / "other" / "1", build_model(config), other)
    one, beside, below = figure(7, "m"), figure(7, "m", "v"), figure(7, "m", "other")
    assert beside.shape[1] > 1.5 * one.shape[1]
    assert beside.shape[0] == one.shape[0]
    assert below.shape[0] > 1.5 * one.shape[0]


def test_a_density_has_the_shares_of_the_quantiles() -> None:
    card = Card("m", "1", ModelConfig(), log_likelihood_quantiles=QUANTILES)
    edges = np.array([-60.0, -50.0, -48.0, -46.0, -45.0, -30.0])
    shares = density(card, edges) * np.diff(edges)
    np.testing.assert_allclose(shares, [0.0, 0.125, 0.125, 0.25, 0.5])


def test_a_density_of_scores_counts_the_images() -> None:
    values = np.array([-50.0, -41.0, -41.5, -30.0], np.float32)
    card = Card("m", "1", ModelConfig(), scores=Scores(values, values, values))
    edges = np.array([-50.0, -42.0, -40.0, -30.0])
    assert (density(card, edges) * np.diff(edges)).tolist() == [0.25, 0.5, 0.25]


def test_a_density_survives_equal_quantiles() -> None:
    quantiles = {"probabilities": [0.0, 0.5, 1.0], "values": [-50.0, -50.0, -40.0]}
    card = Card("m", "1", ModelConfig(), log_likelihood_quantiles=quantiles)
    edges = np.linspace(-51.0, -39.0, 13)
    assert (density(card, edges) * np.diff(edges)).sum() == pytest.approx(1.0)


def put_sweep(put_card: PutCard) -> None:
    for prior in ("mog", "vampprior"):
        for k in (1, 100, 500):
            put_card(f"{prior}-{k}", prior=prior, num_components=k, metrics={"elbo": -90.0 - k / 1000})
    put_card("standard", prior="standard", num_components=1, metrics={"elbo": -95.0})


def test_checkpoints_are_ordered_by_prior_and_number_of_components(put_card: PutCard, tmp_path: Path) -> None:
    put_sweep(put_card)
    put_card("mog-1000", prior="mog", num_components=1000, log_likelihood=None)
    put_card("vampprior-100", num_components=100, version="2")
    put_card("conv", model="conv_hvae", num_components=50)
    put_card("elsewhere", "dynamic_mnist", num_components=50)
    put_card("weighted", prior="weighted_vampprior", num_components=50)
    comparison = Comparison.of(Cards.read(tmp_path / "store"), "static_mnist", "hvae", PRIORS)
    assert {prior: list(cards) for prior, cards in comparison.varied.items()} == {
        "MoG": [1, 100, 500],
        "VampPrior": [1, 100, 500],
    }
    assert comparison.varied["VampPrior"][100].version == "2"
    names = {prior: card.name for prior, card in comparison.constants.items()}
    assert names == {"standard Gaussian (SG)": "standard"}


def test_networks_that_differ_in_more_than_the_prior_do_not_compare(put_card: PutCard, tmp_path: Path) -> None:
    put_sweep(put_card)
    put_card("wide", num_components=50, hidden_dim=301)
    with pytest.raises(CheckpointError, match="wide@1 differ in more than their priors"):
        Comparison.of(Cards.read(tmp_path / "store"), "static_mnist", "hvae", PRIORS)


@pytest.mark.parametrize("number", [2, 3])
def test_figures_2_and_3_are_drawn_from_cards_alone(number: int, figure: Figure, put_card: PutCard) -> None:
    put_sweep(put_card)
    before = figure(number)
    put_card("vampprior-50", num_components=50, metrics={"elbo": -88.0, "active_units": {"z2": 1, "z1": 2}})
    assert (before != figure(number)).any()


def test_figure_3_takes_the_layers_that_the_model_has(figure: Figure, put_card: PutCard) -> None:
    for k in (1, 10):
        put_card(f"hvae-{k}", num_components=k)
        put_card(f"vae-{k}", num_components=k, model="vae", metrics={"active_units": {"z1": k}})
    assert figure(3, "--model", "hvae").shape[1] == 2 * figure(3, "--model", "vae").shape[1]


@pytest.mark.parametrize("number", [2, 3])
def test_too_few_cards_are_told_in_one_line(number: int, error: Error, put_card: PutCard) -> None:
    put_card("a")
    put_card("b", num_components=50, log_likelihood=None)
    line = error(number)
    assert "too few evaluated checkpoints of hvae on static_mnist" in line
    assert line.endswith("with at least two numbers of components; there are: VampPrior with 500")
    assert error(number, "--dataset", "digits").endswith("there are: none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, "nope"), "no checkpoint 'nope' in"),
        ((5, "vamp", "nope"), "no checkpoint 'nope' in"),
        ((7, "vamp", "nope@3"), "no checkpoint 'nope@3' in"),
        ((4, "mog"), "the prior mog has no pseudo-inputs to show"),
        ((4, "standard"), "the prior standard has no pseudo-inputs to show"),
        ((4, "vamp", "--pseudo-input", 6), "vamp@1 has pseudo-inputs 0 to 5, none numbered 6"),
        ((7, "vamp", "new"), "new@1 is not evaluated"),
        ((6, "new"), "new@1 does not name its data set"),
        (("novelty", "vamp"), "vamp@1 has no calibration 'default'"),
    ],
)
def test_a_mistake_is_answered_in_one_line(
    arguments: tuple[object, ...],
    message: str,
    error: Error,
    put_model: Callable[..., LatentModel],
    tmp_path: Path,
) -> None:
    for name, prior in (("vamp", "vampprior"), ("mog", "mog"), ("standard", "standard")):
        put_model(name, prior=prior)
    new = random_model()
    save_checkpoint(tmp_path / "store" / "new" / "1", new, Card("new", "1", new.config))
    assert message in error(*arguments)


def test_a_folder_that_is_not_there_is_told_in_one_line(
    command: Command, put_model: Callable[..., LatentModel], tmp_path: Path
) -> None:
    put_model("m")
    answer = command("figure", 7, "m", "--output", tmp_path / "missing" / "figure.png")
    assert answer.code == 2
    assert len(answer.err.splitlines()) == 1
