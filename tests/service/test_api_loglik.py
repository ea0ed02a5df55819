from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from service.images import encode_png
from vampprior import LatentModel, LogLikelihood, log_likelihood
from vampprior.calibration import log_likelihood_percentile
from vampprior.card import read_card
from vampprior.refinement import DRAWS, fit_proposal

UNIT_SAMPLES, IMPORTANCE, REFINEMENT = 512, 3, 4


def seeded_noise(model: LatentModel, num_samples: int, seed: int) -> torch.Tensor:
    """The service's noise of a seed, (1, num_samples, noise_dim): a stream of numbers for each unit of 512 samples."""
    units = []
    for start in range(0, num_samples, UNIT_SAMPLES):
        bits = np.random.Philox(key=np.array([seed, start << 8 | IMPORTANCE], np.uint64))
        count = min(UNIT_SAMPLES, num_samples - start)
        units.append(np.random.Generator(bits).standard_normal((count, model.noise_dim), dtype=np.float32))
    return torch.from_numpy(np.concatenate(units))[None]


@pytest.fixture(scope="module")
def expected(load_model: Any) -> Any:
    """The score of one image (C, H, W), computed by the model itself in chunks of its own size."""

    def score(reference: str, image: Any, *, num_samples: int, seed: int) -> LogLikelihood:
        model = load_model(reference)
        noise = seeded_noise(model, num_samples, seed)
        return log_likelihood(model, torch.tensor(image)[None], num_samples=num_samples, noise=noise)

    return score


@pytest.fixture
def score(client: httpx.Client, pngs: list[bytes]) -> Any:
    """The results of `POST /loglik` with these images, by number, and parameters."""

    def post(*indices: int, **parameters: Any) -> list[dict[str, Any]]:
        files = [("file", (f"{index}.png", pngs[index])) for index in indices]
        response = client.post("/loglik", params={"num_samples": 50} | parameters, files=files)
        assert response.status_code == 200, response.text
        results: list[dict[str, Any]] = response.json()["results"]
        return results

    return post


def assert_is_score(result: dict[str, Any], expected: LogLikelihood) -> None:
    assert result["log_likelihood"] == pytest.approx(expected.value.item(), abs=2e-4)
    assert result["elbo"] == pytest.approx(expected.elbo.item(), abs=2e-4)
    effective = expected.effective_sample_size.item()
    error = pytest.approx(expected.standard_error.item(), abs=2e-4) if effective >= 2 else None
    assert result["standard_error"] == error
    assert result["effective_sample_size"] == pytest.approx(effective, abs=0.1, rel=1e-3)
    k = expected.pareto_k.item()
    assert result["pareto_k"] == (pytest.approx(k, abs=2e-3) if math.isfinite(k) else None)
    assert result["reliability"] == ("good" if k < 0.7 else "low")


@pytest.mark.parametrize("reference", ["tiny-vamp@10", "tiny-vamp@2", "tiny-normal@1"])
@pytest.mark.parametrize(("num_samples", "seed"), [(2, 0), (511, 1), (512, 0), (1203, 2**53 - 1)])
def test_a_score_is_the_models_own(
    score: Any, expected: Any, images: Any, reference: str, num_samples: int, seed: int
) -> None:
    (result,) = score(3, model=reference, num_samples=num_samples, seed=seed)
    assert_is_score(result, expected(reference, images[3], num_samples=num_samples, seed=seed))


def test_the_paper_s_number_of_samples_is_the_default(
    client: httpx.Client, expected: Any, images: Any, pngs: Any
) -> None:
    body = client.post("/loglik", files={"file": pngs[0]}).json()
    assert (body["num_samples"], body["seed"]) == (5000, 0)
    assert_is_score(body["results"][0], expected("tiny-vamp@10", images[0], num_samples=5000, seed=0))


def test_a_colour_image_is_scored_by_its_gray_levels(client: httpx.Client, expected: Any) -> None:
    image = np.random.default_rng(1).integers(0, 256, (3, 8, 8)).astype(np.float32) / 256 + 0.5 / 256
    body = client.post("/loglik?model=tiny-colour&num_samples=600", files={"file": encode_png(image)}).json()
    assert_is_score(body["results"][0], expected("tiny-colour@1", image, num_samples=600, seed=0))


@pytest.mark.parametrize("num_samples", [1, 50, 513])
def test_a_score_does_not_depend_on_its_place_or_company(score: Any, num_samples: int) -> None:
    alone = {index: score(index, num_samples=num_samples)[0] for index in range(5)}
    for order in [(0, 1, 2, 3, 4), (4, 2, 0), (1, 1, 3), (3, 4, 3, 4, 3, 4)]:
        assert score(*order, num_samples=num_samples) == [alone[index] for index in order]


def test_results_come_in_the_order_of_their_files(score: Any) -> None:
    assert [result["file"] for result in score(4, 0, 2)] == ["4.png", "0.png", "2.png"]


def test_a_seed_gives_the_same_score_again_and_another_seed_another(score: Any) -> None:
    assert score(0, seed=1) == score(0, seed=1) != score(0, seed=2)


