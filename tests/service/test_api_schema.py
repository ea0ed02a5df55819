"""The OpenAPI document against the service: requests made from it, and the examples that it fills in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.images import encode_png

OPERATIONS = [
    ("POST", "/sample"),
    ("POST", "/reconstruct"),
    ("POST", "/loglik"),
    ("POST", "/encode"),
    ("GET", "/pseudo-inputs"),
    ("GET", "/pseudo-inputs/{k}"),
    ("GET", "/models"),
    ("GET", "/models/{name}"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/metrics"),
]
UPLOADS = ["/reconstruct", "/loglik", "/encode"]


patient = settings(
    max_examples=10, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def document(client: httpx.Client) -> dict[str, Any]:
    body: dict[str, Any] = client.get("/openapi.json").json()
    return body


@pytest.fixture(scope="module")
def schema(service: Any) -> Any:
    return schemathesis.openapi.from_url(f"{service.url}/openapi.json")


def test_every_call_is_described(document: dict[str, Any]) -> None:
    described = {(method.upper(), path) for path, calls in document["paths"].items() for method in calls}
    assert described == set(OPERATIONS)


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def references(node: Any) -> set[str]:
        if isinstance(node, dict):
            found = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
            return found.union(*map(references, node.values()))
        return set().union(*map(references, node)) if isinstance(node, list) else set()

    for reference in references(document):
        target = document
        for part in reference.removeprefix("#/").split("/"):
            assert part in target, reference
            target = target[part]


schemathesis.openapi.media_type("image/png", st.just(encode_png(np.zeros((1, 8, 8), np.float32))))


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_good_requests_are_answered_as_described(schema: Any, method: str, path: str) -> None:
    @given(case=schema[path][method].as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE))
    @patient
    def check(case: schemathesis.Case) -> None:
        case.query.pop("model", None)  # hardly ever the name of one
        # a schema cannot say that a string has to be a PNG, nor how many samples this service takes
        undescribed = [schemathesis.checks.positive_data_acceptance] if path in UPLOADS else []
        case.call_and_validate(excluded_checks=undescribed)

    check()


@pytest.mark.parametrize(("method", "path"), OPERATIONS[:6])
def test_bad_requests_are_answered_as_described(schema: Any, method: str, path: str) -> None:
    @given(case=schema[path][method].as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
    @patient
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate()

    check()


@pytest.mark.parametrize("path", UPLOADS)
def test_the_example_that_is_filled_in_can_be_sent(
    document: dict[str, Any], serve: Any, save_model: Any, tmp_path: Path, path: str
) -> None:
    save_model(tmp_path, "digits", "1", seed=1, image_shape=(1, 28, 28))
    body = document["paths"][path]["post"]["requestBody"]["content"]
    assert next(iter(body)) == "application/json"
    with serve(model_store=tmp_path, default_model="digits") as service:
        response = service.client.post(path, json=body["application/json"]["example"])
    assert response.status_code == 200
