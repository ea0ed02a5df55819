"""What is saved comes back bit for bit, a failing write harms nothing, and the card knows where a score stands."""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vampprior import LatentModel, ModelConfig, build_model, log_likelihood
from vampprior.card import Card, CardError, read_card, write_card
from vampprior.checkpoint import load_checkpoint, save_checkpoint

CARD = Card("digits", "1.0-rc_2", ModelConfig())


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Writes fail with OSError past `size` bytes of a file, as they do on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_loaded_model_gives_the_same_numbers_bit_for_bit(
    tmp_path: Path, config: ModelConfig, images: Tensor, draw_noise: Callable[..., Tensor]
) -> None:
    model = build_model(config).eval()
    card = save_checkpoint(tmp_path / "new" / "folder", model, Card("digits", "1", config))
    loaded, loaded_card = load_checkpoint(tmp_path / "new" / "folder")
    assert loaded_card == card
    assert loaded.config == config
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name

    x, noise = images.float(), draw_noise(len(images), 7, model.noise_dim).float()
    before, after = (log_likelihood(m, x, num_samples=7, noise=noise) for m in (model, loaded))
    assert torch.equal(before.value, after.value)
    latents = [
        m.ancestral_sample(m.prior_mixture().component(torch.tensor([0])), noise[:1, 0]) for m in (model, loaded)
    ]
    uniform = torch.rand(1, config.num_pixels)
    assert torch.equal(model.draw_image(latents[0], uniform), loaded.draw_image(latents[1], uniform))


def test_a_loaded_model_is_ready_for_inference(tmp_path: Path, config: ModelConfig) -> None:
    save_checkpoint(tmp_path, build_model(config).train(), Card("digits", "1", config))
    loaded, _ = load_checkpoint(tmp_path)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert {tensor.device.type for tensor in loaded.state_dict().values()} == {"cpu"}


def test_loading_draws_no_weights_that_the_file_replaces(
    tmp_path: Path, model: LatentModel, config: ModelConfig
) -> None:
    save_checkpoint(tmp_path, model, Card("test", "1", config))
    state = torch.get_rng_state()
    load_checkpoint(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_float64_weights_are_saved_as_float32(tmp_path: Path, model: LatentModel, config: ModelConfig) -> None:
    save_checkpoint(tmp_path, model, Card("digits", "1", config))
    loaded, _ = load_checkpoint(tmp_path)
    for name, tensor in model.state_dict().items():
        expected = tensor.float() if tensor.is_floating_point() else tensor
        assert torch.equal(loaded.state_dict()[name], expected), name


def test_equal_weights_make_equal_files(tmp_path: Path, tiny_model: Callable[..., LatentModel]) -> None:
    model = tiny_model()
    cards = [save_checkpoint(tmp_path / name, model, Card(name, "1", model.config)) for name in ("a", "b")]
    assert cards[0].weights_sha256 == cards[1].weights_sha256
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_a_card_keeps_all_it_was_given(tmp_path: Path) -> None:
    card = replace(
        CARD,
        dataset={"name": "digits", "sizes": {"train": 3}},
        training={"seed": 1, "note": "\u00e9 \u2028 \U0001f600"},
        metrics={"log_likelihood": -81.23456789012345},
        log_likelihood_quantiles={"probabilities": [0.0, 1.0], "values": [-90.0, -70.0]},
        weights_sha256="ab" * 32,
    )
    write_card(tmp_path, card)
    assert read_card(tmp_path) == card
    assert Card.from_dict(json.loads(json.dumps(card.to_dict()))) == card


def test_a_failing_write_leaves_the_old_checkpoint(tmp_path: Path, tiny_model: Callable[..., LatentModel]) -> None:
    old, new = tiny_model(), tiny_model()
    card = save_checkpoint(tmp_path, old, Card("digits", "1", old.config))
    with file_size_limit(64), pytest.raises(OSError, match="File too large"):
        save_checkpoint(tmp_path, new, Card("digits", "2", new.config))
    loaded, loaded_card = load_checkpoint(tmp_path)
    assert loaded_card == card
    assert torch.equal(next(loaded.parameters()), next(old.parameters()).float())


def test_a_failing_write_of_a_card_leaves_the_old_card(tmp_path: Path) -> None:
    write_card(tmp_path, CARD)
    with file_size_limit(64), pytest.raises(OSError, match="File too large"):
        write_card(tmp_path, replace(CARD, version="2"))
    assert read_card(tmp_path) == CARD


def test_a_card_that_json_cannot_hold_leaves_the_old_card(tmp_path: Path) -> None:
    write_card(tmp_path, CARD)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_card(tmp_path, replace(CARD, metrics={"elbo": math.nan}))
    assert read_card(tmp_path) == CARD


def test_nothing_but_the_two_files_is_left_behind(tmp_path: Path, tiny_model: Callable[..., LatentModel]) -> None:
    model = tiny_model()
    for version in ("1", "2"):
        save_checkpoint(tmp_path, model, Card("digits", version, model.config))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.json", "model.safetensors"]
    assert read_card(tmp_path).version == "2"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../up", "a/b", "a\\b", "/etc", "-rf", "A", "a b", "a\n", "é", "a" * 101, 3]
)
def test_a_name_that_could_leave_the_store_is_refused(name: str) -> None:
    with pytest.raises(CardError, match=r"name .* must be lower-case letters"):
        replace(CARD, name=name)
    with pytest.raises(CardError, match=r"version .* must be lower-case letters"):
        replace(CARD, version=name)


