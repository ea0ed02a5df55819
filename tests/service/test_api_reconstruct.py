from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest
import torch

from service.images import encode_png


@pytest.fixture
def reconstruct(client: httpx.Client, read_npy: Any) -> Any:
    """Images (N, C, H, W) of `POST /reconstruct` with these PNGs and parameters."""

    def post(*pngs: bytes, **parameters: Any) -> Any:
        files = [("file", png) for png in pngs]
        response = client.post("/reconstruct", params={"format": "npy"} | parameters, files=files)
        assert response.status_code == 200, response.text
        return read_npy(response.content)

    return post


@pytest.fixture(scope="module")
def expected(load_model: Any) -> Any:
    """The images decoded at the means of the posterior."""

    @torch.inference_mode()
    def decode(reference: str, x: Any) -> Any:
        model = load_model(reference)
        return model.mean_image(tuple(q.mean for q in model.encode(torch.from_numpy(x)).values())).numpy()

    return decode


@pytest.mark.parametrize("reference", ["tiny-vamp@10", "tiny-vamp@1", "tiny-normal@1"])
def test_a_reconstruction_is_the_models_own(
    reconstruct: Any, expected: Any, images: Any, pngs: list[bytes], reference: str
) -> None:
    answer = reconstruct(*pngs, model=reference)
    np.testing.assert_allclose(answer, expected(reference, images), rtol=0, atol=1e-6)


def test_a_binary_model_sees_the_upload_thresholded_at_one_half(
    reconstruct: Any, images: Any, pngs: list[bytes]
) -> None:
    gray = encode_png(np.where(images[0] == 1, np.float32(128 / 256), np.float32(127 / 256)))
    np.testing.assert_array_equal(reconstruct(gray), reconstruct(pngs[0]))


def test_a_colour_model_sees_every_level(reconstruct: Any, expected: Any) -> None:
    image = np.random.default_rng(2).integers(0, 256, (3, 8, 8)).astype(np.float32) / 256 + 0.5 / 256
    answer = reconstruct(encode_png(image), model="tiny-colour")
    np.testing.assert_allclose(answer, expected("tiny-colour@1", image[None]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["mean", "draw"])
def test_an_image_does_not_depend_on_those_after_it(reconstruct: Any, pngs: list[bytes], mode: str) -> None:
    many = reconstruct(*pngs * 4, mode=mode)
    for n in (1, 2, 17):
        np.testing.assert_array_equal(reconstruct(*(pngs * 4)[:n], mode=mode), many[:n])


def test_the_mean_does_not_depend_on_the_seed_but_a_draw_does(reconstruct: Any, pngs: list[bytes]) -> None:
    mean, draw = {"mode": "mean"}, {"mode": "draw"}
    np.testing.assert_array_equal(reconstruct(*pngs, seed=1, **mean), reconstruct(*pngs, seed=2, **mean))
    np.testing.assert_array_equal(reconstruct(*pngs, seed=1, **draw), reconstruct(*pngs, seed=1, **draw))
    assert (reconstruct(*pngs, seed=1, **draw) != reconstruct(*pngs, seed=2, **draw)).any()


def test_a_draw_is_black_or_white(reconstruct: Any, pngs: list[bytes]) -> None:
    assert np.isin(reconstruct(*pngs, mode="draw"), (0, 1)).all()
