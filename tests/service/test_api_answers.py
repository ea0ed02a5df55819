"""How answers look: format, contact sheets, headers."""

from __future__ import annotations

import re
from typing import Any

import httpx
import numpy as np
import pytest

CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"
PNG, JSON, NPY = "image/png", "application/json", "application/x-npy"

IMAGE_CALLS = [
    ("POST", "/sample?seed=3&n=5"),
    ("POST", "/sample?seed=3&n=5&mode=draw&pseudo_input=2"),
    ("POST", "/reconstruct"),
    ("GET", "/pseudo-inputs?limit=5&stretch=false"),
]
ALL_CALLS = [*IMAGE_CALLS, ("POST", "/loglik?num_samples=2"), ("POST", "/encode"), ("GET", "/pseudo-inputs/1")]


@pytest.fixture
def call(client: httpx.Client, pngs: list[bytes]) -> Any:
    """Makes a request, with five images where the path takes some; `params` come on top of the path's own."""

    def request(method: str, path: str, *, params: dict[str, Any] | None = None, **options: Any) -> httpx.Response:
        if path.startswith(("/reconstruct", "/loglik", "/encode")):
            options["files"] = [("file", png) for png in pngs]
        response = client.request(method, httpx.URL(path).copy_merge_params(params or {}), **options)
        assert response.status_code == 200, response.text
        return response

    return request


def numbers(body: dict[str, Any]) -> Any:
    """The pixel values of a JSON answer, (N, C, H, W)."""
    return body["images"] if "images" in body else [item["image"] for item in body["pseudo_inputs"]]


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, PNG),
        ("*/*", PNG),
        ("image/*", PNG),
        (CHROME, PNG),
        (JSON, JSON),
        ("Application/JSON", JSON),
        (f"{JSON}, */*", JSON),
        (f"{NPY}, {JSON}", NPY),
        (f"{PNG};q=0.5, {JSON}", JSON),
        (f"{JSON};q=0.5, {NPY};q=0.6, {PNG};q=0.4", NPY),
        (f"{PNG};q=0, */*", JSON),
        ("application/*", JSON),
        (f"text/html, {NPY};q=0.1", NPY),
    ],
)
@pytest.mark.parametrize(("method", "path"), IMAGE_CALLS)
def test_accept_chooses_the_format(call: Any, method: str, path: str, accept: str | None, media_type: str) -> None:
    headers = {} if accept is None else {"Accept": accept}
    assert call(method, path, headers=headers).headers["content-type"] == media_type


@pytest.mark.parametrize("accept", [PNG, JSON, NPY])
@pytest.mark.parametrize(("format_", "media_type"), [("png", PNG), ("json", JSON), ("npy", NPY)])
def test_format_wins_over_accept(call: Any, accept: str, format_: str, media_type: str) -> None:
    response = call("POST", "/sample", params={"format": format_}, headers={"Accept": accept})
    assert response.headers["content-type"] == media_type