def scored(probabilities: list[float], values: list[float]) -> Card:
    return replace(CARD, log_likelihood_quantiles={"probabilities": probabilities, "values": values})


def test_a_card_without_quantiles_has_no_percentiles() -> None:
    assert CARD.percentile(-80.0) is None


def test_percentiles_interpolate_the_quantiles_and_stop_at_their_ends() -> None:
    card = scored([0.0, 0.25, 0.5, 1.0], [-100.0, -90.0, -80.0, -60.0])
    scores = [-math.inf, -1e9, -100.0, -95.0, -90.0, -80.0, -70.0, -60.0, 0.0, math.inf]
    assert [card.percentile(score) for score in scores] == [0.0, 0.0, 0.0, 12.5, 25.0, 50.0, 75.0, 100.0, 100.0, 100.0]


def test_images_that_score_the_same_are_not_lower() -> None:
    """A percentile counts the images that score lower, so a tie takes the lowest probability of its value."""
    card = scored([0.0, 0.2, 0.8, 1.0], [-90.0, -80.0, -80.0, -70.0])
    assert card.percentile(-80.0) == pytest.approx(20.0)
    assert card.percentile(-79.999999) == pytest.approx(80.0, abs=1e-3)


ascending = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=8).map(sorted)


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(values=ascending, scores=st.lists(st.floats(-2e6, 2e6), min_size=2, max_size=6).map(sorted))
def test_percentiles_rise_from_0_to_100(values: list[float], scores: list[float]) -> None:
    card = scored([i / (len(values) - 1) for i in range(len(values))], values)
    percentiles = [card.percentile(score) for score in [*scores, *values]]
    assert all(0.0 <= percentile <= 100.0 for percentile in percentiles)
    for part in (percentiles[: len(scores)], percentiles[len(scores) :]):
        assert part == sorted(part)


@pytest.mark.parametrize(
    ("quantiles", "message"),
    [
        ({"values": [1.0, 2.0]}, "finite numbers named probabilities"),
        ({"probabilities": [0.0, 1.0], "values": None}, "finite numbers named values"),
        ({"probabilities": [0.0, "1"], "values": [1.0, 2.0]}, "finite numbers named probabilities"),
        ({"probabilities": [0.0, 1.0], "values": [1.0, math.nan]}, "finite numbers named values"),
        ({"probabilities": [0.0, 1.0], "values": [-math.inf, 1.0]}, "finite numbers named values"),
        ({"probabilities": [0.0, 1.0], "values": [2.0, 1.0]}, "ascending"),
        ({"probabilities": [1.0, 0.0], "values": [1.0, 2.0]}, "ascending"),
        ({"probabilities": [0.0, 1.0], "values": [1.0, 2.0, 3.0]}, "as many probabilities as values"),
        ({"probabilities": [0.5], "values": [1.0]}, "two at least"),
        ({"probabilities": [], "values": []}, "two at least"),
    ],
)
def test_quantiles_that_define_no_percentile_are_refused(quantiles: dict[str, list[float]], message: str) -> None:
    with pytest.raises(CardError, match=message):
        replace(CARD, log_likelihood_quantiles=quantiles)


@pytest.mark.parametrize("probabilities", [[-0.5, 1.0], [0.0, 2.0]])
def test_probabilities_beyond_zero_and_one_are_refused(probabilities: list[float]) -> None:
    with pytest.raises(CardError, match="probabilities"):
        scored(probabilities, [1.0, 2.0])


@pytest.mark.parametrize("name", ["digits-hvae-vampprior", "digits-hvae-mog", "digits-pixel_hvae-vampprior"])
def test_loading_does_not_import_torchs_compiler(name: str) -> None:
    folder = Path(__file__).parents[2] / "model_store" / name / "1"
    script = f"""
import sys
from pathlib import Path
from vampprior.checkpoint import load_checkpoint
load_checkpoint(Path({str(folder)!r}))
sys.exit("torch._dynamo" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
