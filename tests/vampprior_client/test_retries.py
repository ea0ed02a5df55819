"""When requests are sent again, with services of a few lines."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

import vampprior_client as vamp
from vampprior_client import AsyncClient, Client, Retries

MODELS = {"default": "a", "loading": False, "models": []}


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits of both clients, which take no time."""
    seconds: list[float] = []

    async def sleep(wait: float) -> None:
        seconds.append(wait)

    # other threads of the process go on sleeping
    blocking = SimpleNamespace(**vars(time) | {"sleep": seconds.append})
    monkeypatch.setattr("vampprior_client.client.time", blocking)
    monkeypatch.setattr("vampprior_client.async_client.asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": sleep}))
    return seconds


def answers(*responses: httpx.Response | Exception) -> httpx.MockTransport:
    """A service that gives these answers, one after the other."""
    remaining: Iterator[httpx.Response | Exception] = iter(responses)

    def answer(_: httpx.Request) -> httpx.Response:
        response = next(remaining)
        if isinstance(response, Exception):
            raise response
        return response

    return httpx.MockTransport(answer)


def busy(status: int, **headers: str) -> httpx.Response:
    return httpx.Response(status, headers={name.replace("_", "-"): value for name, value in headers.items()})


def good() -> httpx.Response:
    return httpx.Response(200, json=MODELS)


def ask(transport: httpx.MockTransport, **arguments: Any) -> Any:
    with Client(transport=transport, **arguments) as client:
        return client.models()


def ask_async(transport: httpx.MockTransport, **arguments: Any) -> Any:
    async def main() -> Any:
        async with AsyncClient(transport=transport, **arguments) as client:
            return await client.models()

    return asyncio.run(main())


both = pytest.mark.parametrize("models", [ask, ask_async])


@both
@pytest.mark.parametrize("status", [429, 503])
def test_the_wait_is_the_one_that_the_service_asks_for(models: Callable[..., Any], waits: list[float], status: int):
    assert models(answers(busy(status, Retry_After="7"), good())) == []
    assert waits == [7.0]


@both
def test_without_a_wish_of_the_service_waits_double(models: Callable[..., Any], waits: list[float]) -> None:
    assert models(answers(busy(503), httpx.ConnectError("refused"), busy(503), good())) == []
    assert waits == [0.5, 1.0, 2.0]


@both
def test_attempts_are_bounded(models: Callable[..., Any], waits: list[float]) -> None:
    with pytest.raises(vamp.RateLimited):
        models(answers(*(busy(429, Retry_After="1") for _ in range(3))), retries=Retries(attempts=3))
    assert waits == [1.0, 1.0]


@both
def test_a_longer_wait_than_is_allowed_is_an_error_at_once(models: Callable[..., Any], waits: list[float]) -> None:
    with pytest.raises(vamp.Unavailable) as caught:
        models(answers(busy(503, Retry_After="61")))
    assert caught.value.retry_after == 61
    assert waits == []


@both
@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (lambda: busy(500), vamp.ServerError),
        (lambda: busy(504), vamp.DeadlineExceeded),
        (lambda: busy(404), vamp.NotFound),
        (lambda: busy(418), vamp.RequestError),
        (lambda: httpx.ReadTimeout("slow"), vamp.TimedOut),
    ],
)
def test_other_failures_are_not_repeated(models: Any, waits: list[float], failure: Any, error: type) -> None:
    with pytest.raises(error) as caught:
        models(answers(failure()))
    assert type(caught.value) is error
    assert waits == []


def test_a_date_is_a_wait_as_well(waits: list[float]) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    ask(answers(busy(503, Retry_After=date), good()))
    assert 0 < waits[0] <= 30


def test_an_error_page_of_a_proxy_is_an_exception_too() -> None:
    with pytest.raises(vamp.ServerError, match="502 Bad Gateway"):
        ask(answers(httpx.Response(502, text="<html>")))


def test_the_client_imports_neither_torch_nor_the_web_framework() -> None:
    program = "import sys, vampprior_client; print({'torch', 'fastapi', 'service', 'vampprior'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "set()\n"
