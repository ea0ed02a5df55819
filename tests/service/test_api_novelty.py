"""`POST /novelty` and `POST /novelty/heatmap`, and what calibrations change in `POST /loglik`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from service.images import encode_png
from vampprior.binarization import sample_binary
from vampprior.calibration import read_calibration
from vampprior.card import read_card
from vampprior.heatmap import Prototypes
from vampprior.novelty import NUM_SAMPLES
from vampprior.statistics import image_statistics

NOVELTY = 5  # the stream of random numbers
KNOWN = 150


def known_images(count: int) -> torch.Tensor:
    rng = np.random.default_rng(7)
    return torch.from_numpy((rng.random((count, 1, 8, 8)) < 0.5).astype(np.float32))


def noise_of(seed: int, model: Any, count: int) -> torch.Tensor:
    bits = np.random.Philox(key=np.array([seed, NOVELTY], np.uint64))
    noise = np.random.Generator(bits).standard_normal((NUM_SAMPLES, model.noise_dim), dtype=np.float32)
    return torch.from_numpy(noise).expand(count, -1, -1)


@pytest.fixture(scope="module")
def calibrated(save_model: Any, calibrate: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two calibrations of one model, and a model without."""
    store = tmp_path_factory.mktemp("calibrated")
    save_model(store, "tiny-vamp", "10", seed=10)
    save_model(store, "bare", "1", seed=1)
    save_model(store, "gray", "1", seed=2, likelihood="logistic")
    for name, count in (("default", KNOWN), ("mine", 30)):
        calibrate(store / "tiny-vamp" / "10", name, count=count, tables=(1, 500))
    return store


@pytest.fixture(scope="module")
def novel(serve: Any, calibrated: Path) -> Any:
    with serve(model_store=calibrated, workers=1) as service:
        yield service


@pytest.fixture
def decide(novel: Any) -> Any:
    def post(*images: Any, **parameters: Any) -> dict[str, Any]:
        files = [("file", (f"{index}.png", encode_png(image))) for index, image in enumerate(images)]
        response = novel.client.post("/novelty", params=parameters, files=files)
        assert response.status_code == 200, response.text
        body: dict[str, Any] = response.json()
        return body

    return post


BLANK = np.zeros((1, 8, 8), np.float32)


def test_a_decision_is_that_of_the_calibration(decide: Any, calibrated: Path, load_model: Any) -> None:
    model, folder = load_model("tiny-vamp@10"), calibrated / "tiny-vamp" / "10"
    x = torch.cat([known_images(3), torch.from_numpy(BLANK)[None]])
    for parameters in ({"false_alarm_rate": 0.2}, {"fdr": 0.3}, {}):
        calibration = read_calibration(folder, read_card(folder))
        statistics = image_statistics(model, x, noise=noise_of(3, model, 4))
        expected = calibration.decide(statistics, **parameters)
        body = decide(*x.numpy(), seed=3, **parameters)
        assert (body["calibration"], body["num_calibration"], body["num_samples"]) == ("default", KNOWN, NUM_SAMPLES)
        assert body["fdr"] == parameters.get("fdr")
        rate = None if "fdr" in parameters else parameters.get("false_alarm_rate", 0.01)
        assert body["false_alarm_rate"] == rate
        for result, decision in zip(body["results"], expected, strict=True):
            assert result["novel"] == decision.novel
            assert result["p_value"] == pytest.approx(decision.p_value, abs=0.02)  # noise of float32 may reorder
            assert result["score"] == pytest.approx(decision.score, abs=2e-3)
            assert set(result["statistics"]) == set(decision.statistics)
            elbo = decision.statistics["elbo"].value
            assert result["statistics"]["elbo"]["value"] == pytest.approx(elbo, abs=2e-3)
            assert result["summary"].startswith("This image is new" if decision.novel else "There is no clear sign")


def test_the_prototypes_that_explain_an_image_best_come_first(decide: Any, load_model: Any) -> None:
    images = known_images(2)
    expected = Prototypes.of(load_model("tiny-vamp@10")).explain(images)
    for result, explanation in zip(decide(*images.numpy())["results"], expected, strict=True):
        assert [item["index"] for item in result["prototypes"]] == [item.component for item in explanation]
        log_probs = [item["log_prob"] for item in result["prototypes"]]
        assert log_probs == pytest.approx([item.log_prob for item in explanation], abs=2e-3)


def test_a_decision_depends_on_the_image_and_the_parameters_alone(decide: Any) -> None:
    images = known_images(20).numpy()
    together = decide(*images, seed=5)["results"]
    for index in (0, 7, 19):
        (alone,) = decide(images[index], seed=5)["results"]
        assert {**alone, "file": ""} == {**together[index], "file": ""}


