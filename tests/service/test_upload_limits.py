"""What uploads may take of the process: bytes held, pixels being decoded, and time after the client has left."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service.errors import Overloaded
from service.http.budget import Budget
from service.http.json_images import read_json_images
from service.http.uploads import UploadReader
from service.images import encode_png, fit_to_model
from service.settings import Settings
from vampprior import Card, ModelConfig

CARD = Card("tiny", "1", ModelConfig(image_shape=(1, 8, 8)))
PNG = {"Content-Type": "image/png"}
LARGE = encode_png(np.random.default_rng(0).random((1, 100, 100)))


@pytest.fixture(scope="module")
def bounded(serve: Any) -> Iterator[Any]:
    """A service that holds 40,000 bytes of bodies, and decodes 30,000 pixels at once and 25,000 per request."""
    limits = {"held_body_bytes": 40_000, "decoding_pixels": 30_000, "max_request_pixels": 25_000}
    with serve(max_body_bytes=40_000, max_image_pixels=20_000, cache_memory_bytes=0, **limits) as service:
        yield service


@pytest.fixture
def uploads(bounded: Any) -> UploadReader:
    reader: UploadReader = bounded.app.state.service.uploads
    return reader


# the budget


def test_a_budget_gives_out_no_more_than_it_has() -> None:
    budget = Budget(10, "full")
    budget.take(4)
    with budget.hold(6), pytest.raises(Overloaded, match="full"):
        budget.take(1)
    budget.take(6)
    assert budget.used == 10


def test_what_was_held_is_given_back_after_an_error() -> None:
    budget = Budget(10, "full")
    with pytest.raises(KeyError), budget.hold(6):
        raise KeyError
    assert budget.used == 0


# bytes of bodies


def test_bodies_beyond_what_the_process_holds_are_answered_503(
    bounded: Any, uploads: UploadReader, problem: Any
) -> None:
    with uploads.body_bytes.hold(40_000 - len(LARGE)):
        assert bounded.client.post("/encode?resize=true", content=LARGE, headers=PNG).status_code == 200
    with uploads.body_bytes.hold(40_001 - len(LARGE)):
        response = bounded.client.post("/encode?resize=true", content=LARGE, headers=PNG)
        problem(response, 503, "overloaded")
        assert int(response.headers["retry-after"]) > 0
    assert uploads.body_bytes.used == 0


def test_half_sent_bodies_are_held_until_their_clients_leave(bounded: Any, uploads: UploadReader, problem: Any) -> None:
    connections = [bounded.send("/encode", bytes(19_000), length=20_000) for _ in range(2)]
    bounded.until(lambda: uploads.body_bytes.used == 38_000)
    problem(bounded.client.post("/encode?resize=true", content=LARGE, headers=PNG), 503, "overloaded")
    for connection in connections:
        connection.close()
    bounded.until(lambda: uploads.body_bytes.used == 0)
    assert bounded.client.post("/encode?resize=true", content=LARGE, headers=PNG).status_code == 200


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (LARGE, "image/png"),
        (LARGE[:-9], "image/png"),
        (b"", "image/png"),
        (b"x" * 5000, "image/png"),
        (b"x" * 5000, "text/plain"),
        (b"x" * 5000, "application/json"),
        (b"x" * 5000, "multipart/form-data; boundary=X"),
        (b"x" * 50_000, "image/png"),
    ],
)
def test_nothing_is_held_after_the_answer(bounded: Any, uploads: UploadReader, content: bytes, media_type: str) -> None:
    bounded.client.post("/encode?resize=true", content=content, headers={"Content-Type": media_type})
    assert (uploads.body_bytes.used, uploads.pixels.used) == (0, 0)


# pixels


def test_pixels_beyond_what_the_process_decodes_are_answered_503(
    bounded: Any, uploads: UploadReader, problem: Any
) -> None:
    files = [("file", LARGE)] * 2  # decoded one after another, so only one of them counts
    with uploads.pixels.hold(20_000):
        assert bounded.client.post("/encode?resize=true", files=files).status_code == 200
    with uploads.pixels.hold(20_001):
        response = bounded.client.post("/encode?resize=true", files=files)
        problem(response, 503, "overloaded")
        assert int(response.headers["retry-after"]) > 0
    assert uploads.pixels.used == 0


def test_the_pixels_of_a_request_are_bounded_together(bounded: Any, problem: Any) -> None:
    files = [("file", LARGE)] * 3
    body = problem(bounded.client.post("/encode?resize=true", files=files), 413, "too-large")
    assert "30000 pixels" in body["detail"]
    assert "25000" in body["detail"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_wrong_size_is_refused_before_any_pixel_is_decoded(
    bounded: Any, problem: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (100, 90)).save(buffer, kind)
    decoded = []
    monkeypatch.setattr("service.images.pixels.OpenedImage.decode", lambda image: decoded.append(image))
    body = problem(bounded.client.post("/encode", files={"file": buffer.getvalue()}), 422, "wrong-size")
    assert "100 x 90" in body["detail"]
    assert decoded == []


# clients that leave


class Leaving:
    """Holds the decoding thread after the first image until it is told to go on."""

    def __init__(self) -> None:
        self.decoded = 0
        self.reached, self.go_on = threading.Event(), threading.Event()

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.decoded += 1
        self.reached.set()
        assert self.go_on.wait(60)
        return fit_to_model(*arguments, **options)


def request_of(content: bytes, media_type: str) -> Any:
    async def stream() -> AsyncIterator[bytes]:
        yield content

    return SimpleNamespace(headers={"content-type": media_type}, stream=stream)


def test_decoding_stops_after_the_image_during_which_the_request_was_cancelled(
    monkeypatch: pytest.MonkeyPatch, pngs: list[bytes]
) -> None:
    leaving = Leaving()
    monkeypatch.setattr("service.images.target.fit_to_model", leaving)
    content = httpx.Request("POST", "http://x", files=[("file", png) for png in pngs])
    reader = UploadReader(Settings())

    async def scenario() -> None:
        request = request_of(content.read(), content.headers["content-type"])
        reading = asyncio.create_task(reader.read(request, CARD, resize=False, invert=False))
        assert await asyncio.to_thread(leaving.reached.wait, 60)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert reader.body_bytes.used > 0  # the thread still works on the body
        assert reader.pixels.used == 64

    try:
        asyncio.run(scenario())
    finally:
        leaving.go_on.set()
    reader._threads.shutdown(wait=True)
    assert leaving.decoded == 1
    assert (reader.body_bytes.used, reader.pixels.used) == (0, 0)


def test_parsing_of_a_form_stops_after_the_piece_during_which_the_request_was_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reached, go_on, pieces = threading.Event(), threading.Event(), []

    def wait(_: Any, piece: bytes) -> None:
        pieces.append(piece)
        reached.set()
        assert go_on.wait(60)

    monkeypatch.setattr("service.http.forms.MultipartParser.write", wait)
    reader = UploadReader(Settings())

    async def scenario() -> None:
        request = request_of(bytes(1_000_000), "multipart/form-data; boundary=X")
        reading = asyncio.create_task(reader.read(request, CARD, resize=False, invert=False))
        assert await asyncio.to_thread(reached.wait, 60)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    try:
        asyncio.run(scenario())
    finally:
        go_on.set()
    reader._threads.shutdown(wait=True)
    assert len(pieces) == 1
    assert reader.body_bytes.used == 0


def test_a_hang_up_stops_decoding(bounded: Any, uploads: UploadReader, monkeypatch: pytest.MonkeyPatch) -> None:
    leaving = Leaving()
    monkeypatch.setattr("service.images.target.fit_to_model", leaving)
    request = httpx.Request("POST", "http://x", files=[("file", LARGE)] * 2)
    connection: socket.socket = bounded.send(
        "/encode?resize=true", request.read(), media_type=request.headers["content-type"]
    )
    try:
        assert leaving.reached.wait(60)
        before = bounded.metric("vampprior_http_requests_total", route="/encode", status="499")
        connection.close()
        bounded.until(lambda: bounded.metric("vampprior_http_requests_total", route="/encode", status="499") > before)
    finally:
        leaving.go_on.set()
    bounded.until(lambda: uploads.body_bytes.used == 0)
    assert leaving.decoded == 1


def test_a_large_json_body_is_parsed_beside_the_event_loop(bounded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def noting(*arguments: Any, **options: Any) -> Any:
        threads.append(threading.current_thread().name)
        return read_json_images(*arguments, **options)

    monkeypatch.setattr("service.http.uploads.read_json_images", noting)
    headers = {"Content-Type": "application/json"}
    for size in (1000, 10_000):
        body = json.dumps({"images": ["x"]}).encode()
        bounded.client.post("/encode", content=body.ljust(size), headers=headers)
    assert [name.startswith("decode") for name in threads] == [False, True]


# formats


def test_a_format_that_the_settings_exclude_is_answered_415(serve: Any, problem: Any, pngs: list[bytes]) -> None:
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "JPEG")
    with serve(image_formats="png,webp") as service:
        for media_type in ("image/jpeg", "image/png", "application/octet-stream"):
            headers = {"Content-Type": media_type}
            response = service.client.post("/encode", content=buffer.getvalue(), headers=headers)
            assert "PNG or WebP" in problem(response, 415, "unsupported-media-type")["detail"]
            assert service.client.post("/encode", content=pngs[0], headers=headers).status_code == 200


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_bytes_decide_the_format_and_not_the_declared_type(bounded: Any, kind: str) -> None:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), 99).save(buffer, kind)
    answers = []
    for media_type in ("image/png", "image/jpeg", "image/webp", "application/octet-stream"):
        response = bounded.client.post("/encode", content=buffer.getvalue(), headers={"Content-Type": media_type})
        answers.append((response.status_code, response.content))
        files = {"file": ("image", buffer.getvalue(), media_type)}
        assert bounded.client.post("/encode", files=files).status_code == 200
    assert answers == [(200, answers[0][1])] * 4
