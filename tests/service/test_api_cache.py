"""What the cache means to a client: the same bytes sooner, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CALLS = [
    ("POST", "/sample?seed=1&n=3"),
    ("POST", "/reconstruct"),
    ("POST", "/loglik?num_samples=9"),
    ("POST", "/encode"),
    ("GET", "/pseudo-inputs"),
    ("GET", "/pseudo-inputs/2"),
]
UPLOADS = ("/reconstruct", "/loglik", "/encode")


@pytest.fixture(scope="module")
def caching(serve: Any) -> Iterator[Any]:
    with serve() as service:
        yield service


def ask(service: Any, method: str, path: str, *pngs: bytes) -> tuple[str | None, bytes]:
    """Whether the answer came from the cache, and its body."""
    files = {"files": [("file", png) for png in pngs]} if path.startswith(UPLOADS) else {}
    response = service.client.request(method, path, **files)
    assert response.status_code == 200, response.text
    return response.headers.get("x-cache"), response.content


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_an_equal_request_is_a_hit_with_the_same_bytes(
    caching: Any, service: Any, pngs: list[bytes], method: str, path: str
) -> None:
    outcome, body = ask(caching, method, path, *pngs)
    assert outcome == "miss"
    assert ask(caching, method, path, *pngs) == ("hit", body)
    assert ask(service, method, path, *pngs) == ("miss", body)


@pytest.mark.parametrize(
    ("path", "other"),
    [
        ("/sample?seed=2", "/sample?seed=3"),
        ("/sample?seed=2", "/sample?seed=2&n=2"),
        ("/sample?seed=2", "/sample?seed=2&pseudo_input=0"),
        ("/sample?seed=2", "/sample?seed=2&mode=draw"),
        ("/sample?seed=2", "/sample?seed=2&temperature=0.5"),
        ("/sample?seed=2", "/sample?seed=2&format=json"),
        ("/sample?seed=2", "/sample?seed=2&scale=2"),
        ("/sample?seed=2&n=4", "/sample?seed=2&n=4&columns=2"),
        ("/sample?seed=2", "/sample?seed=2&model=tiny-vamp@2"),
        ("/reconstruct?mode=draw&seed=2", "/reconstruct?mode=draw&seed=3"),
        ("/reconstruct?mode=draw&seed=2", "/reconstruct?mode=mean&seed=2"),
        ("/reconstruct?seed=2", "/reconstruct?seed=2&invert=true"),
        ("/loglik?num_samples=2", "/loglik?num_samples=3"),
        ("/loglik?num_samples=2", "/loglik?num_samples=2&seed=1"),
        ("/loglik?num_samples=2", "/loglik?num_samples=2&model=tiny-normal"),
        ("/encode?top=1", "/encode?top=2"),
    ],
)
def test_another_request_is_no_hit(caching: Any, pngs: list[bytes], path: str, other: str) -> None:
    _, body = ask(caching, "POST", path, pngs[0])
    other_outcome, other_body = ask(caching, "POST", other, pngs[0])
    assert body != other_body
    assert ask(caching, "POST", other, pngs[0]) == ("hit", other_body)
    assert other_outcome == "miss"


def test_other_images_are_no_hit(caching: Any, pngs: list[bytes]) -> None:
    for path in ("/reconstruct?seed=9", "/encode?top=4"):
        assert ask(caching, "POST", path, pngs[0])[0] == "miss"
        assert ask(caching, "POST", path, pngs[1])[0] == "miss"
        assert ask(caching, "POST", path, pngs[0], pngs[1])[0] == "miss"
        assert ask(caching, "POST", path, pngs[1], pngs[0])[0] == "miss"


def test_scores_are_cached_by_the_image(caching: Any, pngs: list[bytes]) -> None:
    path = "/loglik?num_samples=11"
    assert ask(caching, "POST", path, pngs[0])[0] == "miss"
    assert ask(caching, "POST", path, pngs[1], pngs[0])[0] == "miss"
    assert ask(caching, "POST", path, pngs[1], pngs[0], pngs[1])[0] == "hit"


def test_names_of_files_are_those_of_the_request(caching: Any, pngs: list[bytes]) -> None:
    for path in ("/encode?top=3", "/loglik?num_samples=12"):
        for name in ("one.png", "two.png"):
            body = caching.client.post(path, files={"file": (name, pngs[0])}).json()
            assert body["results"][0]["file"] == name


def test_a_sample_without_a_seed_is_never_cached(caching: Any) -> None:
    answers = [caching.client.post("/sample") for _ in range(3)]
    assert len({answer.content for answer in answers}) == 3
    assert all("x-cache" not in answer.headers for answer in answers)


def test_models_of_the_same_weights_keep_their_names_and_quantiles(
    serve: Any, save_model: Any, tmp_path: Path, pngs: list[bytes]
) -> None:
    """A copy under another version, or a checkpoint that was evaluated again."""
    for version, value in (("1", -1.0), ("2", -9000.0)):
        quantiles = {"probabilities": [0.0, 1.0], "values": [value - 1, value]}
        save_model(tmp_path, "twin", version, seed=1, quantiles=quantiles)
    with serve(model_store=tmp_path, default_model="twin") as service:
        for path in ("/sample?seed=1&format=json", "/encode?top=1", "/loglik?num_samples=500"):
            for version, percentile in (("1", 0), ("2", 100)):
                files = {"file": pngs[0]} if path.startswith(UPLOADS) else None
                body = service.client.post(f"{path}&model=twin@{version}", files=files).json()
                assert body["model_version"] == version
                if "loglik" in path:
                    assert body["results"][0]["percentile"] == percentile


# redis


def test_replicas_share_what_redis_holds(serve: Any, redis_server: Any, pngs: list[bytes]) -> None:
    with serve(cache_url=redis_server.url, cache_timeout_seconds=60) as one:
        answers = [ask(one, method, path, *pngs) for method, path in CALLS]
        assert {outcome for outcome, _ in answers} == {"miss"}
    with serve(cache_url=redis_server.url, cache_timeout_seconds=60) as other:
        for (method, path), (_, body) in zip(CALLS, answers, strict=True):
            assert ask(other, method, path, *pngs) == ("hit", body)
    with redis_server.client() as redis:
        keys = redis.keys()
        assert len(keys) == len(CALLS) + len(pngs) - 1  # a log-likelihood has a key for each image
        assert all(key.startswith(b"vampprior:") for key in keys)
        assert all(0 < redis.ttl(key) <= 3600 for key in keys)


@pytest.mark.parametrize("foreign", [b"garbage", b'{"log_likelihood": 99}', b"<script>alert(1)</script>"])
def test_no_client_notices_that_somebody_overwrote_every_value(
    serve: Any, service: Any, redis_server: Any, pngs: list[bytes], foreign: bytes
) -> None:
    expected = [ask(service, method, path, *pngs)[1] for method, path in CALLS]
    with serve(cache_url=redis_server.url, cache_timeout_seconds=60) as caching, redis_server.client() as redis:
        for method, path in CALLS:
            ask(caching, method, path, *pngs)
        caching.until(lambda: len(redis.keys()) == len(CALLS) + len(pngs) - 1)
        keys = redis.keys()
        redis.mset(dict.fromkeys(keys, foreign))
        assert [ask(caching, method, path, *pngs) for method, path in CALLS] == [("miss", body) for body in expected]
        assert caching.metric("vampprior_cache_requests_total", backend="redis", outcome="corrupt") == len(keys)
        caching.until(lambda: foreign not in redis.mget(keys))
        assert [ask(caching, method, path, *pngs) for method, path in CALLS] == [("hit", body) for body in expected]


def test_no_client_notices_that_redis_has_gone(serve: Any, service: Any, redis_server: Any, pngs: list[bytes]) -> None:
    expected = [ask(service, method, path, *pngs)[1] for method, path in CALLS]
    with serve(cache_url=redis_server.url) as caching:
        assert [ask(caching, method, path, *pngs)[1] for method, path in CALLS] == expected
        redis_server.kill()
        assert [ask(caching, method, path, *pngs) for method, path in CALLS] == [("miss", body) for body in expected]
        assert caching.metric("vampprior_cache_requests_total", backend="redis", outcome="error") >= 1
        assert caching.client.get("/health/ready").status_code == 200
