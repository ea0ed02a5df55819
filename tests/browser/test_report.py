"""The report of a bulk run in a browser."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.images import encode_png


@pytest.fixture(scope="module")
def report(url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on random images, one with a name that is HTML, and a broken one with a long name."""
    folder = tmp_path_factory.mktemp("images")
    for index, image in enumerate(np.random.default_rng(0).random((3, 1, 28, 28)) < 0.2):
        (folder / f"{index}<img src=x onerror=alert(1)>.png").write_bytes(encode_png(image.astype(np.float32)))
    (folder / f"{'long' * 40}.png").write_bytes(b"")
    path = folder / "report.html"
    arguments = ["--what", "loglik", "--num-samples", "20", "--html", path, "--output", folder / "scores.csv"]
    address = url.replace("service.test", "127.0.0.1")
    command = [sys.executable, "-m", "service", "score", folder, "--url", address, *arguments]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert ended.returncode == 1, ended.stderr
    return path


def test_the_report_keeps_its_own_policy_and_asks_for_nothing(page: Any, report: Path) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    assert page.trouble == []
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    assert [url for url in asked if url.startswith("file:")] == [report.as_uri()]
    sizes = page.evaluate("[...document.images].map(image => [image.naturalWidth, image.naturalHeight])")
    assert sizes == [[28, 28]] * 6  # three images and their heat maps
    assert "<img src=x onerror=alert(1)>" in page.locator("h3").nth(1).inner_text()


@pytest.mark.parametrize("width", [360, 1300])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_fits_small_and_large_screens_in_both_schemes(
    page: Any, report: Path, width: int, scheme: str
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    brightness = [sum(map(int, color.strip("rgb()").split(","))) for color in (ground, ink)]
    assert (brightness[0] > brightness[1]) == (scheme == "light")
