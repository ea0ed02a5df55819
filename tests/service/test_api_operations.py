"""What the service tells those who run it, and those who read about it."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families


def test_the_root_links_to_the_documentation(client: httpx.Client) -> None:
    response = client.get("/")
    assert response.status_code == 200
    assert 'href="docs"' in response.text


def test_the_documentation_comes_from_here(client: httpx.Client) -> None:
    page = client.get("/docs").text
    addresses = re.findall(r"""(?:src|href)=["']([^"']+)""", page)
    assert len(addresses) >= 3
    for address in addresses:
        assert address.startswith("/")
        assert client.get(address).status_code == 200
    assert client.get("/redoc").status_code == 404


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_health(client: httpx.Client, path: str) -> None:
    assert client.get(path).json() == {"status": path.rpartition("/")[2]}
    head = client.head(path)
    assert (head.status_code, head.content) == (200, b"")


def test_metrics_count_what_was_asked(service: Any, problem: Any, pngs: list[bytes]) -> None:
    def counted(**labels: str) -> float:
        return float(service.metric("http_requests_total", **labels))

    def tasks(operation: str) -> float:
        labels = {"model": "tiny-vamp@2", "operation": operation, "outcome": "ok"}
        return float(service.metric("vampprior_tasks_total", **labels))

    before = counted(route="/loglik", status="200"), counted(route="unmatched"), tasks("draw"), tasks("score")
    files = [("file", png) for png in pngs[:3]]
    assert service.client.post("/loglik?num_samples=7&model=tiny-vamp@2", files=files).status_code == 200
    assert service.client.post("/sample?model=tiny-vamp@2&n=3").status_code == 200
    problem(service.client.get("/nowhere/at/all"), 404, "not-found")
    after = counted(route="/loglik", status="200"), counted(route="unmatched"), tasks("draw"), tasks("score")
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 1, 1, 3]


def test_metrics_have_few_labels(client: httpx.Client) -> None:
    client.post("/sample?seed=123456789&pseudo_input=3&model=tiny-vamp", headers={"X-Request-ID": "mine-123456789"})
    client.get("/models/no-such-model-123456789")
    client.request("BREW-123456789", "/sample")
    page = client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=")
    assert "123456789" not in page.text
    models = {
        sample.labels["model"]
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
        if "model" in sample.labels
    }
    assert models == {"tiny-vamp@1", "tiny-vamp@2", "tiny-vamp@10", "tiny-normal@1", "tiny-colour@1", "damaged@1"}
