"""Calibration files: written with their hash in the card, read back, and refused if anything is wrong with them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

import vampprior
from vampprior.calibration import (
    Calibration,
    CalibrationError,
    LatentMap,
    log_likelihood_percentile,
    read_calibration,
    read_calibrations,
    write_calibration,
)
from vampprior.card import CARD_FILE, Card, CardError, Scores, read_card, write_card
from vampprior.config import ModelConfig
from vampprior.novelty import Statistics

WEIGHTS = "a" * 64
FILE = "calibration.safetensors"


def calibration_of(num_images: int = 50, name: str = "default", seed: int = 0) -> Calibration:
    columns = np.random.default_rng(seed).normal(0.0, 1.0, (6, num_images))
    statistics = Statistics(*columns[:3], np.abs(columns[3]), {"z2": columns[4], "z1": columns[5]})
    plane = LatentMap(np.zeros(3), np.eye(3)[:2], columns[:2].T, np.arange(num_images, dtype=np.int32), np.ones((4, 2)))
    tables = {1: np.array([-3.0, -1.0, -2.0, -4.0]), 100: np.array([-1.0, 0.0])}
    return Calibration.of(
        statistics,
        name=name,
        weights_sha256=WEIGHTS,
        images_sha256="b" * 64,
        seed=seed,
        log_likelihoods=tables,
        latent_map=plane,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a card alone, which is all that calibrations need."""
    write_card(tmp_path, Card("digits", "1", ModelConfig(), weights_sha256=WEIGHTS))
    return tmp_path


@pytest.fixture
def damage(folder: Path) -> Callable[..., None]:
    """Changes the arrays or the header of a written calibration, and gives the card the hash of the result."""

    def change(header: dict[str, Any] | None = None, **arrays: Any) -> None:
        path = folder / FILE
        payload = path.read_bytes()
        length = int.from_bytes(payload[:8], "little")
        known = json.loads(json.loads(payload[8 : 8 + length])["__metadata__"]["calibration"])
        changed = load(payload) | {name.replace("__", "."): array for name, array in arrays.items()}
        kept = {name: array for name, array in changed.items() if array is not None}
        payload = save(kept, metadata={"calibration": json.dumps(known | (header or {}))})
        path.write_bytes(payload)
        digest = hashlib.sha256(payload).hexdigest()
        write_card(folder, replace(read_card(folder), calibrations={"default": digest}))

    return change


def test_a_calibration_comes_back(folder: Path) -> None:
    written = calibration_of()
    card = write_calibration(folder, written)
    assert card == read_card(folder)
    read = read_calibrations(folder, card)["default"]
    assert (read.num_samples, read.seed, read.images_sha256) == (16, 0, "b" * 64)
    assert read.coefficients == written.coefficients
    np.testing.assert_array_equal(read.scores, written.scores)
    np.testing.assert_array_equal(read.surprise, written.surprise)
    for name in ("elbo", "reconstruction", "log_likelihood", "total_variation"):
        np.testing.assert_array_equal(getattr(read.statistics, name), getattr(written.statistics, name))
    assert list(read.log_likelihoods) == [1, 16, 100]
    for samples, column in read.log_likelihoods.items():
        np.testing.assert_array_equal(column, written.log_likelihoods[samples])
    assert read.map is not None
    assert written.map is not None
    for one, other in zip(read.map, written.map, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    image = written.statistics[:1]
    assert read.decide(image) == written.decide(image)


def test_equal_calibrations_give_equal_bytes(folder: Path) -> None:
    write_calibration(folder, calibration_of())
    first = (folder / FILE).read_bytes(), (folder / CARD_FILE).read_bytes()
    write_calibration(folder, calibration_of())
    assert ((folder / FILE).read_bytes(), (folder / CARD_FILE).read_bytes()) == first


def test_several_calibrations_lie_side_by_side(folder: Path) -> None:
    write_calibration(folder, calibration_of())
    card = write_calibration(folder, calibration_of(30, name="mine", seed=1))
    found = read_calibrations(folder, card)
    assert {name: len(calibration) for name, calibration in found.items()} == {"default": 50, "mine": 30}
    assert (folder / "calibration-mine.safetensors").is_file()


def test_a_checkpoint_without_calibrations_is_as_it_was(folder: Path) -> None:
    card = read_card(folder)
    assert "calibrations" not in json.loads((folder / CARD_FILE).read_text())
    assert read_calibrations(folder, card) == {}
    with pytest.raises(CalibrationError, match="digits@1 has no calibration 'default'; there are: none"):
        read_calibration(folder, card)


@pytest.mark.parametrize("name", ["", "../x", "A", "a/b"])
def test_names_that_are_no_file_names_are_refused(name: str, folder: Path) -> None:
    with pytest.raises(CalibrationError, match="must be lower-case letters"):
        write_calibration(folder, calibration_of(name=name))
    with pytest.raises(CardError, match="calibrations"):
        Card("digits", "1", ModelConfig(), calibrations={name: ""})


def test_other_weights_are_refused(folder: Path) -> None:
    write_calibration(folder, calibration_of())
    other = replace(read_card(folder), weights_sha256="c" * 64)
    with pytest.raises(CalibrationError, match="other weights than those of its card; calibrate again"):
        read_calibration(folder, other)
    write_card(folder, other)
    with pytest.raises(CalibrationError, match="are not those that were calibrated"):
        write_calibration(folder, calibration_of())


def test_a_missing_file_is_named(folder: Path) -> None:
    card = write_calibration(folder, calibration_of())
    (folder / FILE).unlink()
    with pytest.raises(CalibrationError, match=r"calibration\.safetensors cannot be read: No such file"):
        read_calibrations(folder, card)


def test_any_changed_byte_is_noticed(folder: Path) -> None:
    card = write_calibration(folder, calibration_of())
    payload = bytearray((folder / FILE).read_bytes())
    payload[-1] ^= 1
    (folder / FILE).write_bytes(payload)
    with pytest.raises(CalibrationError, match="it is damaged, or another checkpoint's"):
        read_calibrations(folder, card)


def test_a_file_under_another_name_is_refused(folder: Path) -> None:
    card = write_calibration(folder, calibration_of(name="mine"))
    (folder / "calibration-mine.safetensors").rename(folder / FILE)
    moved = replace(card, calibrations={"default": card.calibrations["mine"]})
    with pytest.raises(CalibrationError, match="holds the calibration 'mine', not 'default'"):
        read_calibrations(folder, moved)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"scores": None}, "does not hold a calibration: KeyError"),
        ({"scores": np.zeros(49, np.float32)}, "has shape .50,., not .49,."),
        ({"scores": np.zeros(0, np.float32)}, "has shape .50,., not .0,."),
        ({"scores": -np.arange(50, dtype=np.float32)}, "scores must be a column of ascending values"),
        ({"statistics__elbo": np.full(50, np.nan, np.float32)}, "statistics.elbo holds a value that is not finite"),
        ({"statistics__kl__z1": None}, "does not hold a calibration: KeyError"),
        ({"coefficients": np.zeros(8)}, "scales of its coefficients must be positive"),
        ({"coefficients": np.ones(7)}, "does not hold a calibration: TypeError"),
        ({"log_likelihoods__100": np.array([1.0, 0.0])}, "log_likelihoods.100 must be a column of ascending values"),
        ({"map__labels": np.zeros(3, np.int32)}, "arrays of its map do not fit each other"),
    ],
)
def test_damaged_arrays_are_refused(
    arrays: dict[str, Any], message: str, folder: Path, damage: Callable[..., None]
) -> None:
    write_calibration(folder, calibration_of())
    damage(**arrays)
    with pytest.raises(CalibrationError, match=message):
        read_calibrations(folder, read_card(folder))


