"""Streams of a service of a few lines."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import numpy as np
import pytest

import vampprior_client as vamp
from vampprior_client import AsyncClient, Client, Retries

NOVELTY = {"novel": True, "p_value": 0.01, "score": 2.0, "statistics": {}, "prototypes": [], "summary": "New."}
DONE = {"event": "done", "num_images": 2}


def score(index: int, event: str = "score", **fields: Any) -> dict[str, Any]:
    return {"event": event, "index": index, "file": f"image {index}", **NOVELTY, **fields}


def service(*lines: dict[str, Any], requests: list[httpx.Request] | None = None, status: int = 200) -> Any:
    """A service that answers with these lines, or with the only one as a problem."""
    media_type = "application/x-ndjson" if status == 200 else "application/problem+json"
    headers = {"content-type": media_type, "x-model": "tiny", "x-model-version": "2"}

    def answer(request: httpx.Request) -> httpx.Response:
        if requests is not None:
            requests.append(request)
        return httpx.Response(status, content="".join(json.dumps(line) + "\n" for line in lines), headers=headers)

    return httpx.MockTransport(answer)


def stream(transport: Any) -> list[Any]:
    with Client(transport=transport, retries=Retries(attempts=1)) as client:
        return list(client.stream_novelty(np.zeros((2, 1, 8, 8)), seed=3))


def stream_async(transport: Any) -> list[Any]:
    async def main() -> list[Any]:
        async with AsyncClient(transport=transport, retries=Retries(attempts=1)) as client:
            return [result async for result in client.stream_novelty(np.zeros((2, 1, 8, 8)), seed=3)]

    return asyncio.run(main())


both = pytest.mark.parametrize("read", [stream, stream_async])


@both
def test_results_come_as_they_are_known(read: Any) -> None:
    requests: list[httpx.Request] = []
    results = read(service(score(1), score(0, "progress", p_value=0.5), score(0), DONE, requests=requests))
    assert [(result.index, result.final, result.result.p_value) for result in results] == [
        (1, True, 0.01),
        (0, False, 0.5),
        (0, True, 0.01),
    ]
    assert results[0].result.model == "tiny@2"
    (request,) = requests
    assert (request.headers["accept"], request.url.query) == ("application/x-ndjson", b"seed=3")


@both
def test_an_error_within_a_stream_is_raised(read: Any) -> None:
    error = {"event": "error", "type": "/problems/deadline-exceeded", "status": 504, "title": "Late", "detail": "No."}
    with pytest.raises(vamp.DeadlineExceeded, match="504 Late: No"):
        read(service(score(1), error))


@both
def test_a_stream_that_breaks_off_is_no_result(read: Any) -> None:
    with pytest.raises(vamp.ConnectionFailed, match="ended before"):
        read(service(score(1)))


@both
def test_a_refusal_is_raised_before_the_first_result(read: Any) -> None:
    with pytest.raises(vamp.TooLarge, match="413"):
        read(service({"type": "/problems/too-large", "status": 413, "title": "Too large"}, status=413))


def test_a_service_that_does_not_stream_is_told_apart() -> None:
    with pytest.raises(vamp.ClientError, match="does not stream"):
        stream(httpx.MockTransport(lambda _: httpx.Response(200, json={"results": []})))


def test_no_images_are_no_request() -> None:
    with Client(transport=service(status=500)) as client:
        assert list(client.stream_log_likelihood([])) == list(client.novelty([])) == []
