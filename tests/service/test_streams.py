"""Answers in parts: a line or an event per image, from a real service."""

from __future__ import annotations

import io
import json
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from service.images import encode_png

LINES = {"Accept": "application/x-ndjson"}
EVENTS = {"Accept": "text/event-stream"}
NPY = {"Content-Type": "application/x-npy"}


def npy_of(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=array.dtype.hasobject)
    return file.getvalue()


def random_images(count: int, seed: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 2, (count, 1, 8, 8), np.uint8) * np.uint8(255)


def files_of(images: NDArray[np.uint8]) -> list[Any]:
    return [("file", (f"{index}.png", encode_png(image / np.float32(255)))) for index, image in enumerate(images)]


def lines_of(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("application/x-ndjson")
    assert response.text.endswith("\n")
    return [json.loads(line) for line in response.text.splitlines()]


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    """Server-sent events in the form of lines."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = re.findall(r"event: (\w+)\ndata: (.*)\n\n", response.text)
    assert "".join(f"event: {name}\ndata: {data}\n\n" for name, data in events) == response.text
    return [{"event": name, **json.loads(data)} for name, data in events]


def scores_in_order(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The scores of a stream as the results of a plain answer; each image must have one."""
    scores = sorted((line for line in lines if line["event"] == "score"), key=lambda line: line["index"])
    assert [score["index"] for score in scores] == list(range(len(scores)))
    return [{name: value for name, value in score.items() if name not in ("event", "index")} for score in scores]


@pytest.fixture(scope="module")
def streaming(serve: Any) -> Iterator[Any]:
    """A service that caches nothing, with two workers for heavy work."""
    with serve(cache_memory_bytes=0, workers=2) as service:
        yield service


@pytest.mark.parametrize("headers", [LINES, EVENTS])
@pytest.mark.parametrize("path", ["/loglik?num_samples=700&seed=3", "/novelty?false_alarm_rate=0.3&seed=3"])
def test_a_stream_has_the_results_of_a_plain_answer(streaming: Any, path: str, headers: dict[str, str]) -> None:
    files = files_of(random_images(37))
    plain = streaming.client.post(path, files=files).json()
    answer = streaming.client.post(path, files=files, headers=headers)
    lines = lines_of(answer) if headers is LINES else events_of(answer)
    assert scores_in_order(lines) == plain.pop("results")
    done = lines[-1]
    assert (done.pop("event"), done.pop("num_images")) == ("done", 37)
    assert done == plain
    assert answer.headers["x-seed"] == "3"


@pytest.mark.parametrize(
    ("accept", "streams"),
    [
        ("application/x-ndjson", True),
        ("application/json;q=0.5, application/x-ndjson", True),
        ("application/json, application/x-ndjson;q=0.5", False),
        ("application/x-ndjson;q=0", False),
        ("application/x-ndjson;q=x", False),
        ("*/*", False),
        ("", False),
    ],
)
def test_accept_decides(streaming: Any, pngs: list[bytes], accept: str, streams: bool) -> None:
    answer = streaming.client.post("/loglik?num_samples=9", files={"file": pngs[0]}, headers={"Accept": accept})
    assert answer.headers["content-type"].startswith("application/x-ndjson" if streams else "application/json")


@pytest.mark.parametrize("kind", ["npy", "npz", "compressed"])
@pytest.mark.parametrize("dtype", [np.uint8, np.bool_, np.float32, np.float64, ">f4"])
def test_arrays_come_in(streaming: Any, kind: str, dtype: Any) -> None:
    levels = random_images(70)
    path = "/loglik?num_samples=9"
    expected = scores_in_order(lines_of(streaming.client.post(path, files=files_of(levels), headers=LINES)))
    array = levels if dtype == np.uint8 else (levels / 255).astype(dtype)
    media_type = "application/x-npy" if kind == "npy" else "application/zip"
    body = io.BytesIO()
    if kind == "npy":
        np.save(body, array[:, 0])
    elif kind == "npz":
        np.savez(body, labels=np.zeros(3), images=array)
    else:
        np.savez_compressed(body, array)
    headers = {**LINES, "Content-Type": media_type}
    scores = scores_in_order(lines_of(streaming.client.post(path, content=body.getvalue(), headers=headers)))
    assert [score.pop("file") for score in scores] == [f"image {index}" for index in range(70)]
    assert scores == [{name: value for name, value in score.items() if name != "file"} for score in expected]


@pytest.mark.parametrize("order", ["channels first", "channels last"])
def test_arrays_of_colours_are_inverted_like_files(streaming: Any, order: str) -> None:
    levels = np.random.default_rng(3).integers(0, 256, (3, 3, 8, 8), np.uint8)
    array = levels if order == "channels first" else np.ascontiguousarray(np.moveaxis(levels, 1, -1))
    path = "/loglik?num_samples=9&invert=true&model=tiny-colour"
    plain = streaming.client.post(path, content=npy_of(levels), headers=NPY).json()["results"]
    answer = streaming.client.post(path, content=npy_of(array), headers={**LINES, **NPY})
    assert scores_in_order(lines_of(answer)) == plain


def test_progress_shows_the_estimate_of_fewer_samples(streaming: Any, pngs: list[bytes]) -> None:
    files = [("file", png) for png in pngs[:2]]
    lines = lines_of(streaming.client.post("/loglik?num_samples=3000&progress=true", files=files, headers=LINES))
    plain = streaming.client.post("/loglik?num_samples=3000", files=files).json()["results"]
    for index in range(2):
        own = [line for line in lines if line.get("index") == index]
        assert [line["event"] for line in own] == ["progress", "progress", "progress", "score"]
        assert [line["num_samples"] for line in own] == [512, 1024, 2048, 3000]
        assert own[-1]["log_likelihood"] == plain[index]["log_likelihood"]
        alone = streaming.client.post("/loglik?num_samples=1024", files=files).json()["results"][index]
        assert own[1]["log_likelihood"] == alone["log_likelihood"]


def test_progress_changes_no_plain_answer(client: httpx.Client, pngs: list[bytes]) -> None:
    plain = client.post("/loglik?num_samples=700", files={"file": pngs[0]}).json()
    assert client.post("/loglik?num_samples=700&progress=true", files={"file": pngs[0]}).json() == plain


def test_with_fdr_the_last_line_decides_over_all(streaming: Any) -> None:
    images = random_images(60)
    images[::3] = 0  # blank ones, which are new
    plain = streaming.client.post("/novelty?fdr=0.3", files=files_of(images)).json()
    headers = {**LINES, **NPY}
    lines = lines_of(streaming.client.post("/novelty?fdr=0.3", content=npy_of(images), headers=headers))
    novel = [index for index, result in enumerate(plain["results"]) if result["novel"]]
    assert lines[-1]["novel"] == novel
    assert (lines[-1]["fdr"], lines[-1]["false_alarm_rate"]) == (0.3, None)
    for score, result in zip(scores_in_order(lines), plain["results"], strict=True):
        assert score["p_value"] == result["p_value"]
        assert {"novel", "summary"}.isdisjoint(score)


def test_an_error_in_the_middle_is_the_last_line(streaming: Any, pngs: list[bytes]) -> None:
    files = [("file", (f"{index}.png", pngs[0])) for index in range(150)]
    files[100] = ("file", ("broken.png", b"nonsense"))
    answer = streaming.client.post("/novelty", files=files, headers=LINES)
    *scores, last = lines_of(answer)
    assert len(scores_in_order(scores)) == 64  # the images before those that are decoded with the broken one
    assert (last.pop("event"), last["status"], last["type"]) == ("error", 415, "/problems/unsupported-media-type")
    assert last["detail"].startswith("broken.png: ")
    assert last["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("content", "media_type", "status", "slug"),
    [
        (b"", "application/x-npy", 422, "bad-image"),
        (b"nonsense", "application/x-npy", 422, "bad-image"),
        (npy_of(np.zeros((2, 9, 8), np.uint8)), "application/x-npy", 422, "bad-image"),
        (b"x", "text/plain", 415, "unsupported-media-type"),
        (b"", "image/png", 422, "bad-parameter"),
        (b"--X--\r\n", "multipart/form-data; boundary=X", 422, "bad-parameter"),
    ],
)
def test_an_error_at_the_start_has_its_status(
    streaming: Any, problem: Any, content: bytes, media_type: str, status: int, slug: str
) -> None:
    headers = {**LINES, "Content-Type": media_type}
    problem(streaming.client.post("/novelty", content=content, headers=headers), status, slug)


def test_an_error_of_the_engine_is_the_last_line(serve: Any, faults: Any) -> None:
    images = random_images(200)
    faults.poison = images[190].tobytes().hex()
    with serve() as service:
        lines = lines_of(service.client.post("/loglik?num_samples=9", content=npy_of(images), headers={**LINES, **NPY}))
    assert (lines[-1]["event"], lines[-1]["type"]) == ("error", "/problems/internal")
    assert {line["index"] for line in lines[:-1]} >= set(range(190 - 64))


def test_a_stream_has_bounds_of_its_own(serve: Any, problem: Any) -> None:
    body = npy_of(random_images(30))
    headers = {**LINES, **NPY}
    with serve(max_body_bytes=100, stream_bytes=len(body), held_stream_bytes=len(body), stream_images=30) as service:
        post = service.client.post
        assert len(lines_of(post("/novelty", content=body, headers=headers))) == 31
        problem(post("/novelty", content=body + b"x", headers=headers), 413, "too-large")
        problem(post("/novelty", content=iter([body, b"x"]), headers=headers), 413, "too-large")
        problem(post("/novelty", content=body, headers=NPY), 413, "too-large")
        problem(post("/encode", content=body, headers=headers), 413, "too-large")
    with serve(stream_images=29) as service:
        problem(service.client.post("/novelty", content=body, headers=headers), 413, "too-large")
        problem(service.client.post("/novelty", files=files_of(random_images(30)), headers=LINES), 413, "too-large")


def test_bodies_of_streams_are_held_within_a_bound(serve: Any, problem: Any) -> None:
    body = npy_of(random_images(100))
    headers = {**LINES, **NPY}
    with serve(stream_bytes=len(body), held_stream_bytes=len(body)) as service:
        budget = service.app.state.service.uploads.stream_bytes
        with service.hold():
            first = stream_to(service, "/novelty", body)
            service.until(lambda: service.queued() > 0)
            problem(service.client.post("/novelty", content=body, headers=headers), 503, "overloaded")
        first.close()
        service.until(lambda: budget.used == 0)
        assert len(lines_of(service.client.post("/novelty", content=body, headers=headers))) == 101


def stream_to(service: Any, path: str, body: bytes) -> socket.socket:
    """A connection on which a stream was asked for."""
    head = [f"POST {path} HTTP/1.1", "Host: test", "Content-Type: application/x-npy", f"Content-Length: {len(body)}"]
    connection: socket.socket = service.connect()
    connection.sendall("\r\n".join([*head, "Accept: application/x-ndjson"]).encode() + b"\r\n\r\n" + body)
    return connection


def computed(service: Any) -> float:
    """Rows of log-likelihoods and decisions that have been computed."""
    return sum(service.metric("vampprior_batch_rows_sum", operation=name) for name in ("score", "measure"))


@pytest.mark.parametrize("path", ["/loglik?num_samples=2000", "/novelty"])
def test_it_stops_when_the_client_leaves(serve: Any, path: str) -> None:
    with serve(cache_memory_bytes=0, workers=1) as service:
        images = random_images(5000)
        connection = stream_to(service, path, npy_of(images))
        received = bytearray()
        while b'"event":"score"' not in received:
            received += connection.recv(1000)
        connection.close()
        service.until(lambda: service.queued() == 0)
        service.until(lambda: service.metric("vampprior_http_requests_in_progress") == 1)  # that of the metrics
        before = computed(service)
        assert 0 < before < 5000 * (2000 if "loglik" in path else 16)
        assert service.client.post("/novelty", files=files_of(images[:1])).status_code == 200
        assert computed(service) - before <= 16
        assert service.app.state.service.uploads.stream_bytes.used == 0


@pytest.mark.slow
def test_a_client_that_does_not_read_holds_the_computation(serve: Any) -> None:
    """It may do so for longer than the deadline, which is that of an image."""
    with serve(cache_memory_bytes=0, send_seconds=600, deadline_seconds=5) as service:
        images = random_images(10_000)
        connection = service.connect()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = npy_of(images)
        head = "POST /novelty HTTP/1.1\r\nHost: test\r\nContent-Type: application/x-npy\r\nAccept: application/x-ndjson"
        connection.sendall(f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        seen: list[float] = []
        begin = time.monotonic()

        def stands_still() -> bool:
            seen.append(computed(service))
            stands = len(seen) > 50 and seen[-1] == seen[-50] > 0 and service.queued() == 0
            return stands and time.monotonic() - begin > service.settings.deadline_seconds

        service.until(stands_still)
        assert seen[-1] < 16 * 9000  # the buffers of the sockets hold the results of some
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)  # through 4 KB it would take minutes
        rest = bytearray()
        while not rest.endswith(b"0\r\n\r\n"):
            rest += connection.recv(1 << 16)
        assert rest.count(b'"event":"score"') == 10_000
        assert computed(service) == 16 * 10_000
        connection.close()


def test_the_deadline_is_that_of_an_image(serve: Any) -> None:
    with serve(cache_memory_bytes=0, deadline_seconds=2) as service:
        with service.hold():
            connection = stream_to(service, "/loglik?num_samples=9", npy_of(random_images(3)))
            file = connection.makefile("rb")
            answer = b"".join(iter(file.readline, b"0\r\n"))
        error = json.loads(re.findall(rb"\{.*\}", answer)[-1])
        assert (error["event"], error["status"]) == ("error", 504)
        assert re.search("2 seconds", error["detail"])
        connection.close()


def test_a_full_queue_makes_a_stream_wait(serve: Any) -> None:
    with serve(cache_memory_bytes=0, queued_rows=3000, workers=1) as service:
        body = npy_of(random_images(20))
        lines = lines_of(service.client.post("/loglik?num_samples=1000", content=body, headers={**LINES, **NPY}))
        assert len(scores_in_order(lines)) == 20
        answer = service.client.post("/loglik?num_samples=3001", content=body, headers={**LINES, **NPY})
        assert (answer.status_code, answer.json()["type"]) == (413, "/problems/too-large")


def test_what_a_stream_computes_is_cached(serve: Any, pngs: list[bytes]) -> None:
    with serve() as service:
        for path in ("/loglik?num_samples=50", "/novelty"):
            lines_of(service.client.post(path, files={"file": pngs[0]}, headers=LINES))
            before = computed(service)
            assert service.client.post(path, files={"file": pngs[0]}).headers["x-cache"] == "hit"
            lines_of(service.client.post(path, files={"file": pngs[0]}, headers=LINES))
            assert computed(service) == before