def test_another_schema_is_refused(folder: Path, damage: Callable[..., None]) -> None:
    write_calibration(folder, calibration_of())
    damage({"schema_version": 2})
    with pytest.raises(CalibrationError, match="schema_version is 2, this program reads 1"):
        read_calibrations(folder, read_card(folder))


def test_a_percentile_is_of_estimates_with_as_many_samples() -> None:
    calibration = calibration_of()
    assert calibration.percentile(-2.0, 1) == 50.0
    assert calibration.percentile(-0.5, 100) == 50.0
    assert calibration.percentile(-0.5, 101) is None
    one, hundred = calibration.percentile(0.1, 16), calibration.percentile(0.1, 100)
    assert one is not None
    assert hundred is not None
    assert calibration.percentile(0.1, 40) == pytest.approx(
        (one + hundred) / 2
    )  # 40 is the geometric mean of 16 and 100


def test_the_card_has_the_percentiles_of_its_own_number_of_samples() -> None:
    scores = Scores(*[np.array([-4.0, -1.0, -3.0, -2.0], np.float32)] * 3)
    card = Card("digits", "1", ModelConfig(), metrics={"num_samples": 5000}, scores=scores)
    assert log_likelihood_percentile(card, None, -2.0, 5000) == 50.0
    assert log_likelihood_percentile(card, None, -2.0, 500) is None
    assert log_likelihood_percentile(card, calibration_of(), -0.5, 100) == 50.0
    assert log_likelihood_percentile(card, calibration_of(), -0.5, 1000) is not None
    assert log_likelihood_percentile(replace(card, metrics={}, scores=None), None, -2.0, 5000) is None
    former = replace(card, scores=None, log_likelihood_quantiles=card.quantiles())
    assert log_likelihood_percentile(former, None, -2.0, 5000) == pytest.approx(50.0, abs=18.0)


def test_positions_on_the_map_are_those_of_the_projection() -> None:
    plane = LatentMap(np.ones(3), np.eye(3)[1:], np.zeros((1, 2)), np.zeros(1, np.int32), np.zeros((1, 2)))
    assert plane.project(np.array([[5.0, 2.0, 4.0]])).tolist() == [[1.0, 3.0]]


def test_decisions_need_no_torch() -> None:
    program = """
import sys
from pathlib import Path
from vampprior.binarization import sample_binary
from vampprior.calibration import read_calibrations
from vampprior.card import read_card
folder = Path("model_store/digits-vae-vampprior/1")
calibration = read_calibrations(folder, read_card(folder))["default"]
print(len(calibration.decide(calibration.statistics)), "torch" in sys.modules)
"""
    root = Path(vampprior.__file__).parents[1]
    ended = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert ended.stdout.split() == ["250", "False"], ended.stderr


@pytest.mark.parametrize("path", sorted(Path(vampprior.__file__).parents[1].glob("model_store/*/*")), ids=str)
def test_every_shipped_checkpoint_has_a_valid_small_calibration(path: Path) -> None:
    card = read_card(path)
    calibration = read_calibrations(path, card)["default"]
    assert len(calibration) == card.dataset["sizes"]["valid"]
    assert (path / FILE).stat().st_size < 1_000_000