def test_another_calibration_decides_by_its_own_images(decide: Any) -> None:
    body = decide(BLANK, calibration="mine")
    assert (body["num_calibration"], body["false_alarm_rate"]) == (30, pytest.approx(1 / 31))


@pytest.mark.parametrize(
    ("query", "status", "slug"),
    [
        ("calibration=yours", 404, "calibration-not-found"),
        ("model=bare", 404, "calibration-not-found"),
        ("false_alarm_rate=0.001", 422, "bad-parameter"),
        ("false_alarm_rate=0", 422, "bad-parameter"),
        ("fdr=1", 422, "bad-parameter"),
        ("fdr=nan", 422, "bad-parameter"),
        ("fdr=0.1&false_alarm_rate=0.1", 422, "bad-parameter"),
        ("binarize=flip", 422, "bad-parameter"),
    ],
)
def test_what_cannot_be_decided_is_refused(novel: Any, problem: Any, query: str, status: int, slug: str) -> None:
    problem(novel.client.post(f"/novelty?{query}", files={"file": encode_png(BLANK)}), status, slug)


def test_pixels_may_be_drawn_instead_of_thresholded(decide: Any, novel: Any, problem: Any) -> None:
    gray = np.random.default_rng(1).random((1, 8, 8)).astype(np.float32)
    drawn = sample_binary((gray * 256).astype(np.uint8)[None], 4)[0] / np.float32(255)
    sampled, expected = decide(gray, gray, binarize="sample", seed=4)["results"], decide(drawn, seed=4)["results"][0]
    for result in sampled:
        assert {**result, "file": ""} == {**expected, "file": ""}
    assert decide(gray, seed=4)["results"][0]["statistics"] != expected["statistics"]
    answer = novel.client.post("/loglik?model=gray&binarize=sample", files={"file": encode_png(gray)})
    problem(answer, 422, "bad-parameter")


@pytest.mark.parametrize("view", ["overlay", "heat", "prototypes"])
def test_a_heat_map_is_that_of_the_prototypes(novel: Any, load_model: Any, read_npy: Any, view: str) -> None:
    images = known_images(3)
    prototypes = Prototypes.of(load_model("tiny-vamp@10"))
    files = [("file", encode_png(image)) for image in images.numpy()]
    answer = novel.client.post(f"/novelty/heatmap?view={view}&format=npy", files=files)
    expected = prototypes.contrast(images) if view == "prototypes" else prototypes.heat_map(images)[:, None]
    np.testing.assert_allclose(read_npy(answer.content), expected.numpy(), atol=1e-4)


def test_a_heat_map_is_laid_over_the_image(novel: Any, read_png: Any) -> None:
    answer = novel.client.post("/novelty/heatmap?scale=2", files={"file": encode_png(BLANK + 1)})
    pixels = read_png(answer.content)
    assert pixels.shape == (16, 16, 3)
    assert (pixels[..., 0] >= pixels[..., 1]).all()


def test_the_percentile_is_among_estimates_with_as_many_samples(novel: Any) -> None:
    def score(query: str) -> dict[str, Any]:
        answer = novel.client.post(f"/loglik?{query}", files={"file": encode_png(known_images(1)[0].numpy())})
        result: dict[str, Any] = answer.json()["results"][0]
        return result

    for query in ("num_samples=1", "num_samples=100", "num_samples=500"):
        assert 0 <= score(query)["percentile"] <= 100
    for query in ("num_samples=501", "num_samples=100&refine=2", "num_samples=100&model=bare"):
        result = score(query)
        assert result["percentile"] is None
        assert "nothing to compare with" in result["summary"]


def test_a_damaged_calibration_refuses_its_checkpoint(serve: Any, calibrated: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    for folder in calibrated.glob("*/*"):
        target = store / folder.relative_to(calibrated)
        target.mkdir(parents=True)
        for file in folder.iterdir():
            data = file.read_bytes()
            (target / file.name).write_bytes(data[:-1] if file.name == "calibration-mine.safetensors" else data)
    with serve(model_store=store, default_model="bare", workers=1) as service:
        models = {model["name"]: model for model in service.client.get("/models").json()["models"]}
        assert models["tiny-vamp"]["status"] == "refused"
        assert "calibration-mine" in models["tiny-vamp"]["reason"]


def test_answers_are_cached(novel: Any) -> None:
    files = {"file": encode_png(BLANK)}
    caches = [novel.client.post("/novelty?seed=99", files=files).headers["x-cache"] for _ in range(2)]
    assert caches == ["miss", "hit"]
    assert isinstance(novel.client, httpx.Client)
