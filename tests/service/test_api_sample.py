from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch


@pytest.fixture
def sample(client: httpx.Client, read_npy: Any) -> Any:
    """Images (n, C, H, W) of `POST /sample` with these parameters."""

    def draw(**parameters: Any) -> Any:
        response = client.post("/sample", params={"format": "npy"} | parameters)
        assert response.status_code == 200, response.text
        return read_npy(response.content)

    return draw


@pytest.fixture(scope="module")
def component_images(load_model: Any) -> Any:
    """The images (K, C, H, W) of a model's components, decoded at the means of the latents."""

    @torch.inference_mode()
    def decode(reference: str) -> Any:
        model = load_model(reference)
        mixture = model.prior_mixture()
        top = mixture.component(torch.arange(len(mixture.mean)))
        return model.mean_image(model.ancestral_sample(top, torch.zeros(len(mixture.mean), model.noise_dim))).numpy()

    return decode


WAYS = [{}, {"pseudo_input": 2}, {"mode": "draw"}, {"temperature": 0.3}, {"model": "tiny-normal"}]


@pytest.mark.parametrize("way", WAYS)
def test_a_seed_gives_the_same_images_again_and_another_seed_others(sample: Any, way: dict[str, Any]) -> None:
    first, again, other = sample(n=4, seed=1, **way), sample(n=4, seed=1, **way), sample(n=4, seed=2, **way)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("way", WAYS)
def test_an_image_does_not_depend_on_how_many_come_with_it(sample: Any, way: dict[str, Any]) -> None:
    many = sample(n=256, seed=5, **way)
    for n in (1, 2, 15, 16, 17, 100):
        np.testing.assert_array_equal(sample(n=n, seed=5, **way), many[:n])
    assert len(np.unique(many, axis=0)) == 256


def test_without_a_seed_the_answer_names_one_that_repeats_it(client: httpx.Client) -> None:
    first, second = client.post("/sample?n=3"), client.post("/sample?n=3")
    assert first.headers["x-seed"] != second.headers["x-seed"]
    assert first.content != second.content
    for response in (first, second):
        assert client.post(f"/sample?n=3&seed={response.headers['x-seed']}").content == response.content


@pytest.mark.parametrize(
    "body", [{"json": {"pseudo_input": 2}}, {"content": iter([b"pseudo_input=2"])}], ids=["json", "stream"]
)
def test_a_body_is_refused_since_its_parameters_would_go_unread(
    client: httpx.Client, problem: Any, body: dict[str, Any]
) -> None:
    refusal = problem(client.post("/sample?n=2", **body), 422, "bad-parameter")
    assert "/sample takes no body: its parameters go in the query string" in refusal["detail"]


@pytest.mark.parametrize("k", range(6))
def test_without_temperature_a_pseudo_input_has_one_image(sample: Any, component_images: Any, k: int) -> None:
    images = sample(pseudo_input=k, n=5, temperature=0)
    np.testing.assert_array_equal(images, images[:1].repeat(5, axis=0))
    np.testing.assert_allclose(images[0], component_images("tiny-vamp@10")[k], rtol=0, atol=1e-6)


def test_temperature_spreads_the_images(sample: Any) -> None:
    spread = [sample(pseudo_input=1, n=64, seed=1, temperature=t).std(axis=0).mean() for t in (0, 0.5, 1, 2)]
    assert spread[0] < 1e-6
    assert sorted(spread) == spread


@pytest.mark.parametrize("reference", ["tiny-vamp@10", "tiny-colour@1"])
def test_the_whole_prior_is_its_components_by_their_weights(
    client: httpx.Client, sample: Any, component_images: Any, reference: str
) -> None:
    gallery = client.get(f"/pseudo-inputs?format=json&model={reference}").json()["pseudo_inputs"]
    weights = np.array([item["weight"] for item in gallery])
    images = np.concatenate([sample(model=reference, n=256, seed=seed, temperature=0) for seed in range(4)])
    distance = np.abs(images[:, None] - component_images(reference)[None]).max(axis=(2, 3, 4))
    assert distance.min(axis=1).max() < 1e-5
    drawn = Counter(distance.argmin(axis=1).tolist())
    share = np.array([drawn[k] for k in range(6)]) / len(images)
    np.testing.assert_array_less(np.abs(share - weights), 4 * np.sqrt(weights * (1 - weights) / len(images)))


