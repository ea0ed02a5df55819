"""What the service tells those who run it, and those who read about it."""

from __future__ import annotations

import platform
import re
from importlib.metadata import version
from typing import Any

import httpx
import pytest
import torch
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
        return float(service.metric("vampprior_http_requests_total", **labels))

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


def test_metrics_name_the_model_that_a_request_was_for(service: Any) -> None:
    def counted(route: str, model: str, status: str) -> list[float]:
        labels = {"route": route, "model": model}
        return [
            service.metric("vampprior_http_requests_total", **labels, status=status),
            service.metric("vampprior_http_request_duration_seconds_count", **labels),
        ]

    asked = [
        ("POST", "/sample?model=tiny-vamp", "/sample", "tiny-vamp@10", "200"),
        ("POST", "/sample?model=tiny-vamp@1&pseudo_input=99", "/sample", "tiny-vamp@1", "404"),
        ("GET", "/models/tiny-vamp@2", "/models/{name}", "tiny-vamp@2", "200"),
        ("GET", "/v2/models/tiny-vamp", "/v2/models/{model_name}", "tiny-vamp@10", "200"),
        ("GET", "/models/none", "/models/{name}", "", "404"),
        ("POST", "/sample?model=none", "/sample", "", "404"),
    ]
    before = [counted(*labels) for _, _, *labels in asked]
    for method, target, *_ in asked:
        service.client.request(method, target)
    after = [counted(*labels) for _, _, *labels in asked]
    assert all(new == [old + 1 for old in olds] for new, olds in zip(after, before, strict=True))


def test_metrics_show_versions_readiness_and_the_time_of_loading(service: Any) -> None:
    labels = {"version": version("vampprior"), "python": platform.python_version(), "torch": torch.__version__}
    assert service.metric("vampprior_build_info", **labels) == 1
    assert service.metric("vampprior_ready") == 1
    assert 0 < service.metric("vampprior_model_load_seconds", model="tiny-vamp@10") < 60
    assert service.metric("vampprior_model_load_seconds", model="damaged@1") == 0  # it has none


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
    assert models == {"", "tiny-vamp@1", "tiny-vamp@2", "tiny-vamp@10", "tiny-normal@1", "tiny-colour@1", "damaged@1"}
