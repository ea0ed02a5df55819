"""The OpenAPI document against the service: requests made from it, and the examples that it fills in."""

from __future__ import annotations

import base64
from collections.abc import Iterator
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
def schema(serve: Any) -> Iterator[Any]:
    """The document of a service that computes and queues little per request."""
    with serve(cache_memory_bytes=0, max_num_samples=5000, max_images=4) as service:
        yield schemathesis.openapi.from_url(f"{service.url}/openapi.json")


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


PNG = encode_png(np.zeros((1, 8, 8), np.float32))
for media_type in ("image/png", "image/jpeg", "image/webp", "application/octet-stream"):
    schemathesis.openapi.media_type(media_type, st.just(PNG))  # the bytes decide the format
schemathesis.openapi.format("binary", st.just(PNG))
schemathesis.openapi.format("base64-image", st.just(base64.b64encode(PNG).decode()))


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_good_requests_are_answered_as_described(schema: Any, method: str, path: str) -> None:
    @given(case=schema[path][method].as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE))
    @patient
    def check(case: schemathesis.Case) -> None:
        case.query.pop("model", None)  # hardly ever the name of one
        case.call_and_validate()

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
    assert document["paths"][path]["post"]["requestBody"] == {"$ref": "#/components/requestBodies/Images"}
    body = document["components"]["requestBodies"]["Images"]["content"]
    assert next(iter(body)) == "application/json"
    with serve(model_store=tmp_path, default_model="digits") as service:
        response = service.client.post(path, json=body["application/json"]["example"])
    assert response.status_code == 200


def test_the_limits_of_uploads_are_described(serve: Any) -> None:
    with serve(
        ready=False, max_images=3, max_image_pixels=1234, max_request_pixels=5678, image_formats="png"
    ) as service:
        document = service.client.get("/openapi.json").json()
    body = document["components"]["requestBodies"]["Images"]
    assert "1,234 pixels" in body["description"]
    assert "5,678" in body["description"]
    for media_type, name in (("application/json", "images"), ("multipart/form-data", "file")):
        array = body["content"][media_type]["schema"]["properties"][name]
        assert (array["minItems"], array["maxItems"]) == (1, 3)
    assert set(body["content"]) == {"application/json", "multipart/form-data", "image/png", "application/octet-stream"}
