"""A model's own preparation: uploads of any size and kind become the pixels that training reads from the same files."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from service.bulk.command import app
from service.images import decode_image
from training.data.image_files import read_pixels
from vampprior import Preparation
from vampprior.card import read_card, write_card

SMOOTH = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)).resize((61, 43))
)
"""Smooth colours with alpha, 43 rows of 61."""
DEEP = (SMOOTH[..., 0].astype(np.uint16) << 8) + SMOOTH[..., 1]
UPLOADS = ["/loglik?num_samples=20", "/novelty", "/novelty/heatmap?format=npy", "/reconstruct?format=npy", "/encode"]


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def encoded(mode: str, kind: str, **options: Any) -> bytes:
    image = Image.fromarray(DEEP) if mode == "I;16" else Image.fromarray(SMOOTH)
    if mode == "P with alpha":
        image = image.quantize(60)
    elif mode == "P":
        image = image.convert("RGB").quantize(60)
    elif mode == "RGB with a transparent colour":
        image = image.convert("RGB").quantize(30).convert("RGB")
        options["transparency"] = image.getpixel((3, 3))
    elif mode not in ("I;16", "RGBA"):
        image = image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


FILES = {
    **{f"jpeg {n}": encoded("RGB", "JPEG", exif=exif(n)) for n in range(1, 9)},
    **{f"png {n}": encoded("RGB", "PNG", exif=exif(n)) for n in range(1, 9)},
    **{f"webp {n}": encoded("RGB", "WEBP", exif=exif(n)) for n in range(1, 9)},
    "gray jpeg": encoded("L", "JPEG"),
    "progressive jpeg": encoded("RGB", "JPEG", progressive=True),
    "cmyk jpeg": encoded("CMYK", "JPEG"),
    "gray png": encoded("L", "PNG"),
    "png of one bit": encoded("1", "PNG"),
    "16-bit png": encoded("I;16", "PNG"),
    "png with alpha": encoded("RGBA", "PNG"),
    "gray png with alpha": encoded("LA", "PNG"),
    "png with a transparent level": encoded("L", "PNG", transparency=int(SMOOTH[0, 0, 0])),
    "png with a transparent colour": encoded("RGB with a transparent colour", "PNG"),
    "png with a palette": encoded("P", "PNG"),
    "png with a palette with alpha": encoded("P with alpha", "PNG"),
    "webp with alpha": encoded("RGBA", "WEBP"),
    "lossless webp with alpha": encoded("RGBA", "WEBP", lossless=True),
}


@pytest.mark.parametrize("mode", ["rgb", "gray", "binary"])
@pytest.mark.parametrize("name", FILES)
def test_trained_and_served_pixels_are_equal(name: str, mode: Any, tmp_path: Path) -> None:
    file = tmp_path / "image"
    file.write_bytes(FILES[name])
    trained, served = read_pixels(file), decode_image(FILES[name], max_pixels=10_000)
    assert trained.shape[:2] == served.shape[:2]
    for size, fit in (((16, 16), "crop"), ((9, 20), "pad"), ((30, 8), "stretch"), (served.shape[:2], "crop")):
        preparation = Preparation(size, mode, fit)
        np.testing.assert_array_equal(preparation.prepare(trained), preparation.prepare(served))


@pytest.fixture(scope="module")
def own_store(save_model: Any, calibrate: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a model of gray images whose card has a preparation and a view."""
    store = tmp_path_factory.mktemp("store")
    folder = save_model(store, "own", "1", seed=1, likelihood="discretized_logistic")
    calibrate(folder)
    changes = {"preparation": Preparation((8, 8), "gray", "crop").to_dict(), "pseudo_input_view": "decoded"}
    card = read_card(folder)
    write_card(folder, type(card).from_dict(card.to_dict() | changes))
    return store


@pytest.fixture(scope="module")
def prepared(serve: Any, own_store: Path) -> Iterator[Any]:
    """A service with this store."""
    with serve(model_store=own_store, default_model="own", cache_memory_bytes=1_000_000) as service:
        yield service


def of_size(levels: np.ndarray) -> bytes:
    """An image that has the model's size already."""
    buffer = io.BytesIO()
    Image.fromarray(levels[0]).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("path", UPLOADS)
def test_uploads_of_any_size_are_prepared_without_resize(prepared: Any, path: str) -> None:
    large = FILES["jpeg 6"]
    small = of_size(Preparation((8, 8), "gray", "crop").prepare(decode_image(large, max_pixels=10_000)))
    answers = [
        prepared.client.post(path + extra, content=content, headers={"Content-Type": "image/png"})
        for content, extra in ((large, ""), (small, ""), (large, ("&" if "?" in path else "?") + "resize=true"))
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200], answers[0].text
    assert answers[0].content == answers[1].content == answers[2].content


def test_invert_swaps_dark_and_light_before_the_preparation(prepared: Any, read_npy: Any) -> None:
    def reconstruction(levels: np.ndarray, query: str = "") -> np.ndarray:
        headers = {"Content-Type": "image/png"}
        answer = prepared.client.post(f"/reconstruct?format=npy{query}", content=of_size(levels[None]), headers=headers)
        return read_npy(answer.content)

    levels = SMOOTH[..., 0].copy()
    np.testing.assert_array_equal(reconstruction(levels, "&invert=true"), reconstruction(~levels))


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("remote", [False, True])
def test_bulk_scoring_prepares_images_as_uploads(
    prepared: Any, own_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: bool, invert: bool
) -> None:
    for name, value in (("MODEL_STORE", str(own_store)), ("DEFAULT_MODEL", "own"), ("WORKERS", "1")):
        monkeypatch.setenv(f"VAMP_{name}", value)
    names = {"turned.jpg": "jpeg 6", "alpha.png": "png with alpha", "deep.png": "16-bit png"}
    for name, kind in names.items():
        (tmp_path / name).write_bytes(FILES[kind])
    output = tmp_path / "scores.jsonl"
    options = [*(["--url", prepared.url] if remote else []), *(["--invert"] if invert else [])]
    files = [str(tmp_path / name) for name in names]
    arguments = ["score", *files, "--num-samples", "20", "--output", str(output), *options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    uploads = [("file", FILES[kind]) for kind in names.values()]
    query = f"seed=0&invert={str(invert).lower()}"
    scores = prepared.client.post(f"/loglik?num_samples=20&{query}", files=uploads).json()["results"]
    decisions = prepared.client.post(f"/novelty?{query}", files=uploads).json()["results"]
    assert [row["log_likelihood"] for row in rows] == [score["log_likelihood"] for score in scores]
    assert [row["p_value"] for row in rows] == [decision["p_value"] for decision in decisions]
    assert [row["novelty_score"] for row in rows] == [decision["score"] for decision in decisions]


def test_models_without_a_preparation_still_need_resize(client: Any, problem: Any) -> None:
    files = {"file": FILES["gray png"]}
    assert "61 x 43" in problem(client.post("/encode", files=files), 422, "wrong-size")["detail"]
    assert client.post("/encode?resize=true", files=files).status_code == 200


def test_the_card_chooses_the_view_of_pseudo_inputs(prepared: Any) -> None:
    kinds = {
        query: prepared.client.get(f"/pseudo-inputs?format=json{query}").json()["kind"]
        for query in ("", "&view=input", "&view=decoded")
    }
    assert kinds == {"": "decoded components", "&view=input": "pseudo-inputs", "&view=decoded": "decoded components"}
    assert prepared.client.get("/pseudo-inputs/3?format=json").json()["kind"] == "decoded components"