def test_drawn_pixels_are_black_or_white_and_mean_pixels_between(sample: Any) -> None:
    assert np.isin(sample(n=20, seed=1, mode="draw"), (0, 1)).all()
    means = sample(n=20, seed=1, mode="mean")
    assert ((means > 0) & (means < 1)).all()


def test_drawn_pixels_are_as_bright_as_their_mean_says(sample: Any) -> None:
    same = {"pseudo_input": 0, "temperature": 0}
    mean, drawn = sample(**same)[0], sample(**same, n=256, seed=1, mode="draw").mean(axis=0)
    np.testing.assert_array_less(np.abs(drawn - mean), 5 * np.sqrt(mean * (1 - mean) / 256))


def test_gray_levels_are_drawn_on_the_grid_of_bytes(sample: Any) -> None:
    levels = sample(model="tiny-colour", n=4, seed=1, mode="draw") * 256 - 0.5
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
    assert 0 <= levels.min() < 20 < 230 < levels.max() <= 255


def test_a_png_beyond_the_limit_is_refused_before_it_is_made(serve: Any, problem: Any, pngs: list[bytes]) -> None:
    with serve(max_answer_pixels=9 * 8 * 8) as service:
        client = service.client
        assert client.post("/sample?scale=3").status_code == 200
        assert client.post("/sample?n=256&scale=16&format=json").status_code == 200
        assert client.get("/pseudo-inputs/0?scale=3").status_code == 200
        for answer in (
            client.post("/sample?scale=4"),
            client.post("/sample?n=4&scale=2"),
            client.get("/pseudo-inputs?scale=2"),
            client.get("/pseudo-inputs/0?scale=4"),
            client.post("/reconstruct?scale=4", files={"file": pngs[0]}),
        ):
            assert "at most 576; lower `scale`" in problem(answer, 422, "bad-parameter")["detail"]


@pytest.mark.parametrize("k", [6, 7, 2**40])
def test_a_pseudo_input_that_is_not_there(client: httpx.Client, problem: Any, k: int) -> None:
    body = problem(client.post(f"/sample?pseudo_input={k}"), 404, "pseudo-input-not-found")
    assert "0 to 5" in body["detail"]


def test_a_prior_without_pseudo_inputs_says_what_to_do(client: httpx.Client, problem: Any) -> None:
    response = client.post("/sample?model=tiny-normal&pseudo_input=0")
    detail = problem(response, 404, "pseudo-input-not-found")["detail"]
    assert "no pseudo-inputs but 1 component, which GET /pseudo-inputs shows decoded" in detail
    assert "leave pseudo_input out" in detail
    assert client.post("/sample?model=tiny-normal").status_code == 200


def test_an_autoregressive_model_draws_its_pixels(
    serve: Any, save_model: Any, tmp_path: Path, read_npy: Any, pngs: list[bytes]
) -> None:
    save_model(tmp_path, "tiny-pixel", "1", seed=1, model="pixel_hvae")
    with serve(model_store=tmp_path, default_model="tiny-pixel", cache_memory_bytes=0) as service:

        def sample(**parameters: Any) -> Any:
            return read_npy(service.client.post("/sample", params={"format": "npy", "seed": 1} | parameters).content)

        many = sample(n=17)
        assert np.isin(many, (0, 1)).all()
        assert len(np.unique(many, axis=0)) == 17
        np.testing.assert_array_equal(sample(n=2), many[:2])
        np.testing.assert_array_equal(sample(n=17, mode="draw"), many)
        assert service.client.post("/reconstruct", files={"file": pngs[0]}).status_code == 200
        assert service.client.get("/pseudo-inputs").status_code == 200
