"""The Open Inference Protocol, by Triton's client and by plain requests."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray
from PIL import Image
from tritonclient.utils import InferenceServerException

from service.errors import Problem
from service.http.routes.v2.tensors import read_images, read_request

INFER = "/v2/models/tiny-vamp/infer"
LENGTH = "Inference-Header-Content-Length"
EVERY_OUTPUT = ["log_likelihood", "standard_error", "elbo", "p_value", "novel", "reconstruction", "z2", "z1", "sample"]


@pytest.fixture(scope="module")
def client_of_triton(service: Any) -> Iterator[triton.InferenceServerClient]:
    host, port = service.address
    with triton.InferenceServerClient(f"{host}:{port}", network_timeout=180, connection_timeout=180) as client:
        yield client


@pytest.fixture(scope="module")
def levels(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    return (images * 255).astype(np.uint8)


def tensor_of(array: NDArray[Any], datatype: str, *, binary: bool) -> triton.InferInput:
    tensor = triton.InferInput("images", list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def outputs(*names: str, binary: bool) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


def error_of(response: httpx.Response, status: int) -> str:
    """The message of an error, in the form of the protocol."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    assert "x-request-id" in response.headers
    message: str = response.json()["error"]
    return message


def test_triton_finds_server_and_models(client_of_triton: triton.InferenceServerClient) -> None:
    client = client_of_triton
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny-vamp")
    assert client.is_model_ready("tiny-vamp", "2")
    assert not client.is_model_ready("tiny-vamp", "3")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]


