"""An answer depends on its request alone: not on the replica, nor on what else the replica has to do."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from service.images import encode_png

# wide enough for matrix products to be blocked
WIDE = {"image_shape": (1, 28, 28), "z1_dim": 40, "z2_dim": 40, "hidden_dim": 300, "num_components": 50}


Requests = list[tuple[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def start(serve: Any, save_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Starts a replica: every one has the same model, and none caches."""
    store = tmp_path_factory.mktemp("wide")
    save_model(store, "wide", "1", seed=1, **WIDE)
    return lambda **settings: serve(model_store=store, default_model="wide", cache_memory_bytes=0, **settings)


@pytest.fixture(scope="module")
def replica(start: Any) -> Iterator[Any]:
    with start() as service:
        yield service


@pytest.fixture(scope="module")
def requests() -> Requests:
    """Requests of every kind and of many sizes."""
    digits = np.random.default_rng(0).integers(0, 2, (20, 1, 28, 28)).astype(np.float32)
    files = [("file", encode_png(digit)) for digit in digits]
    mixed: Requests = []
    for seed, n in enumerate((1, 3, 17, 64)):
        mixed.append((f"/sample?format=npy&seed={seed}&n={n}", {}))
        mixed.append((f"/sample?format=npy&seed={seed}&n={n}&pseudo_input={seed}&temperature=0.5", {}))
        mixed.append((f"/sample?format=npy&seed={seed}&n={n}&mode=draw", {}))
        mixed.append((f"/reconstruct?format=npy&seed={seed}", {"files": files[: n % 20]}))
        mixed.append((f"/reconstruct?format=npy&seed={seed}&mode=draw", {"files": files[seed : seed + 3]}))
        mixed.append((f"/encode?top={n}", {"files": files[: n % 20]}))
        mixed.append((f"/loglik?seed={seed}&num_samples={n}", {"files": files[seed : seed + 5]}))
        mixed.append((f"/loglik?seed={seed}&num_samples={500 + n}", {"files": files[seed : seed + 2]}))
    return mixed


def ask(service: Any, request: tuple[str, dict[str, Any]]) -> bytes:
    response = service.client.post(request[0], **request[1])
    assert response.status_code == 200, response.text
    assert response.headers.get("x-cache") == "miss"
    content: bytes = response.content
    return content


@pytest.fixture(scope="module")
def alone(replica: Any, requests: Requests) -> list[bytes]:
    """The answers to requests made one at a time."""
    return [ask(replica, request) for request in requests]


def test_another_replica_gives_the_same_bytes(start: Any, requests: Requests, alone: list[bytes]) -> None:
    with start() as other:
        for request, answer in zip(requests, alone, strict=True):
            assert ask(other, request) == answer, request[0]


def test_a_replica_with_more_workers_gives_the_same_bytes(start: Any, requests: Requests, alone: list[bytes]) -> None:
    with start(workers=3) as other, ThreadPoolExecutor(16) as pool:
        for request, answer in zip(requests, alone, strict=True):
            assert ask(other, request) == answer, request[0]
        together = list(pool.map(lambda request: ask(other, request), requests))
    for request, answer, expected in zip(requests, together, alone, strict=True):
        assert answer == expected, request[0]


@pytest.mark.parametrize("order", range(2))
def test_no_answer_depends_on_the_traffic_beside_it(
    replica: Any, requests: Requests, alone: list[bytes], order: int
) -> None:
    places = np.random.default_rng(order).permutation(len(requests))
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda place: ask(replica, requests[place]), places))
    for place, answer in zip(places, together, strict=True):
        assert answer == alone[place], requests[place][0]


def test_no_answer_depends_on_how_it_was_batched(replica: Any, requests: Requests, alone: list[bytes]) -> None:
    """All requests gather while the workers are held, so that they are batched as far as they can be."""
    with ThreadPoolExecutor(len(requests)) as pool:
        with replica.hold():
            pending = [pool.submit(ask, replica, request) for request in requests]
            replica.until(lambda: replica.queued() == len(requests))
        for request, answer, expected in zip(requests, pending, alone, strict=True):
            assert answer.result() == expected, request[0]


def test_no_image_depends_on_the_size_of_its_batch(replica: Any, read_npy: Any) -> None:
    many = read_npy(ask(replica, ("/sample?format=npy&seed=3&n=256", {})))
    for n in (1, 15, 16, 17, 100):
        few = read_npy(ask(replica, (f"/sample?format=npy&seed=3&n={n}", {})))
        np.testing.assert_array_equal(few, many[:n])
