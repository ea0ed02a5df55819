"""The studio in a browser, on the service with checkpoints that ship with the repository."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import torch

from service.images import encode_png
from vampprior import ModelConfig, Preparation, build_model
from vampprior.card import Card
from vampprior.checkpoint import save_checkpoint

HOST = "service.test"
PATIENCE = 180.0
ROOT = Path(__file__).parents[2]
DIGIT = ROOT / "docs" / "digit.png"
SIZES = [(1280, 900), (400, 800)]
THREE = [(0.3, 0.2), (0.5, 0.15), (0.68, 0.25), (0.45, 0.48), (0.7, 0.7), (0.55, 0.83), (0.3, 0.8)]
VIEWS = ["image", "prototypes", "map", "interpolate", "files"]


@pytest.fixture(scope="module")
def studio_url(serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service with the default checkpoint, small ones of digits, and a random one of colours without calibration."""
    store = tmp_path_factory.mktemp("studio_store")
    for reference in ("static_mnist-hvae-vampprior/3", "digits-hvae-mog/1", "digits-vae-vampprior/1"):
        folder = store / reference
        folder.parent.mkdir()
        folder.symlink_to(ROOT / "model_store" / reference)
    config = ModelConfig(
        image_shape=(3, 40, 32), likelihood="logistic", hidden_dim=16, z1_dim=4, z2_dim=3, num_components=9
    )
    preparation = Preparation((40, 32), "rgb", "crop")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_checkpoint(
            store / "colour" / "1", build_model(config), Card("colour", "1", config, preparation=preparation)
        )
    with serve(store) as url:
        yield url


