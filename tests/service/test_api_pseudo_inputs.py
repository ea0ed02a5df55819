from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch


@pytest.fixture
def gallery(client: httpx.Client) -> Any:
    """`GET /pseudo-inputs` as JSON, with these parameters."""

    def get(**parameters: Any) -> dict[str, Any]:
        response = client.get("/pseudo-inputs", params={"format": "json"} | parameters)
        assert response.status_code == 200, response.text
        body: dict[str, Any] = response.json()
        return body

    return get


def indices(body: dict[str, Any]) -> list[int]:
    return [item["index"] for item in body["pseudo_inputs"]]


@pytest.mark.parametrize("reference", ["tiny-vamp@10", "tiny-vamp@2", "tiny-colour@1"])
def test_the_gallery_shows_the_clamped_pseudo_inputs(
    client: httpx.Client, read_npy: Any, load_model: Any, reference: str
) -> None:
    free = load_model(reference).prior.free_inputs
    assert free.min() < 0 < 1 < free.max()
    shown = read_npy(client.get(f"/pseudo-inputs?format=npy&model={reference}").content)
    np.testing.assert_array_equal(shown, free.clamp(0, 1).numpy())


def test_the_gallery_numbers_and_weighs_them(gallery: Any) -> None:
    body = gallery()
    assert (body["total"], body["offset"], body["kind"]) == (6, 0, "pseudo-inputs")
    assert indices(body) == [0, 1, 2, 3, 4, 5]
    assert [item["weight"] for item in body["pseudo_inputs"]] == pytest.approx([1 / 6] * 6, abs=1e-7)


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ({"offset": 2}, [2, 3, 4, 5]),
        ({"limit": 2}, [0, 1]),
        ({"offset": 3, "limit": 2}, [3, 4]),
        ({"offset": 5, "limit": 1000}, [5]),
        ({"offset": 6}, []),
        ({"offset": 2**53 - 1}, []),
    ],
)
def test_pages(client: httpx.Client, gallery: Any, read_npy: Any, page: dict[str, int], expected: list[int]) -> None:
    whole = read_npy(client.get("/pseudo-inputs?format=npy").content)
    body = gallery(**page)
    assert (indices(body), body["total"], body["offset"]) == (expected, 6, page.get("offset", 0))
    images = read_npy(client.get("/pseudo-inputs", params=page | {"format": "npy"}).content)
    np.testing.assert_array_equal(images, whole[expected])


def test_there_is_no_sheet_of_no_images(client: httpx.Client, problem: Any) -> None:
    problem(client.get("/pseudo-inputs?offset=6&format=png"), 404, "pseudo-input-not-found")


def test_the_greatest_weight_comes_first_if_asked(gallery: Any, load_model: Any) -> None:
    weights = torch.softmax(load_model("tiny-colour@1").prior.logits, dim=0).numpy()
    by_index, by_weight = gallery(model="tiny-colour"), gallery(model="tiny-colour", sort="weight")
    for body in (by_index, by_weight):
        told = [item["weight"] for item in body["pseudo_inputs"]]
        np.testing.assert_allclose(told, weights[indices(body)], rtol=1e-5)
    assert indices(by_weight) == list(np.argsort(-weights)) != indices(by_index)
    assert indices(gallery(model="tiny-colour", sort="weight", offset=1, limit=2)) == indices(by_weight)[1:3]


def test_equal_weights_stay_in_the_order_of_their_numbers(gallery: Any) -> None:
    assert indices(gallery(sort="weight")) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("k", range(6))
def test_one_is_the_galleries(client: httpx.Client, gallery: Any, k: int) -> None:
    body = client.get(f"/pseudo-inputs/{k}?format=json").json()
    assert (body["total"], body["offset"]) == (6, k)
    assert body["pseudo_inputs"] == gallery()["pseudo_inputs"][k : k + 1]