def test_the_metadata_of_a_model_name_what_it_takes_and_gives(client_of_triton: triton.InferenceServerClient) -> None:
    described = client_of_triton.get_model_metadata("tiny-vamp")
    assert (described["name"], described["versions"]) == ("tiny-vamp", ["10", "2", "1"])
    assert described["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 1, 8, 8]}]
    kinds = {output["name"]: (output["datatype"], output["shape"]) for output in described["outputs"]}
    assert list(kinds) == EVERY_OUTPUT
    assert (kinds["z1"], kinds["novel"]) == (("FP32", [-1, 4]), ("BOOL", [-1]))
    assert kinds["sample"] == ("FP32", [-1, 1, 8, 8])
    uncalibrated = client_of_triton.get_model_metadata("tiny-vamp", "2")
    assert {"p_value", "novel"}.isdisjoint(output["name"] for output in uncalibrated["outputs"])


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("datatype", ["UINT8", "FP32"])
def test_triton_gets_the_answers_of_the_other_calls(
    client_of_triton: triton.InferenceServerClient,
    client: httpx.Client,
    levels: NDArray[np.uint8],
    pngs: list[bytes],
    read_npy: Any,
    binary_in: bool,
    binary_out: bool,
    datatype: str,
) -> None:
    images = levels if datatype == "UINT8" else levels.astype(np.float32) / 255
    answer = client_of_triton.infer(
        "tiny-vamp",
        [tensor_of(images, datatype, binary=binary_in)],
        outputs=outputs(*EVERY_OUTPUT, binary=binary_out),
        request_id="seven",
        parameters={"num_samples": 700, "seed": 3, "false_alarm_rate": 0.2, "n": 2, "pseudo_input": 1},
    )
    files = [("file", png) for png in pngs]
    scores = client.post("/loglik?num_samples=700&seed=3", files=files).json()["results"]
    decisions = client.post("/novelty?false_alarm_rate=0.2&seed=3", files=files).json()["results"]
    encodings = client.post("/encode", files=files).json()["results"]
    for name in ("log_likelihood", "standard_error", "elbo"):
        expected = np.array([score[name] for score in scores], np.float64)  # null becomes NaN
        np.testing.assert_array_equal(answer.as_numpy(name), expected)
    for name in ("p_value", "novel"):
        assert answer.as_numpy(name).tolist() == [decision[name] for decision in decisions]
    for layer in ("z1", "z2"):
        expected = np.float32([encoding["posterior"][layer]["mean"] for encoding in encodings])
        np.testing.assert_array_equal(answer.as_numpy(layer), expected)
    rounding = {"atol": 1e-6}  # JSON has six decimals
    reconstructed = read_npy(client.post("/reconstruct?format=npy", files=files).content)
    np.testing.assert_allclose(answer.as_numpy("reconstruction"), reconstructed, **rounding)
    drawn = read_npy(client.post("/sample?n=2&seed=3&pseudo_input=1&format=npy").content)
    np.testing.assert_allclose(answer.as_numpy("sample"), drawn, **rounding)
    body = answer.get_response()
    assert (body["model_name"], body["model_version"], body["id"]) == ("tiny-vamp", "10", "seven")
    assert body["parameters"] == {"seed": 3}
    assert [output["name"] for output in body["outputs"]] == EVERY_OUTPUT


def test_triton_draws_without_an_input(client_of_triton: triton.InferenceServerClient) -> None:
    wanted = outputs("sample", binary=True)
    first = client_of_triton.infer("tiny-vamp", [], outputs=wanted, parameters={"n": 3})
    seed = first.get_response()["parameters"]["seed"]
    again = client_of_triton.infer("tiny-vamp", [], outputs=wanted, parameters={"n": 3, "seed": seed})
    assert first.as_numpy("sample").shape == (3, 1, 8, 8)
    np.testing.assert_array_equal(first.as_numpy("sample"), again.as_numpy("sample"))


def test_triton_asks_for_a_version(
    client_of_triton: triton.InferenceServerClient, client: httpx.Client, levels: NDArray[np.uint8], pngs: list[bytes]
) -> None:
    answer = client_of_triton.infer(
        "tiny-vamp", [tensor_of(levels[:1, 0], "UINT8", binary=True)], "2", outputs("z1", binary=False)
    )
    (expected,) = client.post("/encode?model=tiny-vamp@2", files={"file": pngs[0]}).json()["results"]
    np.testing.assert_array_equal(answer.as_numpy("z1")[0], np.float32(expected["posterior"]["z1"]["mean"]))
    assert answer.get_response()["model_version"] == "2"


def test_triton_is_told_what_is_wrong(
    client_of_triton: triton.InferenceServerClient, levels: NDArray[np.uint8]
) -> None:
    tensor = tensor_of(levels[:, :, :4], "UINT8", binary=True)
    with pytest.raises(InferenceServerException, match=r"the model takes \[N, 1, 8, 8\] or \[N, 8, 8\]") as caught:
        client_of_triton.infer("tiny-vamp", [tensor])
    assert caught.value.status() == "400"
    with pytest.raises(InferenceServerException, match="no model 'nothing'") as caught:
        client_of_triton.get_model_metadata("nothing")
    assert caught.value.status() == "404"


def test_colours_keep_their_order(client: httpx.Client, read_npy: Any) -> None:
    image = np.random.default_rng(5).integers(0, 256, (1, 3, 8, 8), np.uint8)
    tensor = {"name": "images", "shape": [1, 3, 8, 8], "datatype": "UINT8", "data": image.tolist()}
    body = {"inputs": [tensor], "outputs": [{"name": "reconstruction"}]}
    (output,) = client.post("/v2/models/tiny-colour/infer", json=body).json()["outputs"]
    buffer = io.BytesIO()
    Image.fromarray(image[0].transpose(1, 2, 0)).save(buffer, "PNG")
    answer = client.post("/reconstruct?model=tiny-colour&format=npy", files={"file": buffer.getvalue()})
    np.testing.assert_allclose(np.reshape(output["data"], output["shape"]), read_npy(answer.content), atol=1e-6)


def test_everything_is_given_if_nothing_is_named(client: httpx.Client, levels: NDArray[np.uint8]) -> None:
    tensor = {"name": "images", "shape": [1, 8, 8], "datatype": "UINT8", "data": levels[0].ravel().tolist()}
    answer = client.post(INFER, json={"inputs": [tensor], "parameters": {"num_samples": 9}}).json()
    assert [output["name"] for output in answer["outputs"]] == EVERY_OUTPUT[:-1]
    answer = client.post(INFER, json={"parameters": {"temperature": 0.5}}).json()
    assert [output["name"] for output in answer["outputs"]] == ["sample"]


def test_binary_for_all_outputs_but_one(client: httpx.Client) -> None:
    body = {
        "parameters": {"binary_data_output": True, "seed": 1},
        "outputs": [{"name": "sample"}],
    }
    answer = client.post(INFER, json=body)
    length = int(answer.headers[LENGTH])
    (output,) = json.loads(answer.content[:length])["outputs"]
    assert output["parameters"] == {"binary_data_size": len(answer.content) - length}
    body["outputs"] = [{"name": "sample", "parameters": {"binary_data": False}}]
    (plain,) = client.post(INFER, json=body).json()["outputs"]
    binary = np.frombuffer(answer.content[length:], "<f4")
    np.testing.assert_allclose(plain["data"], binary, atol=1e-6)


def test_an_error_that_cannot_be_told_is_null(client: httpx.Client, levels: NDArray[np.uint8]) -> None:
    tensor = {"name": "images", "shape": [1, 8, 8], "datatype": "UINT8", "data": levels[0].ravel().tolist()}
    body = {"inputs": [tensor], "outputs": [{"name": "standard_error"}], "parameters": {"num_samples": 1}}
    (output,) = client.post(INFER, json=body).json()["outputs"]
    assert output["data"] == [None]


def images_input(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "images", "shape": [1, 8, 8], "datatype": "UINT8", "data": [0] * 64}
    return {"inputs": [tensor | changes], "outputs": [{"name": "z1"}]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (images_input(name="image"), "one input, `images`"),
        (images_input(datatype="INT64"), "UINT8 or FP32"),
        (images_input(shape=[0, 8, 8]), "has the shape"),
        (images_input(shape=[8, 8]), "has the shape"),
        (images_input(shape=[]), "has the shape"),
        (images_input(shape=[1, 1, 1, 8, 8]), "has the shape"),
        (images_input(shape=[-1, 8, 8]), "cannot be read"),
        (images_input(shape=[2, 8, 8]), "must have 128 values"),
        (images_input(data=[0] * 63), "must have 64 values"),
        (images_input(data=[0] * 63 + [256]), "cannot be read as UINT8"),
        (images_input(data=[0] * 63 + [-1]), "cannot be read as UINT8"),
        (images_input(data=[0] * 63 + [0.5]), "cannot be read as UINT8"),
        (images_input(data=["a,b"] + [0] * 62), "cannot be read as UINT8"),
        (images_input(data=[0] * 63 + [1.1], datatype="FP32"), r"between 0 and 1"),
        (images_input(data=[0] * 63 + [1e300], datatype="FP32"), r"between 0 and 1"),
        (images_input(parameters={"binary_data_size": 64}), "both data and binary_data_size"),
        (images_input(parameters={"shared_memory_region": "x"}), "unknown field"),
        (images_input() | {"inputs": []}, "need the input"),
        (images_input() | {"outputs": [{"name": "z3"}]}, "no output 'z3'"),
        (images_input() | {"outputs": [{"name": "z1"}, {"name": "z1"}]}, "twice"),
        (images_input() | {"parameters": {"sede": 1}}, "sede"),
        (images_input() | {"parameters": {"seed": -1}}, "seed"),
        (images_input() | {"outputs": [{"name": "elbo"}], "parameters": {"num_samples": 10**9}}, "num_samples"),
        (images_input() | {"outputs": [{"name": "novel"}], "parameters": {"false_alarm_rate": 1e-9}}, "no p-value"),
        ({"outputs": [{"name": "sample"}], "parameters": {"n": 257}}, "less than or equal to 256"),
        ([], "cannot be read"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(client: httpx.Client, body: Any, message: str) -> None:
    assert message in error_of(client.post(INFER, json=body), 400)


def test_a_pseudo_input_that_is_not_there(client: httpx.Client) -> None:
    body = {"outputs": [{"name": "sample"}], "parameters": {"pseudo_input": 6}}
    assert "none numbered 6" in error_of(client.post(INFER, json=body), 404)


@pytest.mark.parametrize(
    ("header", "tail", "size", "message"),
    [
        ("-1", 64, 64, "must be the number"),
        ("²", 64, 64, "must be the number"),
        ("1" * 20, 64, 64, "must be the number"),
        ("999999", 64, 64, "but the body has"),
        ("3", 64, 64, "cannot be read"),
        (None, 64, 64, "cannot be read"),
        ("exact", 63, 64, "63 bytes follow"),
        ("exact", 65, 64, "65 bytes follow"),
        ("exact", 64, 63, "63 by binary_data_size"),
        ("exact", 64, None, "has no binary_data_size"),
        ("exact", 64, -1, "cannot be read"),
    ],
)
def test_binary_that_does_not_fit_is_refused(
    client: httpx.Client, header: str | None, tail: int, size: int | None, message: str
) -> None:
    tensor: dict[str, Any] = {"name": "images", "shape": [1, 8, 8], "datatype": "UINT8"}
    if size is not None:
        tensor["parameters"] = {"binary_data_size": size}
    text = json.dumps({"inputs": [tensor], "outputs": [{"name": "z1"}]}).encode()
    headers = {} if header is None else {LENGTH: str(len(text)) if header == "exact" else header}
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    assert message in error_of(client.post(INFER, content=text + bytes(tail), headers=encoded), 400)


def test_nan_is_refused(client: httpx.Client) -> None:
    tensor = {"name": "images", "shape": [1, 8, 8], "datatype": "FP32", "parameters": {"binary_data_size": 256}}
    text = json.dumps({"inputs": [tensor], "outputs": [{"name": "z1"}]}).encode()
    content = text + np.full(64, np.nan, "<f4").tobytes()
    assert "between 0 and 1" in error_of(client.post(INFER, content=content, headers={LENGTH: str(len(text))}), 400)


def test_large_claims_take_no_memory(peak_memory: Any) -> None:
    def read(text: str) -> None:
        with pytest.raises(Problem):
            read_images(*read_request(text.encode(), None), (1, 8, 8), max_images=64)

    data = "[" + "[],0," * 1_000_000 + "0]"
    many = f'{{"inputs": [{{"name": "images", "shape": [4, 8, 8], "datatype": "UINT8", "data": {data}}}]}}'
    shape = '{"inputs": [{"name": "images", "shape": [1000000000, 8, 8], "datatype": "UINT8", "data": [0]}]}'
    assert peak_memory(lambda: read(many)) < 2 * len(many)
    assert peak_memory(lambda: read(shape)) < 100_000


def test_the_bounds_of_other_calls_hold(serve: Any, pngs: list[bytes]) -> None:
    with serve(max_images=2, max_body_bytes=2000, queued_rows=100, cache_memory_bytes=0) as service:
        client = service.client
        error_of(client.post(INFER, json=images_input(shape=[3, 8, 8], data=[0] * 192)), 413)
        error_of(client.post(INFER, content=bytes(2001)), 413)
        body = images_input() | {"outputs": [{"name": "elbo"}], "parameters": {"num_samples": 101}}
        error_of(client.post(INFER, json=body), 413)
        with service.hold():
            body["parameters"] = {"num_samples": 99}
            waiting = service.send(INFER, json.dumps(body).encode(), media_type="application/json")
            service.until(lambda: service.queued() == 1)
            refused = client.post(INFER, json=body | {"parameters": {"num_samples": 99, "seed": 1}})
            assert "Retry-After" in refused.headers
            error_of(refused, 503)
        waiting.close()


def test_scores_are_cached_with_those_of_loglik(serve: Any, pngs: list[bytes], levels: NDArray[np.uint8]) -> None:
    with serve() as service:
        service.client.post("/loglik?num_samples=50", files={"file": pngs[0]})
        body = images_input(data=levels[0].ravel().tolist())
        body |= {"outputs": [{"name": "log_likelihood"}], "parameters": {"num_samples": 50}}
        assert service.client.post(INFER, json=body).status_code == 200
        assert service.metric("vampprior_batch_rows_sum", operation="score") == 50


def test_the_deadline_is_told_in_the_protocols_form(serve: Any) -> None:
    with serve(deadline_seconds=0.2) as service, service.hold():
        body = {"outputs": [{"name": "sample"}]}
        assert "0.2 seconds" in error_of(service.client.post(INFER, json=body), 504)


def test_other_errors_of_these_paths_have_the_protocols_form(client: httpx.Client) -> None:
    error_of(client.get("/v2/nowhere"), 404)
    error_of(client.get(INFER), 405)
    error_of(client.get("/v2?x=1"), 400)
    error_of(client.post(INFER, content=b"x", headers={"Content-Encoding": "gzip"}), 415)
    assert client.get("/v2x").headers["content-type"] == "application/problem+json"


def test_only_health_is_open_without_a_key(serve: Any) -> None:
    with serve(api_keys="one") as service:
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert service.client.get(path).status_code == 200
        for path in ("/v2", "/v2/models/tiny-vamp", "/v2/models/tiny-vamp/ready"):
            error_of(service.client.get(path), 401)
        with triton.InferenceServerClient("{}:{}".format(*service.address)) as client:
            headers = {"X-API-Key": "one"}
            assert client.infer("tiny-vamp", [], headers=headers).as_numpy("sample").shape == (1, 1, 8, 8)


def test_a_service_that_is_not_ready_says_so(serve: Any, hold_loading: Any) -> None:
    gate = hold_loading("tiny-vamp")
    with serve(ready=False) as service:
        assert service.client.get("/v2/health/live").json() == {"live": True}
        assert "loading" in error_of(service.client.get("/v2/health/ready"), 503)
        error_of(service.client.get("/v2/models/tiny-vamp/ready"), 503)
        gate.set()
        service.until(lambda: service.client.get("/v2/models/tiny-vamp/ready").status_code == 200)