@pytest.mark.parametrize(("method", "path"), IMAGE_CALLS)
def test_the_formats_tell_the_same_numbers(
    call: Any, read_png: Any, read_npy: Any, as_gray: Any, method: str, path: str
) -> None:
    exact = read_npy(call(method, path, headers={"Accept": NPY}).content)
    assert (exact.shape, exact.dtype) == ((5, 1, 8, 8), np.float32)
    body = call(method, path, headers={"Accept": JSON}).json()
    np.testing.assert_allclose(numbers(body), exact, rtol=0, atol=5.1e-7)
    sheet = read_png(call(method, path, headers={"Accept": PNG}).content)
    assert sheet.shape == (2 + 10, 2 + 5 * 10)
    for index, image in enumerate(exact):
        np.testing.assert_array_equal(sheet[2:10, 2 + 10 * index : 10 + 10 * index], as_gray(image[0]))


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize(("n", "columns", "rows"), [(5, 2, 3), (6, 2, 3), (3, 1, 3), (3, 64, 1)])
def test_a_contact_sheet_lays_images_out_in_rows(
    call: Any, read_png: Any, read_npy: Any, as_gray: Any, n: int, columns: int, rows: int, scale: int
) -> None:
    shown = {"seed": 1, "n": n, "columns": columns, "scale": scale}
    sheet = read_png(call("POST", "/sample", params=shown).content)
    images = as_gray(read_npy(call("POST", "/sample", params=shown | {"format": "npy"}).content)[:, 0])
    side, columns = 8 * scale, min(columns, n)
    assert sheet.shape == (2 + rows * (side + 2), 2 + columns * (side + 2))
    background = np.ones_like(sheet, dtype=bool)
    for index, image in enumerate(images):
        top, left = (2 + place * (side + 2) for place in divmod(index, columns))
        np.testing.assert_array_equal(
            sheet[top : top + side, left : left + side], np.kron(image, np.ones((scale,) * 2))
        )
        background[top : top + side, left : left + side] = False
    assert len(np.unique(sheet[background])) == 1


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/sample?seed=1&mode=draw"), ("GET", "/pseudo-inputs/3?stretch=false")]
)
@pytest.mark.parametrize("scale", [1, 4])
def test_one_image_has_no_margin(
    call: Any, read_png: Any, read_npy: Any, as_gray: Any, method: str, path: str, scale: int
) -> None:
    one = read_png(call(method, path, params={"scale": scale, "format": "png"}).content)
    values = read_npy(call(method, path, params={"format": "npy"}).content)
    np.testing.assert_array_equal(one, np.kron(as_gray(values[0, 0]), np.ones((scale, scale))))


def test_an_answer_can_be_sent_back(client: httpx.Client, call: Any) -> None:
    drawn = call("POST", "/sample?mode=draw").content
    assert client.post("/loglik?num_samples=2", files={"file": drawn}).status_code == 200


def test_colours_stay_colours(call: Any, read_png: Any, read_npy: Any, as_gray: Any) -> None:
    shown = {"model": "tiny-colour", "seed": 1, "n": 2}
    sheet = read_png(call("POST", "/sample", params=shown).content)
    images = read_npy(call("POST", "/sample", params=shown | {"format": "npy"}).content)
    assert images.shape == (2, 3, 8, 8)
    np.testing.assert_array_equal(sheet[2:10, 2:10], as_gray(images[0]).transpose(1, 2, 0))


@pytest.mark.parametrize("reference", ["tiny-vamp", "tiny-vamp@2", "tiny-colour@1"])
@pytest.mark.parametrize(("method", "path"), ALL_CALLS)
def test_every_answer_names_its_model(call: Any, method: str, path: str, reference: str) -> None:
    response = call(method, path, params={"model": reference}, headers={"Accept": JSON})
    name, _, version = reference.partition("@")
    named = (response.headers["x-model"], response.headers["x-model-version"])
    assert named == (name, version or "10")
    assert (response.json()["model"], response.json()["model_version"]) == named


@pytest.mark.parametrize(
    ("method", "path", "seed"),
    [
        ("POST", "/sample?seed=7", "7"),
        ("POST", "/sample?seed=9007199254740991", "9007199254740991"),
        ("POST", "/reconstruct?seed=7", "7"),
        ("POST", "/reconstruct", "0"),
        ("POST", "/loglik?seed=7&num_samples=2", "7"),
        ("POST", "/loglik?num_samples=2", "0"),
        ("POST", "/encode", None),
        ("GET", "/pseudo-inputs", None),
    ],
)
def test_an_answer_that_took_a_seed_names_it(call: Any, method: str, path: str, seed: str | None) -> None:
    response = call(method, path, headers={"Accept": JSON})
    assert response.headers.get("x-seed") == seed
    assert str(response.json().get("seed")) == str(seed)


@pytest.mark.parametrize(("method", "path"), ALL_CALLS)
def test_every_answer_has_a_request_id(call: Any, method: str, path: str) -> None:
    assert re.fullmatch("[0-9a-f]{32}", call(method, path).headers["x-request-id"])
    assert call(method, path, headers={"X-Request-ID": "mine"}).headers["x-request-id"] == "mine"