class Studio:
    """The studio in a tab, with what its tests do again and again."""

    def __init__(self, page: Any, url: str) -> None:
        from playwright.sync_api import expect

        expect.set_options(timeout=1000 * PATIENCE)
        self.page, self.url, self.expect = page, url, expect
        self.requests: list[Any] = []
        self.expected_statuses: set[int] = set()
        page.on("request", lambda request: self.requests.append(request))

    def open(self, **parameters: str) -> None:
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        self.page.goto(f"{self.url}/?{query}")
        self.expect(self.page.locator("#model")).to_be_enabled()

    def draw(self, places: list[tuple[float, float]] = THREE) -> None:
        """A stroke through places of the canvas, and wait until it is answered."""
        box = self.page.locator(".drawing").bounding_box()
        before = self.strokes()
        for index, (x, y) in enumerate(places):
            self.page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=4)
            if index == 0:
                self.page.mouse.down()
        self.page.mouse.up()
        self.answered(before)

    def strokes(self) -> int:
        return int(self.page.locator("html").get_attribute("data-strokes") or 0)

    def answered(self, before: int) -> None:
        """Wait until more strokes have been answered than before."""
        self.expect(self.page.locator("html")).to_have_attribute("data-strokes", re.compile(rf"^(?!{before}$)\d+$"))

    def levels(self, selector: str) -> Any:
        """Red, green and blue of a canvas, (H, W, 3)."""
        data = self.page.locator(selector).first.evaluate(
            "c => [c.height, c.width, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
        )
        return np.array(data[2:], np.uint8).reshape(data[0], data[1], 4)[..., :3]

    def asked(self, path: str) -> list[Any]:
        return [request for request in self.requests if urlsplit(request.url).path == path]

    def query(self) -> dict[str, str]:
        """Parameters of the address."""
        return {name: values[0] for name, values in parse_qs(urlsplit(self.page.url).query).items()}

    def button(self, name: str, within: str = "#view") -> Any:
        return self.page.locator(within).get_by_role("button", name=name, exact=True)

    def saved(self, name: str) -> Path:
        """The file that a button saves."""
        with self.page.expect_download() as download:
            self.button(name).click()
        return Path(download.value.path())

    def check(self) -> None:
        """No complaint, no other host, nothing stored, no text beside the screen."""
        trouble = [
            text
            for text in self.page.trouble
            if not any(f"status of {status}" in text for status in self.expected_statuses)
        ]
        assert trouble == []
        hosts = {urlsplit(request.url).netloc for request in self.requests if request.url.startswith("http")}
        assert hosts == {urlsplit(self.url).netloc}
        stored = self.page.evaluate(
            "async () => [localStorage.length, sessionStorage.length, document.cookie.length,"
            " (await indexedDB.databases()).length]"
        )
        assert stored == [0, 0, 0, 0]
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.fixture(params=SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def studio(page: Any, studio_url: str, request: pytest.FixtureRequest) -> Iterator[Studio]:
    width, height = request.param
    page.set_viewport_size({"width": width, "height": height})
    studio = Studio(page, studio_url)
    yield studio
    studio.check()


def test_a_stroke_is_answered(studio: Studio) -> None:
    studio.open()
    studio.draw()
    studio.expect(studio.page.locator(".verdict")).to_have_text("Like what the model knows")
    studio.expect(studio.page.locator(".p-value")).to_have_text(re.compile(r"^p = 0\.\d+$"))
    studio.expect(studio.page.locator(".sentence")).to_contain_text("of 10,000 calibration images")
    studio.expect(studio.page.locator(".explained .thumb")).to_have_count(3)
    for number in range(3):
        assert studio.levels(f".pictures figure:nth-child({number + 1}) canvas").max() > 100
    studio.expect(studio.page.get_by_role("region", name="Log-likelihood")).to_contain_text("5,000 importance samples")
    studio.expect(studio.page.locator(".figure-value")).to_have_text(re.compile(r"^−\d+\.\d\d ± \d\.\d\d nats$"))


def test_the_heat_map_is_laid_over_the_image(studio: Studio) -> None:
    studio.open()
    studio.draw()
    heat = studio.levels(".pictures canvas")
    studio.button("Heat map").click()
    plain = studio.levels(".pictures canvas")
    assert (plain[..., 0] == plain[..., 2]).all()
    assert set(np.unique(plain)) == {0, 255}  # a binary model sees black and white
    assert (heat[..., 0] > heat[..., 2]).any()


def test_a_drawing_can_be_changed(studio: Studio) -> None:
    studio.open()
    studio.draw([(0.5, 0.2), (0.5, 0.8)])
    line = studio.levels(".drawing").astype(int).sum()
    studio.button("Eraser").click()
    studio.draw([(0.2, 0.5), (0.8, 0.5)])
    erased = studio.levels(".drawing").astype(int).sum()
    assert 0 < erased < line
    studio.button("Undo").click()
    assert studio.levels(".drawing").astype(int).sum() == line
    studio.button("Clear").click()
    assert studio.levels(".drawing").max() == 0
    studio.button("Pen").click()
    studio.page.get_by_label("Pen width").fill("5")
    studio.draw([(0.5, 0.2), (0.5, 0.8)])
    assert studio.levels(".drawing").astype(int).sum() > 2 * line


def test_the_next_stroke_cancels_the_estimate(studio: Studio) -> None:
    studio.open()
    studio.page.route("**/loglik*", lambda route: None)  # is never answered
    with studio.page.expect_request("**/loglik*"):
        studio.draw()
    with studio.page.expect_event("requestfailed", lambda request: "/loglik" in request.url):
        studio.draw([(0.4, 0.4), (0.6, 0.6)])
    studio.page.unroute_all(behavior="ignoreErrors")


@pytest.mark.parametrize("way", ["pick", "paste", "drop"])
def test_an_image_can_be_given(studio: Studio, way: str) -> None:
    studio.open()
    before = studio.strokes()
    if way == "pick":
        studio.page.locator("input[type=file]").set_input_files(DIGIT)
    else:
        event = {
            "paste": "ClipboardEvent('paste', {clipboardData: data",
            "drop": "DragEvent('drop', {dataTransfer: data",
        }
        studio.page.evaluate(
            "levels => { const data = new DataTransfer();"
            "data.items.add(new File([new Uint8Array(levels)], 'digit.png', {type: 'image/png'}));"
            f"document.body.dispatchEvent(new {event[way]}, bubbles: true, cancelable: true}})); }}",
            list(DIGIT.read_bytes()),
        )
    studio.answered(before)
    studio.expect(studio.page.locator(".sentence")).to_contain_text("2,496 of 10,000")  # as for the file itself
    assert studio.levels(".drawing").max() == 255


def test_what_is_no_image_is_said_in_a_sentence(studio: Studio, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    studio.open()
    studio.page.locator("input[type=file]").set_input_files(tmp_path / "text.png")
    alert = studio.page.get_by_role("alert")
    studio.expect(alert).to_contain_text("text.png is not an image that this browser can read")


def test_examples_show_that_likelihood_is_not_novelty(studio: Studio) -> None:
    studio.open()
    for name in ("Noise", "Flipped", "Letter", "Sample", "Blank"):
        before = studio.strokes()
        studio.button(name).click()
        studio.answered(before)
    studio.expect(studio.page.locator(".verdict")).to_have_text("New to the model")
    studio.expect(studio.page.get_by_role("region", name="Log-likelihood")).to_contain_text("More likely than")


def test_the_rate_of_false_alarms_says_what_is_flagged(studio: Studio) -> None:
    studio.open()
    studio.page.locator("input[type=file]").set_input_files(DIGIT)  # p = 0.25
    region = studio.page.get_by_role("region", name="Among known images")
    studio.expect(region).to_contain_text("If 10 of 1,000 known images may be flagged by mistake")
    studio.expect(region).to_contain_text("this image is not flagged.")
    few = region.locator("rect.flagged").count()
    region.get_by_role("slider").fill("200")
    studio.expect(region).to_contain_text("If 200 of 1,000")
    assert region.locator("rect.flagged").count() > few
    studio.expect(region.locator(".marker")).to_be_visible()


def test_prototypes_come_in_one_sheet_and_lazily(studio: Studio) -> None:
    studio.open(view="prototypes")
    cells = studio.page.locator(".cell")
    studio.expect(cells).to_have_count(500)
    studio.expect(cells.first).to_have_css("background-image", re.compile("blob:"))
    assert cells.last.evaluate("cell => cell.style.backgroundImage") == ""
    cells.last.scroll_into_view_if_needed()
    studio.expect(cells.last).to_have_css("background-image", re.compile("blob:"))
    assert len(studio.asked("/pseudo-inputs")) == 1
    studio.button("Inputs").click()
    studio.expect(studio.page).to_have_url(re.compile("show=input"))
    studio.page.wait_for_load_state("networkidle")
    assert len(studio.asked("/pseudo-inputs")) == 2


def test_a_prototype_gives_samples(studio: Studio) -> None:
    studio.open(view="prototypes")
    studio.page.get_by_role("option", name="Prototype 42", exact=True).click()
    detail = studio.page.get_by_role("complementary")
    studio.expect(detail).to_contain_text("Prototype 42")
    assert studio.query()["k"] == "42"
    sheet = ".sheet"
    studio.expect(studio.page.locator(sheet)).to_have_attribute("aria-label", "16 samples of prototype 42")
    first = studio.levels(sheet)
    assert first.shape[:2] == (4 * 30 + 2, 4 * 30 + 2)
    for label, value in (("Seed", "7"), ("Temperature", "0.5"), ("Images", "4")):
        with studio.page.expect_response("**/sample*"):
            detail.get_by_label(label).fill(value)
            detail.get_by_label(label).press("Tab")
    with studio.page.expect_response("**/sample*mode=draw*"):
        studio.button("Draw").click()
    studio.expect(studio.page.locator(sheet)).to_have_attribute("aria-label", "4 samples of prototype 42")
    asked = parse_qs(urlsplit(studio.asked("/sample")[-1].url).query)
    names = {"pseudo_input": "42", "seed": "7", "temperature": "0.5", "n": "4", "mode": "draw"}
    assert {name: asked[name][0] for name in names} == names
    assert studio.saved("PNG").read_bytes().startswith(b"\x89PNG")
    assert np.load(studio.saved("NPY")).shape == (4, 1, 28, 28)
    studio.page.reload()
    studio.expect(detail).to_contain_text("Prototype 42")


def test_prototypes_can_be_sorted_by_similarity(studio: Studio) -> None:
    studio.open(view="prototypes", k="455")
    studio.expect(studio.page.locator(".sheet")).to_be_visible()
    studio.button("Use as my image").click()
    studio.answered(0)
    studio.page.get_by_role("link", name="Prototypes", exact=True).click()
    studio.page.get_by_label("Order").select_option("similar")
    studio.expect(studio.page.locator(".cell").first).to_have_attribute("title", "Prototype 455")


def test_the_map_decodes_places(studio: Studio) -> None:
    studio.open()
    studio.draw()
    studio.page.get_by_role("link", name="Map", exact=True).click()
    legend = studio.page.locator(".legend")
    studio.expect(legend).to_contain_text("2,000 calibration images, 500 prototypes")
    canvas = studio.page.locator(".map")
    canvas.hover(position={"x": 120, "y": 200})
    studio.expect(studio.page.get_by_role("complementary")).to_contain_text("nearest to prototype")
    assert studio.levels(".detail figure canvas").max() > 50
    with studio.page.expect_response("**/decode*"):
        canvas.click(position={"x": 300, "y": 300})
    studio.button("Novelty").click()
    studio.expect(legend).to_contain_text("p below 0.01")
    for name in ("Zoom in", "Zoom out", "Fit"):
        studio.button(name).click()
    studio.button("Select").click()
    box = canvas.bounding_box()
    studio.page.mouse.move(box["x"] + 100, box["y"] + 150)
    studio.page.mouse.down()
    studio.page.mouse.move(box["x"] + 220, box["y"] + 260, steps=3)
    studio.page.mouse.up()
    studio.expect(studio.page.get_by_role("complementary")).to_contain_text("36 places, spread evenly")
    assert studio.levels(".sheet").shape[:2] == (6 * 30 + 2, 6 * 30 + 2)
    assert len(studio.asked("/encode")) == 1  # where the drawing is


def test_a_path_between_two_prototypes(studio: Studio) -> None:
    studio.open(view="interpolate", **{"from": "3", "to": "9"})
    strip = studio.page.locator(".strip")
    studio.expect(strip).to_have_attribute("width", str(24 * 28))
    first = studio.levels(".path-top figure canvas")
    place = studio.page.get_by_label("Place on the path")
    place.fill("23")
    last = studio.levels(".path-top figure canvas")
    assert (first != last).any()
    np.testing.assert_array_equal(studio.levels(".strip")[:, -28:], last)
    studio.button("Play").click()
    studio.expect(place).not_to_have_value("23")
    studio.button("Pause").click()
    studio.page.get_by_role("slider", name="Steps").fill("8")
    studio.expect(strip).to_have_attribute("width", str(8 * 28))
    with studio.page.expect_response("**/interpolate*path=spherical*"):
        studio.button("Arc").click()
    assert studio.query() == {"view": "interpolate", "from": "3", "to": "9", "path": "spherical"}
    assert studio.page.locator(".shares rect").count() > 0
    assert studio.saved("WebP").read_bytes()[8:12] == b"WEBP"
    assert b"acTL" in studio.saved("Animated PNG").read_bytes()
    assert np.load(studio.saved("NPY")).shape == (8, 1, 28, 28)


def test_a_path_from_an_upload(studio: Studio) -> None:
    studio.open(view="interpolate", **{"from": "3", "to": "9"})
    start = studio.page.get_by_role("region", name="Start", exact=True)
    studio.page.wait_for_load_state("networkidle")
    with studio.page.expect_response("**/interpolate*") as response:
        start.locator("input[type=file]").set_input_files(DIGIT)
    assert "start" not in parse_qs(urlsplit(response.value.url).query)
    assert response.value.status == 200
    with studio.page.expect_response("**/interpolate*start=5*"):
        start.get_by_label("Prototype").fill("5")
        start.get_by_label("Prototype").press("Tab")


@pytest.mark.parametrize("layer", ["z2", "z1"])
def test_latent_units_can_be_varied(studio: Studio, layer: str) -> None:
    studio.open(view="interpolate", **{"from": "3", "to": "9"})
    units = studio.page.get_by_role("region", name="Latent units")
    studio.expect(units.get_by_role("slider")).to_have_count(8)
    studio.page.wait_for_load_state("networkidle")
    if layer == "z1":
        with studio.page.expect_response("**/decode*"):
            units.get_by_role("button", name="z1").click()
        studio.page.wait_for_load_state("networkidle")
    picture = ".interpolate-view > section:last-child figure canvas"
    before = studio.levels(picture)
    slider = units.get_by_role("slider").first
    with studio.page.expect_response("**/decode*"):
        slider.fill(slider.get_attribute("max"))
    sent = json.loads(studio.asked("/decode")[-1].post_data)["latents"]
    assert set(sent) == ({"z2"} if layer == "z2" else {"z2", "z1"})
    studio.page.wait_for_load_state("networkidle")
    assert (studio.levels(picture) != before).any()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A digit, noise, and a file that is no image."""
    noise = np.random.default_rng(0).random((1, 28, 28)).astype(np.float32)
    (tmp_path / "noise.png").write_bytes(encode_png(noise))
    (tmp_path / "digit.png").write_bytes(DIGIT.read_bytes())
    (tmp_path / "=broken.png").write_bytes(b"no image")
    return tmp_path


def test_many_files_are_sorted_by_p_value(studio: Studio, folder: Path) -> None:
    studio.expected_statuses = {415}
    studio.open(view="files")
    studio.page.locator("input[type=file]").last.set_input_files(sorted(folder.glob("*.png")))
    rows = studio.page.locator("tbody tr")
    studio.expect(rows).to_have_count(3)
    studio.expect(rows.nth(0)).to_contain_text("noise.png")
    studio.expect(rows.nth(0)).to_contain_text("New")
    studio.expect(rows.nth(1)).to_contain_text("digit.png")
    studio.expect(rows.nth(2)).to_contain_text("Not readable")
    table = list(csv.DictReader(studio.saved("CSV").read_text().splitlines()))
    assert [row["file"] for row in table] == ["noise.png", "digit.png", "'=broken.png"]
    assert float(table[0]["p_value"]) < 0.01 < float(table[1]["p_value"])
    studio.button("File").click()
    studio.expect(rows.nth(0)).to_contain_text("broken.png")
    studio.page.get_by_label("Filter by name").fill("dig")
    studio.expect(rows).to_have_count(1)
    studio.page.get_by_label("Filter by name").fill("")
    studio.page.get_by_label("New ones only").check()
    studio.expect(rows).to_have_count(1)
    studio.expect(rows).to_contain_text("noise.png")


def test_another_model_has_another_canvas(studio: Studio) -> None:
    studio.open()
    studio.draw()
    studio.page.get_by_label("Model").select_option("digits-vae-vampprior@1")
    studio.expect(studio.page.locator(".drawing")).to_have_attribute("width", "8")
    assert studio.query() == {"model": "digits-vae-vampprior@1"}
    studio.draw()
    studio.expect(studio.page.locator(".sentence")).to_contain_text("of 250 calibration images")
    for view in ("Prototypes", "Map", "Interpolate"):
        studio.page.get_by_role("link", name=view, exact=True).click()
        studio.page.wait_for_load_state("networkidle")
        studio.expect(studio.page.get_by_role("alert")).to_have_count(0)
    studio.page.go_back()
    studio.expect(studio.page.locator(".map")).to_be_visible()


def test_a_model_without_pseudo_inputs(studio: Studio) -> None:
    studio.open(view="prototypes", model="digits-hvae-mog@1", k="3")
    studio.expect(studio.page.get_by_role("complementary")).to_contain_text("no pseudo-inputs")
    studio.expect(studio.page.locator(".sheet")).to_have_attribute("aria-label", re.compile("16 samples"))
    studio.page.get_by_role("link", name="Interpolate", exact=True).click()
    studio.expect(studio.page.locator(".strip")).to_have_attribute("width", str(24 * 8))


def test_a_model_of_colours_without_a_calibration(studio: Studio) -> None:
    studio.expected_statuses = {404}
    studio.open(model="colour@1")
    studio.page.get_by_label("Colour", exact=True).fill("#ff0000")
    studio.draw()
    assert studio.levels(".drawing").shape == (40, 32, 3)
    assert studio.levels(".drawing").max(axis=(0, 1)).tolist() == [255, 0, 0]
    studio.expect(studio.page.get_by_role("alert").first).to_contain_text("has no calibration")
    assert studio.levels(".pictures figure:nth-child(2) canvas").max() > 0
    studio.page.get_by_role("link", name="Prototypes", exact=True).click()
    studio.page.get_by_role("option", name="Prototype 8", exact=True).click()
    studio.expect(studio.page.locator(".sheet")).to_have_attribute("aria-label", "16 samples of prototype 8")
    studio.page.get_by_role("link", name="Interpolate", exact=True).click()
    strip = studio.page.locator(".strip")
    studio.expect(strip).to_have_attribute("width", str(24 * 32))
    studio.expect(studio.page.locator(".shares")).to_be_visible()
    whole = studio.levels(".strip")
    studio.page.get_by_role("slider", name="Steps").fill("64")  # too many numbers for JSON
    studio.expect(strip).to_have_attribute("width", str(64 * 32))
    studio.expect(studio.page.locator(".shares")).to_be_hidden()
    difference = np.abs(studio.levels(".strip")[:, :32].astype(int) - whole[:, :32])
    assert difference.max() <= 1


def test_a_file_is_fitted_as_the_model_prepares_images(studio: Studio, tmp_path: Path) -> None:
    studio.expected_statuses = {404}
    wide = np.zeros((3, 40, 120), np.float32)
    wide[0], wide[1, :, 40:80], wide[0, :, 40:80] = 1.0, 1.0, 0.0  # green between red
    (tmp_path / "wide.png").write_bytes(encode_png(wide))
    studio.open(model="colour@1")
    before = studio.strokes()
    studio.page.locator("input[type=file]").first.set_input_files(tmp_path / "wide.png")
    studio.answered(before)
    assert (studio.levels(".drawing") == [0, 255, 0]).all()
    studio.expect(studio.page.get_by_text("2.9 px")).to_be_visible()


def test_the_table_of_files_names_the_rate_of_the_answer(studio: Studio) -> None:
    result = {
        "p_value": 0.0476,
        "score": 1.7,
        "novel": True,
        "summary": "New.",
        "statistics": {"elbo": {"value": -9.0}},
    }
    answer = {"false_alarm_rate": 1 / 21, "results": [result]}
    studio.page.route("**/novelty?*", lambda route: route.fulfill(json=answer))
    studio.open(view="files")
    studio.page.locator("input[type=file]").last.set_input_files(DIGIT)
    studio.expect(studio.page.locator("#view")).to_contain_text("1 new to the model at a false-alarm rate of 0.0476.")


def test_the_code_that_is_shown_runs(studio: Studio, tmp_path: Path) -> None:
    studio.open()
    studio.page.locator("input[type=file]").set_input_files(DIGIT)
    studio.answered(0)
    studio.page.get_by_role("button", name="Code for novelty").click()
    dialog = studio.page.get_by_role("dialog")
    command = shlex.split(dialog.get_by_label("curl", exact=True).inner_text().replace("\\\n", " "))
    assert command == ["curl", "-F", "file=@image.png", f"{studio.url}/novelty"]
    with studio.page.expect_download() as download:
        dialog.get_by_role("button", name="Save image.png").click()
    download.value.save_as(tmp_path / "image.png")
    program = dialog.get_by_label("Python", exact=True).inner_text().replace(HOST, "127.0.0.1")
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "'p_value': 0.249675" in run.stdout
    dialog.get_by_role("button", name="Close").click()
    studio.expect(dialog).to_be_hidden()


def test_a_problem_is_a_sentence_and_can_be_tried_again(studio: Studio) -> None:
    studio.expected_statuses = {503}
    studio.open()
    headers = {"Content-Type": "application/problem+json", "Retry-After": "3"}
    body = json.dumps({"detail": "the queue is full", "request_id": "abc"})
    studio.page.route("**/novelty", lambda route: route.fulfill(status=503, headers=headers, body=body))
    studio.draw()
    alert = studio.page.get_by_role("alert")
    studio.expect(alert).to_contain_text("The queue is full. Try again in 3 s.")
    studio.page.unroute("**/novelty")
    alert.get_by_role("button", name="Try again").click()
    studio.expect(studio.page.locator(".verdict")).to_have_text("Like what the model knows")
    studio.expect(alert).to_have_count(0)


def test_long_work_shows_progress_and_can_be_cancelled(studio: Studio, folder: Path) -> None:
    studio.open(view="files")
    studio.page.route("**/novelty*", lambda route: None)  # is never answered
    studio.page.locator("input[type=file]").last.set_input_files(folder / "digit.png")
    busy = studio.page.locator("#busy")
    studio.expect(busy).to_contain_text("0 of 1 files")
    busy.get_by_role("button", name="Cancel").click()
    studio.expect(busy).to_be_hidden()
    studio.expect(studio.page.locator(".files-view > .note")).to_contain_text("Cancelled.")
    studio.page.unroute_all(behavior="ignoreErrors")


def test_a_key_is_asked_for_and_kept_in_memory(page: Any, serve: Any, tiny_store: Path) -> None:
    with serve(tiny_store, api_keys="secret") as url:
        studio = Studio(page, url)
        studio.expected_statuses = {401, 404}  # and the tiny model has no calibration
        page.goto(url)
        studio.expect(page.get_by_role("alert")).to_contain_text("Enter a key")
        page.get_by_role("textbox", name="API key").fill("secret")
        page.get_by_role("button", name="Use key").click()
        studio.expect(page.locator(".drawing")).to_be_visible()
        page.wait_for_load_state("networkidle")
        assert "secret" not in page.url
        studio.check()


def test_everything_works_with_the_keyboard_alone(studio: Studio) -> None:
    studio.open()
    press = studio.page.keyboard.press

    def tab_to(selector: str) -> None:
        for _ in range(60):
            press("Tab")
            if studio.page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        pytest.fail(f"the Tab key does not lead to {selector}")

    tab_to(".drawing")
    for key in ["ArrowUp"] * 6 + ["Space"] + ["Shift+ArrowDown"] * 12:
        press(key)
    studio.answered(0)
    assert (studio.levels(".drawing").max(axis=(1, 2)) > 128).sum() >= 12
    press("e")
    studio.expect(studio.button("Eraser")).to_have_attribute("aria-pressed", "true")
    for key in ["z"] * 13:
        press(key)
    assert studio.levels(".drawing").max() == 0
    studio.open()
    tab_to("#tabs a:nth-child(2)")
    press("Enter")
    tab_to(".cell")
    for key in ("ArrowRight", "ArrowDown", "Enter"):
        press(key)
    studio.expect(studio.page.locator(".cell[aria-selected=true]")).to_have_count(1)
    studio.open()
    tab_to("#tabs a:nth-child(3)")
    press("Enter")
    studio.expect(studio.page.locator(".legend")).to_contain_text("prototypes")
    tab_to(".map")
    press("ArrowRight")
    studio.expect(studio.page.get_by_role("complementary")).to_contain_text("nearest to prototype")
    for key in ("+", "-", "s"):
        press(key)
    studio.expect(studio.page.get_by_role("complementary")).to_contain_text("36 places")


def test_a_finger_draws(studio: Studio) -> None:
    studio.open()
    session = studio.page.context.new_cdp_session(studio.page)
    box = studio.page.locator(".drawing").bounding_box()

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]} for x, y in places]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", (0.5, 0.2))
    touch("touchMove", (0.5, 0.5))
    touch("touchMove", (0.5, 0.8))
    touch("touchEnd")
    studio.answered(0)
    assert (studio.levels(".drawing").max(axis=(1, 2)) > 128).sum() >= 15


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing(studio: Studio, view: str, scheme: str) -> None:
    studio.page.emulate_media(color_scheme=scheme)
    studio.open()
    studio.draw()
    if view != "image":
        studio.page.get_by_role("link", name=view.capitalize(), exact=True).click()
        studio.page.wait_for_load_state("networkidle")
    if view == "prototypes":
        studio.page.get_by_role("option", name="Prototype 7", exact=True).click()
        studio.expect(studio.page.locator(".sheet")).to_have_attribute("aria-label", re.compile("16 samples"))
    studio.page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    found = studio.page.evaluate(
        "axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})"
    )
    assert [(item["id"], [node["html"][:200] for node in item["nodes"][:3]]) for item in found["violations"]] == []
