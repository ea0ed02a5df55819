"""`GET /models/{name}/calibration` and `GET /models/{name}/map`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vampprior.calibration import Calibration, map_rows, read_calibration, write_calibration
from vampprior.card import read_card

COUNT = 150


@pytest.fixture(scope="module")
def folder(save_model: Any, calibrate: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a calibration that has a map, and one without."""
    folder: Path = save_model(tmp_path_factory.mktemp("store"), "tiny-vamp", "1", seed=1)
    calibrate(folder)
    write_calibration(folder, replace(read_calibration(folder, read_card(folder)), name="plain", map=None))
    return folder


@pytest.fixture(scope="module")
def client(serve: Any, folder: Path) -> Any:
    with serve(model_store=folder.parents[1]) as service:
        yield service.client


@pytest.fixture
def calibration(folder: Path) -> Calibration:
    return read_calibration(folder, read_card(folder))


def test_the_map_is_that_of_the_calibration(client: Any, calibration: Calibration) -> None:
    answer = client.get("/models/tiny-vamp@1/map").json()
    assert calibration.map is not None
    assert (answer["model"], answer["calibration"], answer["layer"]) == ("tiny-vamp", "default", "z2")
    for name in ("mean", "components", "points", "prototypes"):
        np.testing.assert_allclose(answer[name], getattr(calibration.map, name), atol=1e-4)
    assert answer["labels"] == calibration.map.labels.tolist()


def test_each_point_has_the_p_value_of_its_image(client: Any, calibration: Calibration) -> None:
    decided = calibration.decide(calibration.statistics)
    expected = [decided[row].p_value for row in map_rows(COUNT, calibration.seed)]
    np.testing.assert_allclose(client.get("/models/tiny-vamp/map").json()["p_values"], expected, atol=1e-4)


def test_the_quantiles_are_those_of_the_scores(client: Any, calibration: Calibration) -> None:
    answer = client.get("/models/tiny-vamp/calibration").json()
    assert (answer["num_images"], answer["num_samples"]) == (COUNT, 16)
    assert {name: len(levels) for name, levels in answer["quantiles"].items()} == {
        "score": 1001,
        "log_likelihood": 1001,
    }
    for name, column in (("score", calibration.scores), ("log_likelihood", calibration.statistics.log_likelihood)):
        levels = answer["quantiles"][name]
        assert levels == sorted(levels)
        np.testing.assert_allclose([levels[0], levels[500], levels[1000]], np.quantile(column, [0, 0.5, 1]), atol=1e-4)


def test_a_calibration_without_a_map(client: Any, problem: Any) -> None:
    assert client.get("/models/tiny-vamp/calibration?calibration=plain").json()["num_images"] == COUNT
    for _ in range(2):  # nothing of it is cached
        answer = problem(client.get("/models/tiny-vamp/map?calibration=plain"), 404, "calibration-not-found")
        assert "has no map" in answer["detail"]


@pytest.mark.parametrize("what", ["map", "calibration"])
def test_what_there_is_not(client: Any, problem: Any, what: str) -> None:
    problem(client.get(f"/models/tiny-vamp/{what}?calibration=other"), 404, "calibration-not-found")
    problem(client.get(f"/models/other/{what}"), 404, "model-not-found")


def test_equal_requests_are_answered_from_the_cache(client: Any) -> None:
    for what in ("map", "calibration"):
        client.get(f"/models/tiny-vamp/{what}")
        assert client.get(f"/models/tiny-vamp/{what}").headers["x-cache"] == "hit"
