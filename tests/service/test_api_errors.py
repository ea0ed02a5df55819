"""Every status of the interface, from a real request to a real service."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

BAD_PARAMETERS = [
    ("POST", "/sample", "n", ["0", "-1", "257", "1.5", "many", ""]),
    ("POST", "/sample", "seed", ["-1", "9007199254740992", "x", "1e3"]),
    ("POST", "/sample", "pseudo_input", ["-1", "first", ""]),
    ("POST", "/sample", "temperature", ["-0.1", "10.1", "nan", "inf", "-inf", "1e999", "warm"]),
    ("POST", "/sample", "mode", ["median", "", "Mean"]),
    ("POST", "/sample", "format", ["gif", "PNG", ""]),
    ("POST", "/sample", "columns", ["0", "65", "-3"]),
    ("POST", "/sample", "scale", ["0", "17", "0.5"]),
    ("POST", "/reconstruct", "seed", ["-1", "9007199254740992"]),
    ("POST", "/reconstruct", "mode", ["median"]),
    ("POST", "/reconstruct", "resize", ["maybe", "2"]),
    ("POST", "/encode", "top", ["0", "101"]),
    ("POST", "/encode", "invert", ["maybe"]),
    ("POST", "/loglik", "num_samples", ["0", "-1", "100001", "1e9", "9" * 400]),
    ("POST", "/loglik", "seed", ["-1", "9007199254740992"]),
    ("GET", "/pseudo-inputs", "offset", ["-1", "x"]),
    ("GET", "/pseudo-inputs", "limit", ["0", "1001"]),
    ("GET", "/pseudo-inputs", "sort", ["name"]),
    ("GET", "/pseudo-inputs", "columns", ["65"]),
]


@pytest.mark.parametrize(
    ("method", "path", "name", "value"),
    [(method, path, name, value) for method, path, name, values in BAD_PARAMETERS for value in values],
)
def test_a_bad_parameter_is_named(
    client: httpx.Client, problem: Any, pngs: list[bytes], method: str, path: str, name: str, value: str
) -> None:
    files = {"files": {"file": pngs[0]}} if path in ("/reconstruct", "/encode", "/loglik") else {}
    body = problem(client.request(method, path, params={name: value}, **files), 422, "bad-parameter")
    assert name in body["detail"]
    assert body["instance"] == path


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/sample"), ("POST", "/encode"), ("GET", "/pseudo-inputs"), ("GET", "/pseudo-inputs/3")],
)
def test_a_misspelt_parameter_is_named(
    client: httpx.Client, problem: Any, pngs: list[bytes], method: str, path: str
) -> None:
    files = {"files": {"file": pngs[0]}} if path == "/encode" else {}
    body = problem(client.request(method, path, params={"psuedo_input": 42}, **files), 422, "bad-parameter")
    assert [error["parameter"] for error in body["errors"]] == ["psuedo_input"]


def test_of_a_repeated_parameter_the_last_counts(client: httpx.Client) -> None:
    response = client.post("/sample?n=2&n=3&format=npy")
    assert np.load(io.BytesIO(response.content)).shape[0] == 3


def test_all_bad_parameters_are_named_at_once(client: httpx.Client, problem: Any) -> None:
    body = problem(client.post("/sample?n=0&scale=99&format=gif"), 422, "bad-parameter")
    assert {error["parameter"] for error in body["errors"]} == {"n", "scale", "format"}


@pytest.mark.parametrize(
    "path", ["/nowhere", "/sample/1", "/pseudo-inputs/1/2", "/models/a/b", "/health", "/%00", "//"]
)
def test_a_path_that_is_not_there(client: httpx.Client, problem: Any, path: str) -> None:
    problem(client.get(f"http://{client.base_url.netloc.decode()}{path}"), 404, "not-found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/sample", "POST"),
        ("DELETE", "/models", "GET"),
        ("POST", "/pseudo-inputs", "GET"),
        ("PUT", "/loglik", "POST"),
    ],
)
def test_a_method_that_is_not_there(client: httpx.Client, problem: Any, method: str, path: str, allowed: str) -> None:
    response = client.request(method, path)
    problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == allowed


# keys and limits


@pytest.fixture(scope="module")
def guarded(serve: Any) -> Iterator[httpx.Client]:
    with serve(api_keys="one,two", rate_limit="5/hour") as service:
        yield service.client


def test_without_a_key_nobody_enters(guarded: httpx.Client, problem: Any) -> None:
    for headers in ({}, {"X-API-Key": "three"}):
        response = guarded.post("/sample", headers=headers)
        problem(response, 401, "unauthorized")
        assert response.headers["www-authenticate"]
    assert guarded.get("/docs").status_code == 200


def test_a_client_over_its_limit_waits(guarded: httpx.Client, problem: Any) -> None:
    answers = [guarded.post("/sample", headers={"X-API-Key": "one"}) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    problem(answers[-1], 429, "rate-limited")
    assert 0 < int(answers[-1].headers["retry-after"]) <= 3600
    assert guarded.post("/sample", headers={"X-API-Key": "two"}).status_code == 200
    assert guarded.get("/health/ready").status_code == 200


# a queue that is full


@pytest.fixture(scope="module")
def crowded(serve: Any) -> Iterator[Any]:
    """A service with room for one job more than the one that is held, and for 1,000 rows."""
    with serve(queue_length=2, queued_rows=1000, cache_memory_bytes=0) as service:
        yield service


CALLS = [("/sample", False), ("/reconstruct", True), ("/encode", True), ("/loglik?num_samples=7", True)]


@pytest.mark.parametrize(("path", "uploads"), CALLS)
def test_a_full_queue_refuses_and_recovers(
    crowded: Any, problem: Any, pngs: list[bytes], path: str, uploads: bool
) -> None:
    files = {"files": {"file": pngs[0]}} if uploads else {}
    with crowded.hold():
        waiting = crowded.send("/sample")
        crowded.until(lambda: crowded.queued() == 2)
        response = crowded.client.post(path, **files)
        problem(response, 503, "overloaded")
        assert int(response.headers["retry-after"]) >= 1
    with waiting:
        assert waiting.recv(12) == b"HTTP/1.1 200"
    assert crowded.client.post(path, **files).status_code == 200


def test_too_many_rows_are_refused_while_others_wait(crowded: Any, problem: Any, pngs: list[bytes]) -> None:
    score = "/loglik?num_samples=1000"
    with crowded.hold():
        problem(crowded.client.post(score, files={"file": pngs[0]}), 503, "overloaded")
        assert crowded.client.post("/models").status_code == 405  # the others still answer
    assert crowded.client.post(score, files={"file": pngs[0]}).status_code == 200


def test_a_request_that_no_queue_could_hold_is_not_told_to_try_again(
    crowded: Any, problem: Any, pngs: list[bytes]
) -> None:
    problem(crowded.client.post("/loglik?num_samples=1001", files={"file": pngs[0]}), 413, "too-large")
    three = [("file", png) for png in pngs[:3]]
    body = problem(crowded.client.post("/loglik?num_samples=2", files=three), 413, "too-large")
    assert body["detail"] == "3 images are more than this service queues, 2; send fewer at a time"


def test_a_refusal_of_one_image_leaves_none_of_the_others_behind(crowded: Any, problem: Any, pngs: list[bytes]) -> None:
    files = [("file", png) for png in pngs[:2]]
    with crowded.hold():
        problem(crowded.client.post("/loglik?num_samples=200", files=files), 503, "overloaded")
    crowded.until(lambda: crowded.queued() == crowded.metric("vampprior_queue_rows") == 0)


# a service that is not ready


def test_while_models_load_the_service_lives_but_is_not_ready(
    serve: Any, save_model: Any, problem: Any, pngs: list[bytes], tmp_path: Path
) -> None:
    weights = save_model(tmp_path, "slow", "1", seed=1) / "model.safetensors"
    payload = weights.read_bytes()
    weights.unlink()
    os.mkfifo(weights)  # whoever reads it waits for whoever writes it
    with serve(model_store=tmp_path, default_model="slow", ready=False) as service:
        for response in (
            service.client.get("/health/ready"),
            service.client.post("/sample"),
            service.client.post("/loglik", files={"file": pngs[0]}),
            service.client.get("/pseudo-inputs"),
            service.client.get("/models/slow"),
        ):
            problem(response, 503, "not-ready")
            assert int(response.headers["retry-after"]) >= 1
        assert service.client.get("/health/live").status_code == 200
        assert service.client.get("/docs").status_code == 200
        assert service.client.get("/models").json() == {"default": "slow", "loading": True, "models": []}
        weights.write_bytes(payload)
        service.until(lambda: service.client.get("/health/ready").status_code == 200)
        assert service.client.post("/sample").status_code == 200
        assert service.metric("vampprior_model_ready", model="slow@1") == 1


def test_a_service_without_its_default_model_is_not_ready_and_says_why(serve: Any, problem: Any) -> None:
    with serve(default_model="damaged", ready=False) as service:
        service.until(lambda: not service.client.get("/models").json()["loading"])
        assert "sha256" in problem(service.client.get("/health/ready"), 503, "not-ready")["detail"]
        assert "sha256" in problem(service.client.post("/sample"), 404, "model-not-found")["detail"]
        assert service.client.post("/sample?model=tiny-vamp").status_code == 200


def test_a_store_that_is_not_there(serve: Any, problem: Any, tmp_path: Path) -> None:
    with serve(model_store=tmp_path / "nowhere", ready=False) as service:
        service.until(lambda: not service.client.get("/models").json()["loading"])
        assert "tiny-vamp" in problem(service.client.get("/health/ready"), 503, "not-ready")["detail"]
        assert "tiny-vamp" in problem(service.client.post("/sample"), 404, "model-not-found")["detail"]


# a deadline that passes


@pytest.fixture(scope="module")
def hasty(serve: Any) -> Iterator[Any]:
    settings = {"deadline_seconds": 0.2, "max_num_samples": 10**9, "queued_rows": 10**9}
    with serve(**settings, cache_memory_bytes=0, ready=True) as service:
        yield service


@pytest.mark.parametrize(("path", "uploads"), CALLS)
def test_the_deadline_covers_the_wait(hasty: Any, problem: Any, pngs: list[bytes], path: str, uploads: bool) -> None:
    with hasty.hold():
        body = problem(
            hasty.client.post(path, **({"files": {"file": pngs[0]}} if uploads else {})), 504, "deadline-exceeded"
        )
    assert "0.2 seconds" in body["detail"]
    hasty.until(lambda: hasty.queued() == 0)


def test_the_deadline_covers_the_computation(hasty: Any, problem: Any, pngs: list[bytes]) -> None:
    response = hasty.client.post("/loglik?num_samples=1000000000", files={"file": pngs[0]})
    problem(response, 504, "deadline-exceeded")
    hasty.until(lambda: hasty.queued() == hasty.metric("vampprior_queue_rows") == 0)


def test_the_deadline_covers_an_upload_that_never_ends(hasty: Any) -> None:
    with hasty.send("/encode", b"\x89PNG", length=1000) as connection:
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 504")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["type"] == "/problems/deadline-exceeded"
