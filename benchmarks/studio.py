"""How soon the studio answers a stroke, in a browser."""

from __future__ import annotations

from typing import Any

from benchmarks.contestants import SERVICE
from benchmarks.machine import Options
from benchmarks.measure import AtMost, Claim, Series
from benchmarks.results import Result
from benchmarks.servers import running

__all__ = ["stroke"]

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
STROKES = 30


def stroke(options: Options) -> Result:
    """Time from the end of a stroke until reconstruction, novelty and heat map are shown."""
    from playwright.sync_api import sync_playwright

    medians = []
    for _ in range(options.rounds):
        with running(SERVICE, options) as service, sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(service.url)
            times = sorted(_strokes(page))
            medians.append(times[len(times) // 2])
            browser.close()
    series = Series("a stroke answered, median", "ms", medians)
    return Result([series], [Claim(series, AtMost(150.0))], {"strokes": STROKES})


def _strokes(page: Any) -> list[float]:
    """Milliseconds until each stroke was answered; the next one cancels the estimate of the log-likelihood."""
    canvas, root = page.locator(".drawing"), page.locator("html")
    box = canvas.bounding_box()
    for number in range(STROKES):
        x, y = box["x"] + box["width"] * (0.2 + 0.02 * number), box["y"] + box["height"] * 0.2
        before = root.get_attribute("data-strokes")
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 20, y + 0.5 * box["height"], steps=5)
        page.mouse.up()
        page.locator(f"html[data-strokes]:not([data-strokes='{before}'])").wait_for(state="attached")
    times: list[float] = page.evaluate("performance.getEntriesByName('stroke answered').map(entry => entry.duration)")
    return times
