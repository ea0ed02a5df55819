"""The Python client against a real service."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vampprior_client as vamp
from vampprior_client import AsyncClient, Client, Retries
from vampprior_client.images import _png

OPTIONS: dict[str, Any] = {"num_samples": 20}


@pytest.fixture(scope="module")
def vampclient(service: Any) -> Iterator[Client]:
    with Client(service.url) as client:
        yield client


@pytest.fixture
def sources(images: NDArray[np.float32], pngs: list[bytes], tmp_path: Path) -> list[Any]:
    """The five images, each in another form."""
    path = tmp_path / "third.png"
    path.write_bytes(pngs[2])
    levels = (images[4, 0] * 255).astype(np.uint8)
    return [images[0], pngs[1], str(path), Image.open(io.BytesIO(pngs[3])), levels]


def test_images_of_every_form_arrive_as_they_are(vampclient: Client, client: httpx.Client, sources: Any, pngs: Any):
    files = [("file", png) for png in pngs]
    expected = client.post("/loglik", params=OPTIONS, files=files).json()
    results = list(vampclient.log_likelihood(sources, **OPTIONS))
    assert [result.file for result in results] == ["image 0", "image 1", "third.png", "image 3", "image 4"]
    for result, answer in zip(results, expected["results"], strict=True):
        for name in ("log_likelihood", "standard_error", "elbo", "pareto_k", "reliability", "percentile", "summary"):
            assert getattr(result, name) == answer[name]
        assert result.model == "tiny-vamp@10"


def test_an_array_of_images_is_several(vampclient: Client, images: Any) -> None:
    apart = [next(vampclient.novelty(image)) for image in images]
    together = list(vampclient.novelty(images))
    assert [result.p_value for result in together] == [result.p_value for result in apart]
    assert together[0].statistics["elbo"].value < 0
    assert 0 <= together[0].prototypes[0].index < 6


def test_samples_are_those_of_the_http_interface(vampclient: Client, client: httpx.Client, read_npy: Any) -> None:
    samples = vampclient.sample(pseudo_input=2, n=3, seed=5, mode="draw")
    answer = client.post("/sample?pseudo_input=2&n=3&seed=5&mode=draw&format=npy")
    np.testing.assert_array_equal(samples.images, read_npy(answer.content))
    assert (samples.seed, samples.model) == (5, "tiny-vamp@10")
    drawn = vampclient.sample()
    np.testing.assert_array_equal(vampclient.sample(seed=drawn.seed).images, drawn.images)


def test_reconstructions_and_heat_maps_are_arrays(vampclient: Client, client: httpx.Client, images: Any, read_npy: Any):
    decoded = list(vampclient.reconstruct(images, model="tiny-normal"))
    heat = list(vampclient.heatmap(images))
    assert np.shape(decoded) == np.shape(heat) == (5, 1, 8, 8)
    files = [("file", _png(vamp.to_pillow(image))) for image in images]
    expected = client.post("/reconstruct?format=npy&model=tiny-normal", files=files)
    np.testing.assert_array_equal(decoded, read_npy(expected.content))
    expected = client.post("/novelty/heatmap?format=npy&view=heat", files=files)
    np.testing.assert_array_equal(heat, read_npy(expected.content))
    assert vamp.to_pillow(heat[0]).size == (8, 8)


def test_encodings_have_arrays(vampclient: Client, client: httpx.Client, pngs: list[bytes]) -> None:
    (encoding,) = vampclient.encode(pngs[0], top=2)
    expected = client.post("/encode?top=2", files=[("file", pngs[0])]).json()["results"][0]
    np.testing.assert_array_equal(encoding.posterior["z1"].mean, expected["posterior"]["z1"]["mean"])
    assert encoding.posterior["z2"].std.shape == (3,)
    assert [component.index for component in encoding.components] == [c["index"] for c in expected["components"]]


def test_the_gallery_comes_in_pages(vampclient: Client) -> None:
    page = vampclient.pseudo_inputs(offset=4, limit=100)
    assert (page.total, page.kind, page.index.tolist()) == (6, "pseudo-inputs", [4, 5])
    assert page.images.shape == (2, 1, 8, 8)
    assert page.weight.sum() == pytest.approx(2 / 6)
    assert len(vampclient.pseudo_inputs(offset=10).index) == 0


def test_models_and_readiness(vampclient: Client) -> None:
    summaries = {f"{model.name}@{model.version}": model for model in vampclient.models()}
    assert summaries["tiny-vamp@10"].status == "ready"
    assert (summaries["tiny-vamp@10"].architecture or {})["image_shape"] == [1, 8, 8]
    assert summaries["damaged@1"].reason
    assert vampclient.ready()
    with Client("http://127.0.0.1:9") as nowhere:
        assert not nowhere.ready()


def test_many_images_go_in_several_requests_and_come_in_order(service: Any) -> None:
    images = np.random.default_rng(1).integers(0, 2, (23, 1, 8, 8)).astype(np.float32)

    def requests() -> float:
        return service.metric("vampprior_http_requests_total", route="/novelty")

    with Client(service.url) as client:
        expected = [result.score for result in client.novelty(images)]
    before = requests()
    with Client(service.url, batch=4, in_flight=3) as client:
        results = list(client.novelty(images))
    assert requests() - before == 6
    assert [result.score for result in results] == pytest.approx(expected, abs=2e-4)
    assert [result.file for result in results] == [f"image {index}" for index in range(23)]
    assert len(set(expected)) > 1


def test_images_are_read_as_the_results_are_wanted(service: Any, images: Any) -> None:
    read = []

    def endless() -> Iterator[NDArray[np.float32]]:
        while True:
            read.append(1)
            yield images[0]

    with Client(service.url, batch=2, in_flight=2) as client:
        results = client.encode(endless())
        assert next(results).file == "image 0"
        assert len(read) == 4
        results.close()  # type: ignore[attr-defined]


def test_one_false_discovery_rate_is_for_all_images(service: Any, images: Any) -> None:
    with Client(service.url, batch=2) as client:
        decided = list(client.novelty(images, fdr=0.2))
    assert "false discovery rate of 0.2" in decided[0].summary
    expected = service.client.post(
        "/novelty?fdr=0.2", files=[("file", _png(vamp.to_pillow(image))) for image in images]
    ).json()
    assert [result.novel for result in decided] == [result["novel"] for result in expected["results"]]


@pytest.mark.parametrize(
    ("call", "error", "slug"),
    [
        (lambda client: client.sample(pseudo_input=600), vamp.NotFound, "pseudo-input-not-found"),
        (lambda client: client.sample(model="nothing"), vamp.NotFound, "model-not-found"),
        (lambda client: client.sample(n=10**6), vamp.InvalidInput, "bad-parameter"),
        (lambda client: list(client.encode(b"text")), vamp.UnsupportedMediaType, "unsupported-media-type"),
        (lambda client: list(client.encode(np.zeros((9, 9)))), vamp.InvalidInput, "wrong-size"),
        (lambda client: list(client.encode([np.zeros((8, 8))] * 65, top=1)), None, ""),
    ],
)
def test_problems_become_exceptions(vampclient: Client, call: Any, error: Any, slug: str) -> None:
    if error is None:
        assert len(call(vampclient)) == 65
        return
    with pytest.raises(error) as caught:
        call(vampclient)
    assert caught.value.type == f"/problems/{slug}"
    assert caught.value.detail in str(caught.value)
    assert caught.value.request_id


def test_an_api_key_opens_the_service(serve: Any) -> None:
    with serve(api_keys="secret") as service:
        with Client(service.url) as client, pytest.raises(vamp.Unauthorized):
            client.sample()
        with Client(service.url, api_key="secret") as client:
            assert client.sample().images.shape == (1, 1, 8, 8)


def test_a_full_service_is_asked_again_when_it_says(serve: Any, images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    with serve(queue_length=1) as service, Client(service.url) as client, service.hold():
        first = threading.Thread(target=lambda: list(client.log_likelihood(images[0], num_samples=30)))
        first.start()
        service.until(lambda: service.queued() == 1)

        def wait(seconds: float) -> None:
            waits.append(seconds)
            service.release()
            service.until(lambda: service.queued() == 0)

        monkeypatch.setattr("vampprior_client.client.time", SimpleNamespace(sleep=wait))
        (result,) = client.log_likelihood(images[1], **OPTIONS)
        first.join()
    assert result.num_samples == 20
    assert len(waits) == 1
    assert waits[0] >= 1


def run(main: Callable[[AsyncClient], Awaitable[Any]], url: str, **arguments: Any) -> Any:
    async def within() -> Any:
        async with AsyncClient(url, **arguments) as client:
            return await main(client)

    return asyncio.run(within())


async def as_list(results: AsyncIterator[Any]) -> list[Any]:
    return [result async for result in results]


def test_the_asynchronous_client_answers_the_same(service: Any, images: Any) -> None:
    async def ask(client: AsyncClient) -> list[Any]:
        return [
            await as_list(client.log_likelihood(images, **OPTIONS)),
            await as_list(client.novelty(images)),
            (await client.sample(seed=3)).images.tolist(),
            [image.tolist() for image in await as_list(client.reconstruct(images))],
            [image.tolist() for image in await as_list(client.heatmap(images))],
            (await client.pseudo_inputs()).images.tolist(),
            [encoding.components for encoding in await as_list(client.encode(images))],
            await client.models(),
            await client.ready(),
        ]

    with Client(service.url, batch=2) as client:
        expected = [
            list(client.log_likelihood(images, **OPTIONS)),
            list(client.novelty(images)),
            client.sample(seed=3).images.tolist(),
            [image.tolist() for image in client.reconstruct(images)],
            [image.tolist() for image in client.heatmap(images)],
            client.pseudo_inputs().images.tolist(),
            [encoding.components for encoding in client.encode(images)],
            client.models(),
            True,
        ]
    assert run(ask, service.url, batch=2) == expected


def test_the_asynchronous_client_raises_the_same(service: Any) -> None:
    with pytest.raises(vamp.NotFound):
        run(lambda client: client.sample(pseudo_input=600), service.url)
    with pytest.raises(vamp.ConnectionFailed):
        run(lambda client: client.models(), "http://127.0.0.1:9", retries=Retries(attempts=1))