def test_one_sample_tells_no_error(score: Any) -> None:
    (result,) = score(0, num_samples=1)
    assert result["standard_error"] is None
    assert result["effective_sample_size"] == 1
    assert "hangs on a single sample" in result["summary"]
    assert result["elbo"] == result["log_likelihood"]


def test_bits_per_dim_are_the_same_number(score: Any) -> None:
    for result in score(0, 1, 2):
        bits = -result["log_likelihood"] / (64 * math.log(2))
        assert result["bits_per_dim"] == pytest.approx(bits, abs=1e-5)


def test_the_percentile_is_the_cards(score: Any, model_store: Any) -> None:
    card = read_card(model_store / "tiny-vamp" / "10")
    percentiles = set()
    for result in score(0, 1, 2, 3, 4, num_samples=500):
        expected = log_likelihood_percentile(card, None, result["log_likelihood"], 500)
        assert result["percentile"] == pytest.approx(expected, abs=0.06)
        assert f"{result['percentile']:.0f} %" in result["summary"] or result["percentile"] in (0, 100)
        percentiles.add(result["percentile"])
    assert len(percentiles) > 1


def test_a_model_that_was_never_evaluated_has_no_percentile(score: Any) -> None:
    (result,) = score(0, model="tiny-normal")
    assert result["percentile"] is None
    assert "never evaluated" in result["summary"]


def test_a_score_beyond_every_test_image_says_so(
    serve: Any, save_model: Any, tmp_path: Path, pngs: list[bytes]
) -> None:
    save_model(tmp_path, "likely", "1", seed=1, quantiles={"probabilities": [0.0, 1.0], "values": [-9000.0, -8000.0]})
    save_model(tmp_path, "unlikely", "1", seed=1, quantiles={"probabilities": [0.0, 1.0], "values": [-2.0, -1.0]})
    with serve(model_store=tmp_path, default_model="likely") as service:
        likely, unlikely = (
            service.client.post(f"/loglik?model={name}&num_samples=500", files={"file": pngs[0]}).json()["results"][0]
            for name in ("likely", "unlikely")
        )
    assert (likely["percentile"], unlikely["percentile"]) == (100, 0)
    assert "More likely than every one" in likely["summary"]
    assert "Less likely than every one" in unlikely["summary"]


# refinement and precision


def test_a_refined_score_is_that_of_the_fitted_proposal(
    score: Any, expected: Any, load_model: Any, images: Any
) -> None:
    model, x = load_model("tiny-vamp@10"), torch.tensor(images[:1])
    bits = np.random.Philox(key=np.array([7, REFINEMENT], np.uint64))
    noise = np.random.Generator(bits).standard_normal((5, 1, DRAWS, model.noise_dim), dtype=np.float32)
    with torch.no_grad():
        mixture = model.prior_mixture()
        proposal = fit_proposal(model, x, torch.from_numpy(noise), mixture)
        context = tuple(part.unsqueeze(1) for part in model.condition(x))
        samples = seeded_noise(model, 700, 7)
        parts = proposal.log_px_and_kl(model, x.unsqueeze(1), context, samples, mixture)
    (result,) = score(0, num_samples=700, seed=7, refine=5, model="tiny-vamp")
    assert_is_score(result, LogLikelihood.from_samples(*parts))
    (plain,) = score(0, num_samples=700, seed=7, model="tiny-vamp")
    assert_is_score(plain, expected("tiny-vamp@10", images[0], num_samples=700, seed=7))
    assert plain["log_likelihood"] != result["log_likelihood"]


def test_a_refined_score_does_not_depend_on_its_company(score: Any) -> None:
    together = score(0, 1, 2, num_samples=100, refine=3)
    for index, result in enumerate(together):
        assert score(index, num_samples=100, refine=3) == [result]


def test_samples_double_until_the_precision_is_reached(score: Any) -> None:
    (coarse,) = score(0, precision=1000.0, num_samples=5000, refine=0)
    assert coarse["converged"] == (coarse["reliability"] == "good")
    assert coarse["converged"] == (coarse["num_samples"] < 5000)
    (fine,) = score(0, precision=0.01, num_samples=50_000)
    assert fine["num_samples"] in (512, 1024, 2048, 4096, 8192, 16_384, 32_768, 50_000)
    assert fine["converged"] == (fine["standard_error"] <= 0.01 and fine["pareto_k"] < 0.7)
    assert fine["converged"] or fine["num_samples"] == 50_000
    (never,) = score(0, precision=1e-9, num_samples=1500)
    assert (never["num_samples"], never["converged"]) == (1500, False)


def test_without_a_precision_nothing_has_converged(score: Any) -> None:
    (result,) = score(0, num_samples=50)
    assert (result["num_samples"], result["converged"]) == (50, None)


@pytest.mark.parametrize("query", ["refine=-1", "refine=201", "precision=0", "precision=nan", "precision=1001"])
def test_bad_refinements_and_precisions_are_refused(
    client: httpx.Client, pngs: list[bytes], problem: Any, query: str
) -> None:
    problem(client.post(f"/loglik?{query}", files={"file": pngs[0]}), 422, "bad-parameter")
