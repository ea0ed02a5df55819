"""Swagger UI as somebody meets it who opens the service in a browser and clicks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from service.images import encode_png

CALLS = [
    "POST /sample",
    "POST /reconstruct",
    "POST /loglik",
    "POST /novelty/heatmap",
    "POST /encode",
    "GET /pseudo-inputs",
    "GET /pseudo-inputs/{k}",
    "GET /models",
    "GET /models/{name}",
    "GET /health/live",
    "GET /health/ready",
    "GET /metrics",
    "GET /v2",
    "GET /v2/health/live",
    "GET /v2/health/ready",
    "GET /v2/models/{model_name}",
    "GET /v2/models/{model_name}/ready",
    "GET /v2/models/{model_name}/versions/{model_version}",
    "GET /v2/models/{model_name}/versions/{model_version}/ready",
    "POST /v2/models/{model_name}/infer",
    "POST /v2/models/{model_name}/versions/{model_version}/infer",
]


NEED_MORE = [
    "POST /novelty",
    "POST /interpolate",
    "POST /decode",
    "GET /models/{name}/calibration",
    "GET /models/{name}/map",
    "POST /models/reload",
]
"""Calls that need a calibrated model, two images, a model with 40 latent units, or a key."""


class Call:
    """One call of the page, unfolded."""

    def __init__(self, page: Any, name: str) -> None:
        method, path = name.split()
        exactly = page.locator(f'.opblock-summary-path[data-path="{path}"]')
        self.block = page.locator(f".opblock-{method.lower()}").filter(has=exactly)
        self.block.locator(".opblock-summary").click()
        self.block.locator(".execute").wait_for()

    def execute(self) -> str:
        """Press the button; the status of the answer."""
        self.block.locator(".execute").click()
        status: str = self.block.locator(".live-responses-table .response-col_status").last.inner_text()
        return status.split()[0]

    def text(self) -> str:
        """The body of the answer."""
        body: str = self.block.locator(".live-responses-table .response-col_description pre").first.inner_text()
        return body

    def image_size(self) -> list[int]:
        """Width and height of the image that was answered, once it shows."""
        image = self.block.locator(".live-responses-table img")
        image.wait_for()
        size: list[int] = image.evaluate(
            "image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])"
        )
        return size


@pytest.fixture
def docs(page: Any, url: str) -> Any:
    page.goto(f"{url}/docs")
    page.locator(".opblock").first.wait_for()
    return page


def test_the_documentation_asks_no_other_host(page: Any, url: str) -> None:
    addresses = []
    page.on("request", lambda request: addresses.append(request.url))
    page.goto(f"{url}/docs", wait_until="networkidle")
    page.locator(".opblock").first.wait_for()
    asked = {urlsplit(address).netloc for address in addresses if address.startswith("http")}
    assert asked == {urlsplit(url).netloc}
    assert page.trouble == []


def test_every_call_can_be_tried_as_it_stands(docs: Any) -> None:
    assert docs.locator(".opblock").count() == len(CALLS) + len(NEED_MORE)
    statuses = {name: Call(docs, name).execute() for name in CALLS}
    assert statuses == dict.fromkeys(CALLS, "200")
    assert docs.trouble == []


def test_an_image_is_shown(docs: Any) -> None:
    for name in ("POST /sample", "POST /reconstruct"):
        call = Call(docs, name)
        call.execute()
        assert call.image_size() == [28, 28]


def test_a_score_is_shown(docs: Any) -> None:
    call = Call(docs, "POST /loglik")
    call.execute()
    (result,) = json.loads(call.text())["results"]
    assert result["log_likelihood"] < 0


def test_a_file_can_be_chosen(docs: Any, tmp_path: Path) -> None:
    digit = tmp_path / "digit.png"
    digit.write_bytes(encode_png(np.zeros((1, 28, 28), np.float32)))
    call = Call(docs, "POST /encode")
    call.block.locator(".opblock-section-request-body .content-type").select_option("multipart/form-data")
    call.block.locator("input[type=file]").set_input_files(digit)
    assert call.execute() == "200"
    assert json.loads(call.text())["results"][0]["file"] == "digit.png"
