from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest
import torch


@pytest.fixture
def encode(client: httpx.Client, pngs: list[bytes]) -> Any:
    """The results of `POST /encode` with all images and these parameters."""

    def post(**parameters: Any) -> list[dict[str, Any]]:
        response = client.post("/encode", params=parameters, files=[("file", png) for png in pngs])
        assert response.status_code == 200, response.text
        results: list[dict[str, Any]] = response.json()["results"]
        return results

    return post


@pytest.mark.parametrize("reference", ["tiny-vamp@10", "tiny-vamp@1", "tiny-normal@1"])
def test_the_posterior_is_the_models_own(encode: Any, load_model: Any, images: Any, reference: str) -> None:
    with torch.inference_mode():
        expected = load_model(reference).encode(torch.from_numpy(images))
    results = encode(model=reference)
    assert list(results[0]["posterior"]) == list(expected) == ["z2", "z1"]
    for layer, normal in expected.items():
        for moment in ("mean", "std"):
            told = [result["posterior"][layer][moment] for result in results]
            np.testing.assert_allclose(told, getattr(normal, moment).numpy(), rtol=0, atol=2e-6)


def test_components_are_the_most_responsible_ones(encode: Any, load_model: Any, images: Any) -> None:
    model = load_model("tiny-vamp@10")
    with torch.inference_mode():
        top = model.encode(torch.from_numpy(images))["z2"].mean
        expected = model.prior_mixture().responsibilities(top).numpy()
    for result, probabilities in zip(encode(top=3), expected, strict=True):
        assert [item["index"] for item in result["components"]] == list(np.argsort(-probabilities)[:3])
        told = [item["probability"] for item in result["components"]]
        np.testing.assert_allclose(told, np.sort(probabilities)[::-1][:3], rtol=0, atol=2e-6)


@pytest.mark.parametrize(("parameters", "named"), [({}, 5), ({"top": 1}, 1), ({"top": 6}, 6), ({"top": 100}, 6)])
def test_no_more_components_are_named_than_asked_for(encode: Any, parameters: dict[str, int], named: int) -> None:
    for result in encode(**parameters):
        assert len(result["components"]) == named
        total = sum(item["probability"] for item in result["components"])
        assert total == pytest.approx(1, abs=1e-5) if named == 6 else total <= 1


def test_a_standard_prior_has_one_component(encode: Any) -> None:
    assert encode(model="tiny-normal")[0]["components"] == [{"index": 0, "probability": 1}]
