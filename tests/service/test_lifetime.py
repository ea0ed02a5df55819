"""Clients that leave: what they asked for is dropped, and nobody else notices."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

ENDLESS = 10**9  # importance samples that take hours


@pytest.fixture(scope="module")
def patient(serve: Any) -> Iterator[Any]:
    """A service that takes on work without an end."""
    with serve(max_num_samples=ENDLESS, queued_rows=3 * ENDLESS) as service:
        yield service


def cancelled(service: Any) -> float:
    return float(service.metric("vampprior_tasks_total", outcome="cancelled"))


def idle(service: Any) -> bool:
    return bool(service.queued() == service.metric("vampprior_queue_rows") == 0)


@pytest.mark.parametrize("count", [1, 3])
def test_a_score_is_dropped_when_its_client_hangs_up(patient: Any, pngs: list[bytes], count: int) -> None:
    before = cancelled(patient)
    request = httpx.Request("POST", "http://test", files=[("file", png) for png in pngs[:count]])
    body = request.read()
    path, kind = f"/loglik?num_samples={ENDLESS}", request.headers["content-type"]
    with patient.send(path, body, media_type=kind):
        patient.until(lambda: 0 < patient.metric("vampprior_queue_rows") <= count * ENDLESS - 1000)
        assert patient.queued() == 1
    patient.until(lambda: idle(patient))
    assert cancelled(patient) > before


def test_a_job_is_dropped_from_the_queue_when_its_client_hangs_up(patient: Any, pngs: list[bytes]) -> None:
    before = cancelled(patient)
    with patient.hold():
        with patient.send("/encode?top=7", pngs[0]):
            patient.until(lambda: patient.queued() == 1)
        patient.until(lambda: patient.metric("vampprior_http_requests_total", route="/encode", status="499") >= 1)
    patient.until(lambda: idle(patient))
    assert cancelled(patient) == before + 1


def test_an_upload_is_dropped_when_its_client_hangs_up(patient: Any) -> None:
    def under_way() -> float:
        return float(patient.metric("vampprior_http_requests_in_progress")) - 1  # the one that asks

    with patient.send("/encode", b"\x89PNG", length=1000):
        patient.until(lambda: under_way() == 1)
    patient.until(lambda: under_way() == 0)


@pytest.mark.parametrize("leaver", [0, 1])
@pytest.mark.parametrize(
    ("path", "uploads"), [("/loglik?num_samples=600&seed={}", True), ("/sample?n=3&seed={}", False)]
)
def test_one_that_leaves_does_not_disturb_another_with_the_same_request(
    patient: Any, client: httpx.Client, pngs: list[bytes], path: str, uploads: bool, leaver: int
) -> None:
    path, before = path.format(leaver), patient.metric("vampprior_cache_requests_total", outcome="joined")
    body = pngs[0] if uploads else b""
    with patient.hold():
        connections = [patient.send(path, body)]
        patient.until(lambda: patient.queued() == 1)
        connections.append(patient.send(path, body))
        patient.until(lambda: patient.metric("vampprior_cache_requests_total", outcome="joined") == before + 1)
        left = patient.metric("vampprior_http_requests_total", status="499")
        connections.pop(leaver).close()
        patient.until(lambda: patient.metric("vampprior_http_requests_total", status="499") == left + 1)
    with connections[0] as stayed:
        answer = httpx_answer(stayed)
    assert answer == client.post(path, content=body, headers={"Content-Type": "image/png"}).content


def httpx_answer(connection: Any) -> bytes:
    """The body of the answer on a connection."""
    with connection.makefile("rb") as file:
        assert file.readline().startswith(b"HTTP/1.1 200")
        length = 0
        while (line := file.readline().strip().lower()) != b"":
            name, _, value = line.partition(b":")
            length = int(value) if name == b"content-length" else length
        body: bytes = file.read(length)
        return body


def test_one_that_leaves_does_not_disturb_others_in_the_same_batch(
    patient: Any, client: httpx.Client, pngs: list[bytes]
) -> None:
    paths = [f"/reconstruct?mode=draw&format=npy&seed={seed}" for seed in range(8)]
    with patient.hold():
        connections = [patient.send(path, pngs[0]) for path in paths]
        patient.until(lambda: patient.queued() == len(paths))
        for connection in connections[::2]:
            connection.close()
    for path, connection in list(zip(paths, connections, strict=True))[1::2]:
        with connection:
            expected = client.post(path, content=pngs[0], headers={"Content-Type": "image/png"}).content
            assert httpx_answer(connection) == expected
    patient.until(lambda: idle(patient))


def test_light_requests_pass_a_score_without_an_end(patient: Any, pngs: list[bytes]) -> None:
    with patient.send(f"/loglik?num_samples={ENDLESS}", pngs[0]):
        patient.until(lambda: patient.queued() == 1)
        assert patient.client.post("/sample").status_code == 200
        for path in ("/reconstruct?seed=77", "/encode?top=9"):
            assert patient.client.post(path, files={"file": pngs[0]}).status_code == 200
        assert patient.client.post("/loglik?num_samples=5", files={"file": pngs[0]}).status_code == 200
        assert patient.queued() == 1
    patient.until(lambda: idle(patient))


def test_a_client_that_closes_after_its_answer_has_not_hung_up(patient: Any) -> None:
    def outcomes() -> tuple[float, float]:
        return cancelled(patient), patient.metric("vampprior_http_requests_total", status="499")

    before = outcomes()
    with ThreadPoolExecutor(8) as pool:
        headers = {"Connection": "close"}
        answers = pool.map(lambda seed: patient.client.post(f"/sample?seed={seed}", headers=headers), range(40))
        assert {answer.status_code for answer in answers} == {200}
    assert outcomes() == before
