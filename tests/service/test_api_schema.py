"""The OpenAPI document against the service: requests made from it, and the examples that it fills in."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from service.http.problems import problem_tree
from service.images import encode_png

OPERATIONS = [
    ("POST", "/sample"),
    ("POST", "/reconstruct"),
    ("POST", "/loglik"),
    ("POST", "/novelty"),
    ("POST", "/novelty/heatmap"),
    ("POST", "/encode"),
    ("POST", "/interpolate"),
    ("POST", "/decode"),
    ("GET", "/pseudo-inputs"),
    ("GET", "/pseudo-inputs/{k}"),
    ("GET", "/models"),
    ("GET", "/models/{name}"),
    ("GET", "/models/{name}/calibration"),
    ("GET", "/models/{name}/map"),
    ("POST", "/models/reload"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/metrics"),
    ("GET", "/v2"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2/health/ready"),
    ("GET", "/v2/models/{model_name}"),
    ("GET", "/v2/models/{model_name}/ready"),
    ("GET", "/v2/models/{model_name}/versions/{model_version}"),
    ("GET", "/v2/models/{model_name}/versions/{model_version}/ready"),
    ("POST", "/v2/models/{model_name}/infer"),
    ("POST", "/v2/models/{model_name}/versions/{model_version}/infer"),
]
INFERENCE = ["/v2/models/{model_name}/infer", "/v2/models/{model_name}/versions/{model_version}/infer"]
UPLOADS = ["/reconstruct", "/loglik", "/novelty", "/novelty/heatmap", "/encode", "/interpolate"]
OPEN = ["/health/live", "/health/ready", "/metrics", "/v2/health/live", "/v2/health/ready"]
LATENTS = {"latents": {"z2": [[0.0, 0.5, -1.0]]}}
NEEDED: dict[str, dict[str, Any]] = {"/interpolate": {"params": {"start": 1}}, "/decode": {"json": LATENTS}}
"""What a call needs beside an image."""
# 413 refuses what is too long, which schemathesis does not expect
REFUSALS = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429]
CHECKS = f"[checks.negative_data_rejection]\nexpected-statuses = {REFUSALS}\n"


SPECIAL = {"MethodNotAllowed", "NotAcceptable", "Forbidden", "ReloadRefused", "ReloadUnderWay"}
"""Problems of some calls only."""

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
        config = schemathesis.Config.from_str(CHECKS)
        yield schemathesis.openapi.from_url(f"{service.url}/openapi.json", config=config)


@pytest.fixture(scope="module")
def guarded(serve: Any) -> Iterator[Any]:
    with serve(api_keys="one,two", admin_keys="two", key_failure_limit="1000000/minute") as service:
        yield service


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


def test_every_status_is_documented(document: dict[str, Any]) -> None:
    shared = document["components"]["responses"]
    kinds = {kind for kind in problem_tree() if kind.__name__ not in SPECIAL}
    for path, calls in document["paths"].items():
        for operation in calls.values():
            for status, response in operation["responses"].items():
                if path.startswith("/v2") and status != "200":  # errors of another protocol
                    assert set(response["content"]) == {"application/json"}, (path, status)
                elif status != "200":
                    name = response["$ref"].removeprefix("#/components/responses/")
                    assert set(shared[name]["content"]) == {"application/problem+json"}, (path, status)
    described = document["paths"]["/loglik"]["post"]["responses"]
    assert {int(status) for status in described} - {200} == {kind.status for kind in kinds}
    assert "Retry-After" in shared[described["503"]["$ref"].rpartition("/")[2]]["headers"]
    assert {"ProblemDetail", "ParameterError"} <= set(document["components"]["schemas"])
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_operations_have_short_names(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for calls in document["paths"].values() for operation in calls.values()]
    assert len(set(names)) == len(OPERATIONS)
    assert all(name.replace("_", "").isalpha() and len(name) < 20 for name in names)
    assert {"sample", "score", "novelty", "list_pseudo_inputs", "get_model"} <= set(names)


def test_the_parameters_of_a_call_come_before_those_that_many_share(document: dict[str, Any]) -> None:
    for calls in document["paths"].values():
        for operation in calls.values():
            names = [parameter["name"] for parameter in operation.get("parameters", [])]
            assert "model" not in names[:-1]
    first = [parameter["name"] for parameter in document["paths"]["/sample"]["post"]["parameters"]][:3]
    assert first == ["pseudo_input", "n", "seed"]


PNG = encode_png(np.zeros((1, 8, 8), np.float32))
NPY, NPZ = io.BytesIO(), io.BytesIO()
np.save(NPY, np.zeros((8, 8), np.uint8))
np.savez(NPZ, images=np.zeros((8, 8), np.uint8))
for media_type in ("image/png", "image/jpeg", "image/webp", "application/octet-stream"):
    schemathesis.openapi.media_type(media_type, st.just(PNG))  # the bytes decide the format
schemathesis.openapi.media_type("application/x-npy", st.just(NPY.getvalue()))
for media_type in ("application/x-npz", "application/zip"):
    schemathesis.openapi.media_type(media_type, st.just(NPZ.getvalue()))
schemathesis.openapi.format("binary", st.just(PNG))
schemathesis.openapi.format("base64-image", st.just(base64.b64encode(PNG).decode()))


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_good_requests_are_answered_as_described(schema: Any, method: str, path: str) -> None:
    @given(case=schema[path][method].as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE))
    @patient
    def check(case: schemathesis.Case) -> None:
        case.query.pop("model", None)  # hardly ever the name of one
        if path in UPLOADS:
            case.query["resize"] = "true"  # the image of the example is larger than those of tiny models
        if path == "/interpolate":  # one upload and one pseudo-input, which the document cannot say
            case.query.pop("end", None)
            case.query["start"] = 1
            case.body, case.media_type = PNG, "image/png"
        if path == "/decode":  # the numbers that the document cannot give, since they depend on the model
            case.body = LATENTS
        if "fdr" in case.query:
            case.query.pop("false_alarm_rate", None)  # which the document cannot say
        # which takes the other body of /interpolate for a wrong one
        excluded = [negative_data_rejection] if path == "/interpolate" else []
        case.call_and_validate(excluded_checks=excluded)

    check()


@pytest.mark.parametrize(("method", "path"), OPERATIONS[:8])  # the others have no parameters that could be wrong
def test_bad_requests_are_answered_as_described(schema: Any, method: str, path: str) -> None:
    @given(case=schema[path][method].as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
    @patient
    def check(case: schemathesis.Case) -> None:
        # which images a path needs depends on its other parameters, which the document cannot say
        excluded = [positive_data_acceptance] if path == "/interpolate" else []
        case.call_and_validate(excluded_checks=excluded)

    check()


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_the_key_is_needed_where_the_document_says_so(
    guarded: Any, pngs: list[bytes], problem: Any, method: str, path: str
) -> None:
    document = guarded.client.get("/openapi.json").json()
    (scheme,) = document["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["in"], scheme["name"]) == ("apiKey", "header", "X-API-Key")
    needs_key = document["paths"][path][method.lower()]["security"] == [{"ApiKey": []}]
    body: dict[str, Any] = {"files": {"file": pngs[0]}} if path in UPLOADS else {}
    if path.endswith("/infer"):
        body = {"json": {"outputs": [{"name": "sample"}]}}
    body |= NEEDED.get(path, {})
    concrete = path.format(k=1, name="tiny-vamp", model_name="tiny-vamp", model_version="10")
    response = guarded.client.request(method, concrete, **body)
    if needs_key:
        assert response.status_code == 401
        if not path.startswith("/v2"):
            problem(response, 401, "unauthorized")
        response = guarded.client.request(method, concrete, headers={"X-API-Key": "two"}, **body)
    assert response.status_code == 200
    assert needs_key == (path not in OPEN)


@pytest.mark.parametrize(("most", "default"), [(77, 77), (6000, 5000)])
def test_the_document_names_the_limits_of_this_service(serve: Any, most: int, default: int) -> None:
    with serve(max_num_samples=most) as service:
        (call,) = service.client.get("/openapi.json").json()["paths"]["/loglik"].values()
    (schema,) = [parameter["schema"] for parameter in call["parameters"] if parameter["name"] == "num_samples"]
    assert (schema["maximum"], schema["default"]) == (most, default)


def test_the_documents_ignore_parameters_as_is_written(client: httpx.Client) -> None:
    text = (Path(__file__).parents[2] / "docs" / "http.md").read_text(encoding="utf-8")
    assert "only the documentation (`/`, `/docs` and `/openapi.json`) ignores parameters." in text
    for path in ("/", "/docs", "/openapi.json"):
        assert client.get(f"{path}?unknown=1&unknown=1").status_code == 200
    for path in ("/models", "/health/live", "/health/ready", "/metrics"):
        assert client.get(f"{path}?unknown=1").status_code == 422, path


@pytest.mark.parametrize(
    "path", ["/", "/static/main.js", "/docs", "/openapi.json", "/static-offline-docs/swagger-ui.css"]
)
def test_the_documentation_needs_no_key(guarded: Any, path: str) -> None:
    assert guarded.client.get(path).status_code == 200


def test_without_keys_the_document_asks_for_none(document: dict[str, Any]) -> None:
    assert "securitySchemes" not in document["components"]
    assert all("security" not in call for calls in document["paths"].values() for call in calls.values())


@pytest.mark.parametrize("path", OPEN)
def test_what_stays_open_without_a_key_is_described(path: str) -> None:
    operations = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    (sentence,) = [part for part in operations.split("\n\n") if part.startswith("With `VAMP_API_KEYS` set")]
    assert f"`{path}`" in sentence


@pytest.mark.slow
def test_every_check_of_a_complete_run_passes(guarded: Any, tmp_path: Path) -> None:
    """Examples, boundary values and fuzzing of every call, with and without a key and with other methods."""
    (tmp_path / "schemathesis.toml").write_text(CHECKS)
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{guarded.url}/openapi.json", "--no-color"]
    options = ["--header", "X-API-Key: one", "--phases", "examples,coverage,fuzzing", "--max-examples", "5"]
    options += ["--generation-deterministic", "--checks", "all"]
    # of what a schema cannot say about bodies, `positive_data_acceptance` would complain; the test above covers others
    bodies = [*UPLOADS, *INFERENCE, "/decode"]
    excluded = [option for path in bodies for option in ("--exclude-path", path)]
    run = subprocess.run([*command, *options, *excluded], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.returncode == 0, run.stdout
    others = [option for path in bodies for option in ("--include-path", path)]
    others += ["--exclude-checks", "positive_data_acceptance"]
    run = subprocess.run([*command, *options, *others], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("path", UPLOADS)
def test_the_example_that_is_filled_in_can_be_sent(
    document: dict[str, Any], serve: Any, save_model: Any, calibrate: Any, tmp_path: Path, path: str
) -> None:
    calibrate(save_model(tmp_path, "digits", "1", seed=1, image_shape=(1, 28, 28)))
    name = "OptionalImages" if path == "/interpolate" else "Images"
    assert document["paths"][path]["post"]["requestBody"] == {"$ref": f"#/components/requestBodies/{name}"}
    body = document["components"]["requestBodies"]["Images"]["content"]
    assert next(iter(body)) == "application/json"
    with serve(model_store=tmp_path, default_model="digits") as service:
        response = service.client.post(path, json=body["application/json"]["example"], **NEEDED.get(path, {}))
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
    images = {"image/png", "application/octet-stream", "application/x-npy", "application/x-npz", "application/zip"}
    assert set(body["content"]) == {"application/json", "multipart/form-data"} | images


def test_the_examples_are_answers_of_the_shipped_default_model(serve: Any) -> None:
    name = "static_mnist-hvae-vampprior"
    with serve(model_store=Path(__file__).parents[2] / "model_store", default_model=name, models=name) as service:
        document = service.client.get("/openapi.json").json()
        for path in ("/loglik", "/novelty"):
            call = document["paths"][path]["post"]
            example = call["responses"]["200"]["content"]["application/json"]["example"]
            request = document["components"]["requestBodies"]["Images"]["content"]["application/json"]["example"]
            # another processor rounds otherwise
            assert service.client.post(path, json=request).json() == close_to(example)


def close_to(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: close_to(item) for key, item in value.items()}
    if isinstance(value, list):
        return [close_to(item) for item in value]
    return pytest.approx(value, rel=1e-3, abs=1e-3) if isinstance(value, float) else value