@pytest.mark.parametrize("reference", ["tiny-vamp@10", "tiny-colour@1"])
def test_decoded_components_are_what_a_sample_without_noise_shows(
    client: httpx.Client, read_npy: Any, load_model: Any, reference: str
) -> None:
    model = load_model(reference)
    expected = model.sample(component=torch.arange(6), noise=torch.zeros(6, model.noise_dim))
    path = f"format=npy&view=decoded&model={reference}"
    shown = read_npy(client.get(f"/pseudo-inputs?{path}").content)
    np.testing.assert_allclose(shown, expected.numpy(), atol=1e-5)
    np.testing.assert_array_equal(read_npy(client.get(f"/pseudo-inputs/4?{path}").content), shown[4:5])


def test_each_view_is_cached_on_its_own(serve: Any) -> None:
    with serve() as service:
        answers = [
            service.client.get(f"/pseudo-inputs?format=json{view}")
            for view in ("", "&view=decoded", "&view=input", "&view=decoded")
        ]
    assert [answer.headers["x-cache"] for answer in answers] == ["miss", "miss", "hit", "hit"]
    assert answers[0].content == answers[2].content != answers[1].content == answers[3].content


@pytest.mark.parametrize("k", [6, 10**30])
def test_one_that_is_not_there(client: httpx.Client, problem: Any, k: int) -> None:
    assert "0 to 5" in problem(client.get(f"/pseudo-inputs/{k}"), 404, "pseudo-input-not-found")["detail"]


@pytest.mark.parametrize("k", ["-1", "first", "1.5"])
def test_one_that_is_no_number(client: httpx.Client, problem: Any, k: str) -> None:
    problem(client.get(f"/pseudo-inputs/{k}"), 422, "bad-parameter")


@pytest.mark.parametrize(("prior", "components"), [("standard", 1), ("mog", 6)])
def test_a_prior_without_pseudo_inputs_shows_its_components_decoded(
    serve: Any, save_model: Any, tmp_path: Path, read_npy: Any, prior: str, components: int
) -> None:
    save_model(tmp_path, "tiny", "1", seed=1, prior=prior, num_components=components)
    with serve(model_store=tmp_path, default_model="tiny") as service:
        body = service.client.get("/pseudo-inputs?format=json").json()
        shown = read_npy(service.client.get("/pseudo-inputs?format=npy").content)
        drawn = [
            read_npy(service.client.post(f"/sample?temperature=0&format=npy&seed={seed}").content)[0]
            for seed in range(3 * components)
        ]
        same = service.client.get("/pseudo-inputs?format=json&view=input").json()
        ones = [service.client.get(f"/pseudo-inputs/{k}?format=json").json() for k in range(components)]
        beyond = service.client.get(f"/pseudo-inputs/{components}").json()["detail"]
    assert (body["kind"], body["total"]) == ("decoded components", components)
    assert same == body
    assert [item["weight"] for item in body["pseudo_inputs"]] == pytest.approx([1 / components] * components)
    for image in drawn:
        assert np.abs(shown - image).max(axis=(1, 2, 3)).min() < 1e-6
    assert [item for one in ones for item in one["pseudo_inputs"]] == body["pseudo_inputs"]
    assert {one["kind"] for one in ones} == {"decoded components"}
    assert beyond == f"tiny@1 has components 0 to {components - 1}, none numbered {components}"


def test_a_png_is_stretched_to_white_unless_told_otherwise(
    client: httpx.Client, read_png: Any, read_npy: Any, as_gray: Any
) -> None:
    path = "/pseudo-inputs?model=tiny-normal"
    values = read_npy(client.get(f"{path}&format=npy").content)[0, 0]
    assert 0 < values.max() < 1
    stretched = read_png(client.get(path).content)
    np.testing.assert_array_equal(stretched, as_gray(values / values.max()))
    plain = read_png(client.get(f"{path}&stretch=false").content)
    np.testing.assert_array_equal(plain, as_gray(values))


def test_an_offset_that_no_json_reader_keeps_is_refused(client: httpx.Client, problem: Any) -> None:
    assert "offset" in str(problem(client.get("/pseudo-inputs", params={"offset": 10**30}), 422, "bad-parameter"))
