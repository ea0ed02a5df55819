"""`POST /decode` and `POST /interpolate`: images from latents."""

from __future__ import annotations

import io
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from vampprior import LatentModel
from vampprior.distributions import DiagonalNormal

TOP = {"tiny-vamp@10": "z2", "tiny-colour@1": "z2", "tiny-vae@1": "z1", "tiny-pixel@1": "z2"}


@pytest.fixture(scope="module")
def service(serve: Any, save_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Models of two layers, of one, of colours, and with a PixelCNN decoder."""
    store = tmp_path_factory.mktemp("latents")
    save_model(store, "tiny-vamp", "10", seed=10)
    save_model(store, "tiny-vae", "1", seed=2, model="vae")
    save_model(
        store, "tiny-colour", "1", seed=4, prior="weighted_vampprior", likelihood="logistic", image_shape=(3, 8, 8)
    )
    save_model(store, "tiny-pixel", "1", seed=5, model="pixel_hvae")
    with serve(model_store=store, default_model="tiny-vamp", cache_memory_bytes=0) as running:
        running.folder = store
        yield running


@pytest.fixture(scope="module")
def client(service: Any) -> httpx.Client:
    return service.client


@pytest.fixture(scope="module")
def load(service: Any) -> Any:
    from vampprior.checkpoint import load_checkpoint

    return lambda reference: load_checkpoint(service.folder.joinpath(*reference.split("@")))[0].eval()


def random_latents(model: LatentModel, count: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(count, dim, generator=generator) for name, dim in model.latent_dims.items()}


def decode(client: httpx.Client, latents: dict[str, Any], **query: Any) -> httpx.Response:
    return client.post("/decode", params=query, json={"latents": latents})


@pytest.mark.parametrize("reference", ["tiny-vamp@10", "tiny-colour@1", "tiny-vae@1"])
def test_latents_of_all_layers_are_decoded(client: httpx.Client, load: Any, read_npy: Any, reference: str) -> None:
    model = load(reference)
    latents = random_latents(model)
    body = {name: layer.tolist() for name, layer in latents.items()}
    shown = read_npy(decode(client, body, model=reference, format="npy").content)
    with torch.no_grad():
        expected = model.mean_image(tuple(latents.values()))
    np.testing.assert_allclose(shown, expected, atol=1e-5)


def test_layers_that_are_left_out_are_at_their_means(client: httpx.Client, load: Any, read_npy: Any) -> None:
    model = load("tiny-vamp@10")
    top = random_latents(model)["z2"]
    shown = read_npy(decode(client, {"z2": top.tolist()}, format="npy").content)
    with torch.no_grad():
        normal = DiagonalNormal(top, torch.zeros_like(top))
        expected = model.mean_image((top, model.p_z1(top).mean))
    assert normal.mean.shape == top.shape
    np.testing.assert_allclose(shown, expected, atol=1e-6)


def test_pixels_of_an_autoregressive_model_follow_from_the_seed(client: httpx.Client, read_npy: Any) -> None:
    query = {"model": "tiny-pixel", "format": "npy"}
    first, again, other = (
        read_npy(decode(client, {"z2": [[0.5, 0.1, -1.0]] * 2}, seed=seed, **query).content) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[0], first[1])
    assert (first != other).any()


@pytest.mark.parametrize(
    ("body", "status", "slug", "words"),
    [
        ({"latents": {}}, 422, "bad-parameter", "give z2"),
        ({"latents": {"z1": [[0, 0, 0, 0]]}}, 422, "bad-parameter", "give z2"),
        ({"latents": {"z2": [[0, 0, 0]], "z9": [[0]]}}, 422, "bad-parameter", "give z2"),
        ({"latents": {"z2": []}}, 422, "bad-parameter", "empty"),
        ({"latents": {"z2": [[0, 0]]}}, 422, "bad-parameter", "1 lists of 3 numbers"),
        ({"latents": {"z2": [[0, 0, 0]], "z1": []}}, 422, "bad-parameter", "1 lists of 4 numbers"),
        ({"latents": {"z2": [[0, 0, 1e39]]}}, 422, "bad-parameter", "between -10,000 and 10,000"),
        ({"latents": {"z2": [[0, 0, -10001]]}}, 422, "bad-parameter", "between -10,000 and 10,000"),
        ({"latents": {"z2": [[0, 0, "1"]]}}, 422, "bad-parameter", "Expected"),
        ({"latents": {"z2": [[0, 0, 0]]}, "seed": 1}, 422, "bad-parameter", "unknown field"),
        ([], 422, "bad-parameter", "Expected"),
        ({"latents": {"z2": [[0, 0, 0]] * 65}}, 413, "too-large", "65 images"),
    ],
)
def test_latents_that_cannot_be_used(
    client: httpx.Client, problem: Any, body: Any, status: int, slug: str, words: str
) -> None:
    assert words in problem(client.post("/decode", json=body), status, slug)["detail"]


def test_bodies_that_cannot_be_read(client: httpx.Client, problem: Any) -> None:
    json_type = {"Content-Type": "application/json"}
    problem(
        client.post("/decode", content=b"{}", headers={"Content-Type": "text/plain"}), 415, "unsupported-media-type"
    )
    problem(client.post("/decode", content=b"{", headers=json_type), 422, "bad-parameter")
    problem(client.post("/decode", content=b"[" * 100_000, headers=json_type), 422, "bad-parameter")
    problem(client.post("/decode", content=b" " * (1 << 20) + b"{}", headers=json_type), 413, "too-large")


def test_bodies_of_latents_count_towards_those_that_are_held(serve: Any, problem: Any) -> None:
    with serve(held_body_bytes=1000, max_body_bytes=1000) as service:
        service.app.state.service.uploads.body_bytes.take(990)
        problem(service.client.post("/decode", json={"latents": {"z2": [[0, 0, 0]]}}), 503, "overloaded")


def interpolate(client: httpx.Client, *uploads: bytes, **query: Any) -> httpx.Response:
    files = [("file", ("image.png", upload)) for upload in uploads]
    response = client.post("/interpolate", params=query, files=files or None)
    assert response.status_code == 200, response.text
    return response


@pytest.mark.parametrize("path", ["linear", "spherical"])
@pytest.mark.parametrize("reference", list(TOP))
def test_a_path_begins_and_ends_with_the_reconstructions(
    client: httpx.Client, images: Any, pngs: list[bytes], read_npy: Any, reference: str, path: str
) -> None:
    query = {"model": reference, "format": "npy"}
    files = [("file", (f"{index}.png", png)) for index, png in enumerate(pngs[:2])]
    reconstructed = read_npy(client.post("/reconstruct", params=query | {"seed": 3}, files=files).content)
    shown = read_npy(interpolate(client, *pngs[:2], steps=5, path=path, seed=3, **query).content)
    assert len(shown) == 5
    np.testing.assert_allclose(shown[0], reconstructed[0], atol=1e-4)
    if reference != "tiny-pixel@1":  # its pixels are drawn with a row of random numbers for each image
        np.testing.assert_allclose(shown[-1], reconstructed[1], atol=1e-4)


def test_a_path_between_pseudo_inputs_joins_their_decoded_means(client: httpx.Client, read_npy: Any) -> None:
    shown = read_npy(interpolate(client, start=1, end=4, steps=3, format="npy").content)
    decoded = read_npy(client.get("/pseudo-inputs?view=decoded&format=npy").content)
    np.testing.assert_allclose(shown[[0, -1]], decoded[[1, 4]], atol=1e-6)
    middle = interpolate(client, start=1, end=4, steps=3, format="json").json()["top"]
    np.testing.assert_allclose(middle[1], np.mean([middle[0], middle[2]], axis=0), atol=1e-5)


def test_an_arc_keeps_its_norm_between_those_of_its_ends(client: httpx.Client) -> None:
    def norms(path: str) -> Any:
        return np.linalg.norm(
            interpolate(client, start=1, end=4, steps=9, path=path, format="json").json()["top"], axis=1
        )

    line, arc = norms("linear"), norms("spherical")
    np.testing.assert_allclose(line[[0, -1]], arc[[0, -1]], rtol=1e-5)
    assert arc[4] > line[4]


def test_a_pseudo_input_and_an_upload_keep_their_sides(client: httpx.Client, pngs: list[bytes], read_npy: Any) -> None:
    forth = read_npy(interpolate(client, pngs[0], start=2, steps=4, format="npy").content)
    back = read_npy(interpolate(client, pngs[0], end=2, steps=4, format="npy").content)
    np.testing.assert_allclose(forth, back[::-1], atol=1e-5)


def test_json_names_the_responsible_components(client: httpx.Client, load: Any) -> None:
    answer = interpolate(client, start=0, end=3, steps=6, format="json").json()
    assert answer["shape"] == [6, 1, 8, 8]
    with torch.no_grad():
        shares = load("tiny-vamp@10").prior_mixture().responsibilities(torch.tensor(answer["top"])).numpy()
    for row, named in zip(shares, answer["components"], strict=True):
        assert [item["index"] for item in named] == np.argsort(-row)[:3].tolist()
        np.testing.assert_allclose([item["probability"] for item in named], np.sort(row)[:2:-1], atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "media_type", "format_"), [("webp", "image/webp", "WEBP"), ("apng", "image/apng", "PNG")]
)
@pytest.mark.parametrize("reference", ["tiny-vamp@10", "tiny-colour@1"])
def test_an_animation_shows_every_step(
    client: httpx.Client, read_npy: Any, as_gray: Any, reference: str, kind: str, media_type: str, format_: str
) -> None:
    query = {"model": reference, "start": 0, "end": 3, "steps": 5}
    response = interpolate(client, animate=kind, scale=2, duration=100, **query)
    assert response.headers["content-type"] == media_type
    animation = Image.open(io.BytesIO(response.content), formats=[format_])
    assert (animation.n_frames, animation.size) == (5, (16, 16))
    values = read_npy(interpolate(client, format="npy", **query).content)
    for index in (0, 4):
        animation.seek(index)
        frame = np.asarray(animation.convert("RGB"))[::2, ::2]
        expected = np.broadcast_to(as_gray(values[index]).transpose(1, 2, 0), (8, 8, 3))
        np.testing.assert_array_equal(frame, expected)


def test_a_strip_is_one_row(client: httpx.Client, read_png: Any) -> None:
    assert read_png(interpolate(client, start=0, end=3, steps=5).content).shape == (8 + 4, 5 * 10 + 2)


def test_ends_that_cannot_be_used(client: httpx.Client, pngs: list[bytes], problem: Any) -> None:
    def ask(count: int, **query: Any) -> httpx.Response:
        files = [("file", ("image.png", pngs[0]))] * count
        return client.post("/interpolate", params=query, files=files or None)

    assert "send 1" in problem(ask(2, start=1), 422, "bad-parameter")["detail"]
    assert "upload an image" in problem(ask(0, start=1), 422, "bad-parameter")["detail"]
    assert "send 2" in problem(ask(1), 422, "bad-parameter")["detail"]
    problem(ask(1, start=1, end=2), 422, "bad-parameter")
    problem(ask(0, start=1, end=6), 404, "pseudo-input-not-found")
    problem(ask(0, start=1, end=2, steps=65), 422, "bad-parameter")


def test_equal_requests_are_answered_from_the_cache(serve: Any) -> None:
    with serve() as service:
        for path, options in (
            ("/interpolate?start=1&end=2&model=tiny-vamp@10", {}),
            ("/decode?model=tiny-vamp@10", {"json": {"latents": {"z2": [[0, 0, 0]]}}}),
            ("/decode?model=tiny-vamp@10", {"json": {"latents": {"z2": [[0, 0, 1]]}}}),
        ):
            answers = [service.client.post(path, **options) for _ in range(2)]
            assert [answer.headers["x-cache"] for answer in answers] == ["miss", "hit"]
            assert answers[0].content == answers[1].content


def test_the_gallery_shows_decoded_components(client: httpx.Client, load: Any, read_npy: Any) -> None:
    model = load("tiny-vamp@10")
    shown = read_npy(client.get("/pseudo-inputs?view=decoded&format=npy").content)
    np.testing.assert_allclose(shown, model.sample(component=torch.arange(6), noise=torch.zeros(6, 7)), atol=1e-6)
    assert client.get("/pseudo-inputs?view=decoded&format=json").json()["kind"] == "decoded components"
    assert client.get("/pseudo-inputs?format=json").json()["kind"] == "pseudo-inputs"
