"""A client that `openapi-python-client` generates from the OpenAPI document, used against the service."""

from __future__ import annotations

import base64
import importlib
import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

PACKAGE = "generated_client"
FORMATS: dict[str, Callable[[bytes], bool]] = {
    "png": lambda body: body.startswith(b"\x89PNG"),
    "npy": lambda body: body.startswith(b"\x93NUMPY"),
    "json": lambda body: body.startswith(b'{"model":'),
}


@pytest.fixture(scope="module")
def generated(service: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Gives a module of the generated package by its name."""
    folder: Path = tmp_path_factory.mktemp("generated")
    document = folder / "openapi.json"
    document.write_bytes(service.client.get("/openapi.json").content)
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none"]
    done = subprocess.run(
        [*command, "--path", document, "--output-path", folder / PACKAGE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, str(folder))
    try:
        yield lambda name: importlib.import_module(f"{PACKAGE}.{name}")
    finally:
        sys.path.remove(str(folder))


@pytest.fixture
def api(generated: Any, service: Any) -> Iterator[Any]:
    """Makes a call by its tag and name, and gives the parsed answer."""

    def call(tag: str, name: str, *arguments: Any, **parameters: Any) -> Any:
        answer = generated(f"api.{tag}.{name}").sync_detailed(*arguments, client=client, **parameters)
        assert answer.status_code == 200, answer.content
        return answer.parsed

    with generated("client").Client(base_url=service.url) as client:
        yield call


@pytest.fixture
def bodies(generated: Any, pngs: list[bytes]) -> Callable[[str], dict[str, Any]]:
    """The same image in each kind of body that a call takes, by the prefix of the call's generated classes."""

    def of(prefix: str) -> dict[str, Any]:
        models, types = generated("models"), generated("types")

        def file() -> Any:
            return types.File(payload=io.BytesIO(pngs[0]), file_name="image")

        json = getattr(models, f"{prefix}JsonBody")(images=[base64.b64encode(pngs[0]).decode()])
        return {"raw": file(), "form": getattr(models, f"{prefix}FilesBody")(file=[file()]), "json": json}

    return of


@pytest.mark.parametrize("format_", [None, *FORMATS])
def test_images_come_out_in_every_format(
    api: Any, generated: Any, bodies: Callable[[str], dict[str, Any]], format_: str | None
) -> None:
    def check(answer: Any) -> None:
        assert FORMATS[format_ or "png"](answer.payload.read())

    def wanted(prefix: str) -> dict[str, Any]:
        return {} if format_ is None else {"format_": getattr(generated("models"), f"{prefix}FormatType0")(format_)}

    check(api("sample", "sample", pseudo_input=1, seed=7, **wanted("Sample")))
    check(api("pseudo_inputs", "list_pseudo_inputs", **wanted("ListPseudoInputs")))
    check(api("pseudo_inputs", "get_pseudo_input", 1, **wanted("GetPseudoInput")))
    for name, prefix in (("reconstruct", "Reconstruct"), ("novelty_heatmap", "NoveltyHeatmap")):
        for body in bodies(prefix).values():
            check(api("images", name, body=body, **wanted(prefix)))


def test_answers_about_images_are_typed(api: Any, bodies: Callable[[str], dict[str, Any]]) -> None:
    scores = [api("images", "score", body=body, num_samples=50) for body in bodies("Score").values()]
    assert len({score.results[0].log_likelihood for score in scores}) == 1
    assert scores[0].results[0].log_likelihood < 0
    for body in bodies("Encode").values():
        (encoded,) = api("images", "encode", body=body).results
        assert len(encoded.posterior["z2"].mean) == 3
    for body in bodies("Novelty").values():
        (novel,) = api("images", "novelty", body=body).results
        assert 0 < novel.p_value <= 1


def test_models_and_health_are_typed(api: Any) -> None:
    default = next(model for model in api("models", "list_models").models if model.default)
    card = api("models", "get_model", default.name)
    assert (card.name, card.model.prior) == (default.name, "vampprior")
    assert api("operations", "live").status == "live"
    assert api("operations", "ready").status == "ready"
    assert "vampprior_" in api("operations", "metrics")


def test_problems_are_typed(generated: Any, service: Any) -> None:
    with generated("client").Client(base_url=service.url) as client:
        answer = generated("api.sample.sample").sync(client=client, pseudo_input=10_000)
    assert (answer.status, answer.type_) == (404, "/problems/pseudo-input-not-found")


@pytest.mark.anyio
async def test_the_generated_client_works_without_blocking(generated: Any, service: Any) -> None:
    async with generated("client").Client(base_url=service.url) as client:
        answer = await generated("api.sample.sample").asyncio(client=client, seed=1)
    assert answer.payload.read() == httpx.post(f"{service.url}/sample?seed=1").content
    assert np.load(io.BytesIO(httpx.post(f"{service.url}/sample?format=npy").content)).ndim == 4
