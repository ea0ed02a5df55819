"""Every model with every prior and every likelihood answers every call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.images import encode_png
from vampprior import LIKELIHOODS, MODELS, PRIORS

COLOUR_MODELS = ("vae", "hvae", "conv_hvae", "resnet_hvae")
COLOUR_KINDS = [
    f"{model}-vampprior-{likelihood}-colour"
    for model in COLOUR_MODELS
    for likelihood in ("discretized_logistic", "logistic_mixture")
]
PAIRS = [
    *product(MODELS, PRIORS, ["bernoulli"]),
    *product(MODELS, ["vampprior"], sorted({*LIKELIHOODS} - {"bernoulli"})),
]
KINDS = [*("-".join(kind) for kind in PAIRS), *COLOUR_KINDS]
WITHOUT_PSEUDO_INPUTS = ("standard", "mog")
GRAY = np.random.default_rng(0).integers(0, 256, (1, 8, 8))
PICTURE = encode_png(((GRAY + 0.5) / 256).astype(np.float32))
COLOUR_PICTURE = encode_png(np.random.default_rng(1).random((3, 8, 8)).astype(np.float32))


def channels_of(kind: str) -> int:
    return 3 if kind in COLOUR_KINDS else 1


@pytest.fixture(scope="module")
def client(
    serve: Callable[..., Any],
    save_model: Callable[..., Path],
    calibrate: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[httpx.Client]:
    store = tmp_path_factory.mktemp("store")
    for seed, kind in enumerate(KINDS):
        model, prior, likelihood, *_ = kind.split("-")
        names = {"model": model, "prior": prior, "likelihood": likelihood}
        folder = save_model(store, kind, "1", seed=seed, **names, image_shape=(channels_of(kind), 8, 8))
        if kind in COLOUR_KINDS:
            calibrate(folder, count=30)
    with serve(model_store=store, default_model=KINDS[0]) as service:
        yield service.client


def answer(response: httpx.Response) -> httpx.Response:
    assert response.status_code == 200, response.text
    return response


@pytest.mark.parametrize("kind", KINDS)
def test_samples(client: httpx.Client, read_npy: Any, kind: str) -> None:
    path = f"/sample?model={kind}&n=3&seed=1&format=npy"
    samples = read_npy(answer(client.post(path)).content)
    assert samples.shape == (3, channels_of(kind), 8, 8)
    assert 0 <= samples.min() < samples.max() <= 1
    drawn = read_npy(answer(client.post(f"{path}&mode=draw")).content)
    steps = drawn if "bernoulli" in kind else drawn * 256 - 0.5
    np.testing.assert_array_equal(steps, np.rint(steps))
    if "pixel_hvae" in kind:
        np.testing.assert_array_equal(samples, drawn)  # it has no mean to show: every sample is a draw


@pytest.mark.parametrize("kind", KINDS)
def test_pseudo_inputs(client: httpx.Client, read_npy: Any, problem: Any, kind: str) -> None:
    prior = kind.split("-")[1]
    gallery = answer(client.get(f"/pseudo-inputs?model={kind}&format=json")).json()
    assert gallery["total"] == (1 if prior == "standard" else 6)
    assert read_npy(answer(client.get(f"/pseudo-inputs?model={kind}&format=npy")).content).shape[1:] == (
        channels_of(kind),
        8,
        8,
    )
    chosen = client.post(f"/sample?model={kind}&pseudo_input=0")
    if prior in WITHOUT_PSEUDO_INPUTS:
        assert gallery["kind"] == "decoded components"
        assert prior in problem(chosen, 404, "pseudo-input-not-found")["detail"]
    else:
        assert gallery["kind"] == "pseudo-inputs"
        answer(chosen)


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_reconstructed_scored_and_encoded(client: httpx.Client, read_npy: Any, kind: str) -> None:
    upload, channels = {"file": COLOUR_PICTURE if kind in COLOUR_KINDS else PICTURE}, channels_of(kind)
    reconstruction = answer(client.post(f"/reconstruct?model={kind}&format=npy&seed=0", files=upload))
    assert read_npy(reconstruction.content).shape == (1, channels, 8, 8)
    (score,) = answer(client.post(f"/loglik?model={kind}&num_samples=40", files=upload)).json()["results"]
    assert score["elbo"] <= score["log_likelihood"] < 0
    assert score["bits_per_dim"] == pytest.approx(-score["log_likelihood"] / (64 * channels * np.log(2)), abs=1e-4)
    (code,) = answer(client.post(f"/encode?model={kind}", files=upload)).json()["results"]
    assert list(code["posterior"]) == (["z1"] if kind.startswith("vae") else ["z2", "z1"])


@pytest.mark.parametrize("kind", COLOUR_KINDS)
def test_new_colour_images_are_decided_and_located(
    client: httpx.Client, read_npy: Any, read_png: Any, kind: str
) -> None:
    upload = {"file": COLOUR_PICTURE}
    (decision,) = answer(client.post(f"/novelty?model={kind}", files=upload)).json()["results"]
    assert 0 < decision["p_value"] <= 1
    assert len(decision["prototypes"]) == 3
    heat = read_npy(answer(client.post(f"/novelty/heatmap?model={kind}&view=heat&format=npy", files=upload)).content)
    assert heat.shape == (1, 1, 8, 8)
    assert 0 <= heat.min() < heat.max() <= 1
    closest = answer(client.post(f"/novelty/heatmap?model={kind}&view=prototypes&format=npy", files=upload))
    assert read_npy(closest.content).shape == (1, 3, 8, 8)
    overlay = answer(client.post(f"/novelty/heatmap?model={kind}", files=upload))
    assert read_png(overlay.content).shape == (8, 8, 3)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "logistic" in kind])
def test_gray_models_score_an_upload_as_it_is(client: httpx.Client, kind: str) -> None:
    """A few levels more are another image, and with the same noise have another score, on one side of one half too."""
    gray = np.repeat(GRAY, channels_of(kind), axis=0)
    pictures = [encode_png(((gray + more + 0.5) / 256).astype(np.float32)) for more in (0, 9 * (gray < 119))]
    path = f"/loglik?model={kind}&num_samples=40&seed=3"
    scores = [
        answer(client.post(path, files={"file": upload})).json()["results"][0]["log_likelihood"] for upload in pictures
    ]
    assert scores[0] != scores[1]
