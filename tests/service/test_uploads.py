"""How images come in: form, raw body, JSON; and what is wrong with those that cannot be used."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from service.images import encode_png, fit_to_model

PATHS = ["/reconstruct?format=json", "/loglik?num_samples=9", "/encode"]
FORM = "multipart/form-data; boundary=X"


def part(name: str, value: str, *headers: str) -> str:
    return "\r\n".join(["--X", f'Content-Disposition: form-data; name="{name}"', *headers, "", value, ""])


def text(png: bytes, prefix: str = "") -> str:
    return prefix + base64.b64encode(png).decode()


@pytest.fixture
def post(client: httpx.Client) -> Any:
    """The JSON answer to a request, without the names of its files."""

    def request(path: str, **options: Any) -> Any:
        response = client.post(path, **options)
        assert response.status_code == 200, response.text
        body = response.json()
        for result in body.get("results", []):
            del result["file"]
        return body

    return request


@pytest.mark.parametrize("path", PATHS)
def test_an_image_gives_one_answer_however_it_comes(post: Any, pngs: list[bytes], path: str) -> None:
    expected = post(path, files={"file": pngs[0]})
    for media_type in ("image/png", "application/octet-stream", "IMAGE/PNG; charset=binary"):
        assert post(path, content=pngs[0], headers={"Content-Type": media_type}) == expected
    for prefix in ("", "data:image/png;base64,"):
        assert post(path, json={"images": [text(pngs[0], prefix)]}) == expected


@pytest.mark.parametrize("path", PATHS)
def test_several_images_give_one_answer_however_they_come(post: Any, pngs: list[bytes], path: str) -> None:
    expected = post(path, files=[("file", png) for png in pngs])
    assert post(path, json={"images": [text(png) for png in pngs]}) == expected
    assert len(expected.get("results", expected.get("images"))) == 5


def test_other_form_fields_are_passed_over(post: Any, pngs: list[bytes]) -> None:
    expected = post("/encode", files={"file": pngs[0]})
    assert post("/encode", files=[("other", b"?"), ("file", pngs[0])], data={"comment": "mine"}) == expected


def test_results_are_named_after_their_files(client: httpx.Client, pngs: list[bytes]) -> None:
    names = ["zwei.png", "ünï/../代.png", 'a"b.png']
    body = client.post("/encode", files=[("file", (name, png)) for name, png in zip(names, pngs, strict=False)]).json()
    assert [result["file"] for result in body["results"]][:2] == names[:2]
    body = client.post("/encode", json={"images": [text(png) for png in pngs[:2]]}).json()
    assert [result["file"] for result in body["results"]] == ["image 0", "image 1"]


# images that do not fit


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 8, 9), (3, 16, 16), (1, 1, 1)])
def test_a_wrong_size_is_refused_and_resized_if_asked(
    client: httpx.Client, problem: Any, shape: tuple[int, int, int]
) -> None:
    png = encode_png(np.random.default_rng(0).random(shape).astype(np.float32))
    body = problem(client.post("/encode", files={"file": png}), 422, "wrong-size")
    for hint in (f"{shape[2]} x {shape[1]}", "8 x 8", "resize=true", "invert=true"):
        assert hint in body["detail"]
    assert client.post("/encode?resize=true", files={"file": png}).status_code == 200


def test_resizing_averages_over_areas(post: Any, images: Any, pngs: list[bytes]) -> None:
    large = encode_png(images[0].repeat(3, axis=-1).repeat(3, axis=-2))
    assert post("/encode?resize=true", files={"file": large}) == post("/encode", files={"file": pngs[0]})


@pytest.mark.parametrize(("size", "noise", "apart"), [(12, 255, False), (64, 0, False), (65, 0, True), (64, 255, True)])
def test_images_that_take_long_to_decode_are_decoded_beside_the_event_loop(
    size: int, noise: int, apart: bool, post: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def noting(*arguments: Any, **options: Any) -> Any:
        threads.append(threading.current_thread().name)
        return fit_to_model(*arguments, **options)

    monkeypatch.setattr("service.images.target.fit_to_model", noting)
    image = np.random.default_rng(0).integers(0, noise + 1, (1, size, size)) / 256
    post("/encode?resize=true", files={"file": encode_png(image)})
    assert [name.startswith("decode") for name in threads] == [apart]


def test_inverting_swaps_dark_and_light(post: Any, images: Any, pngs: list[bytes]) -> None:
    negative = encode_png(1 - images[0])
    assert post("/encode?invert=true", files={"file": negative}) == post("/encode", files={"file": pngs[0]})
    assert post("/encode", files={"file": negative}) != post("/encode", files={"file": pngs[0]})


# what cannot be read


BAD_REQUESTS = {
    "no body": (None, b"", 415, "unsupported-media-type"),
    "another type": ("text/plain", b"hello", 415, "unsupported-media-type"),
    "another image type": ("image/gif", b"GIF89a", 415, "unsupported-media-type"),
    "a truncated jpeg": ("image/jpeg", b"\xff\xd8\xff", 422, "bad-image"),
    "a truncated webp": ("image/webp", b"RIFF\0\0\0\0WEBPVP8L", 422, "bad-image"),
    "an urlencoded form": ("application/x-www-form-urlencoded", b"file=x", 415, "unsupported-media-type"),
    "an empty body": ("image/png", b"", 422, "bad-parameter"),
    "not a png": ("image/png", b"GIF89a", 415, "unsupported-media-type"),
    "a truncated png": ("image/png", b"\x89PNG\r\n\x1a\n", 422, "bad-image"),
    "a form without boundary": ("multipart/form-data", b"--X\r\n", 422, "bad-parameter"),
    "an empty form": (FORM, b"", 422, "bad-parameter"),
    "a form of nothing": (FORM, b"--X--\r\n", 422, "bad-parameter"),
    "a form without the file": (FORM, part("other", "x").encode() + b"--X--\r\n", 422, "bad-parameter"),
    "text in the file": (FORM, part("file", "x").encode() + b"--X--\r\n", 422, "bad-parameter"),
    "a form that stops": (FORM, part("file", "x", "Content-Type: image/png").encode(), 422, "bad-parameter"),
    "a form of noise": (FORM, b"\x00\xff" * 50, 422, "bad-parameter"),
    "a header of noise": (FORM, b"--X\r\n\xff\xfe: ;;=\r\n\r\nx\r\n--X--\r\n", 422, "bad-parameter"),
    "a field of a megabyte": (FORM, part("other", "x" * 2**21).encode() + b"--X--\r\n", 422, "bad-parameter"),
    "half a json": ("application/json", b'{"images": [', 422, "bad-parameter"),
    "json of bytes": ("application/json", b"\xff\xfe", 422, "bad-parameter"),
    "a json list": ("application/json", b"[]", 422, "bad-parameter"),
    "deep json": ("application/json", b"[" * 100_000, 422, "bad-parameter"),
    "json without images": ("application/json", b"{}", 422, "bad-parameter"),
    "json with more": ("application/json", b'{"images": [], "seed": 3}', 422, "bad-parameter"),
    "json of no images": ("application/json", b'{"images": []}', 422, "bad-parameter"),
    "json of numbers": ("application/json", b'{"images": [1]}', 422, "bad-parameter"),
    "no base64": ("application/json", b'{"images": ["!!!"]}', 422, "bad-parameter"),
    "base64 that stops": ("application/json", b'{"images": ["abc"]}', 422, "bad-parameter"),
    "base64 of umlauts": ("application/json", '{"images": ["ü"]}'.encode(), 422, "bad-parameter"),
    "base64 of nothing": ("application/json", b'{"images": [""]}', 422, "bad-image"),
    "base64 of text": ("application/json", b'{"images": ["aGVsbG8="]}', 415, "unsupported-media-type"),
    "a data url without base64": ("application/json", b'{"images": ["data:text/plain,x"]}', 422, "bad-parameter"),
}


@pytest.mark.parametrize("path", ["/reconstruct", "/loglik", "/encode"])
@pytest.mark.parametrize(("media_type", "body", "status", "slug"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_body_that_cannot_be_read_is_the_clients_fault(
    client: httpx.Client, problem: Any, path: str, media_type: str | None, body: bytes, status: int, slug: str
) -> None:
    headers = {} if media_type is None else {"Content-Type": media_type}
    problem(client.post(path, content=body, headers=headers), status, slug)


def test_a_bad_image_among_good_ones_is_named(client: httpx.Client, problem: Any, pngs: list[bytes]) -> None:
    files = [("file", ("good.png", pngs[0])), ("file", ("bad.png", pngs[1][:-5])), ("file", ("worse.png", b""))]
    assert "bad.png" in problem(client.post("/loglik", files=files), 422, "bad-image")["detail"]
    body = problem(client.post("/loglik", json={"images": [text(pngs[0]), "?"]}), 422, "bad-parameter")
    assert "images[1]" in body["detail"]


# what is too large


@pytest.fixture(scope="module")
def narrow(serve: Any) -> Iterator[httpx.Client]:
    """A service that takes little: 2 images of 100 pixels in 4,000 bytes."""
    with serve(max_images=2, max_image_pixels=100, max_body_bytes=4000, max_num_samples=100) as service:
        yield service.client


def test_what_is_just_small_enough_is_taken(narrow: httpx.Client, pngs: list[bytes]) -> None:
    assert narrow.post("/loglik?num_samples=100", files=[("file", png) for png in pngs[:2]]).status_code == 200
    tall = encode_png(np.zeros((1, 50, 2), np.float32))
    assert narrow.post("/encode?resize=true", files={"file": tall}).status_code == 200
    body = json.dumps({"images": [text(pngs[0])]}).encode()
    headers = {"Content-Type": "application/json"}
    assert narrow.post("/encode", content=body.ljust(4000), headers=headers).status_code == 200


@pytest.mark.parametrize("count", [3, 4])
def test_too_many_images(narrow: httpx.Client, problem: Any, pngs: list[bytes], count: int) -> None:
    few = [pngs[0]] * count
    for options in ({"files": [("file", png) for png in few]}, {"json": {"images": [text(png) for png in few]}}):
        assert " 2" in problem(narrow.post("/encode", **options), 413, "too-large")["detail"]


def test_too_many_pixels(narrow: httpx.Client, problem: Any) -> None:
    wide = encode_png(np.zeros((1, 1, 101), np.float32))
    body = problem(narrow.post("/encode?resize=true", files={"file": wide}), 413, "too-large")
    assert "101 x 1" in body["detail"]


def test_too_many_samples(narrow: httpx.Client, problem: Any, pngs: list[bytes]) -> None:
    answer = narrow.post("/loglik", files={"file": pngs[0]})
    assert (answer.status_code, answer.json()["num_samples"]) == (200, 100)  # the usual default would be too many
    problem(narrow.post("/loglik?num_samples=101", files={"file": pngs[0]}), 422, "bad-parameter")


@pytest.mark.parametrize("media_type", ["image/png", "application/json", FORM])
@pytest.mark.parametrize("size", [4001, 100_000])
def test_too_many_bytes(narrow: httpx.Client, problem: Any, media_type: str, size: int) -> None:
    headers = {"Content-Type": media_type}
    start = (part("file", "", "Content-Type: image/png").encode() if media_type == FORM else b"").rstrip()
    body = start + b"\r\n\r\n" + b"x" * (size - 4 - len(start))
    declared = narrow.post("/encode", content=body, headers=headers)
    assert "4000 bytes" in problem(declared, 413, "too-large")["detail"]
    chunked = narrow.post("/encode", content=(body[i : i + 500] for i in range(0, size, 500)), headers=headers)
    assert "transfer-encoding" in chunked.request.headers
    assert "4000 bytes" in problem(chunked, 413, "too-large")["detail"]
