"""The computations: the same bits whatever they are batched with, and the library's own numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from service.engine.jobs.runtime import Runtime
from service.engine.loader import find_device
from service.engine.protocol import Combine, Draw, Encode, Layout, Payload, Reconstruct, Render, Score
from service.engine.worker import compute
from vampprior import ModelConfig, build_model, log_likelihood
from vampprior.card import Card

CONFIG = ModelConfig(image_shape=(1, 12, 12), z1_dim=5, z2_dim=4, hidden_dim=64, num_components=7)
NPY = Layout("npy", 1, 1)
LATENTS, PIXELS, COMPONENTS, IMPORTANCE = range(4)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As in a worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    torch.manual_seed(3)
    model = build_model(CONFIG).requires_grad_(False).eval()
    torch.nn.init.uniform_(model.prior.free_inputs, -0.5, 1.5)  # which are all alike at first
    card = Card("tiny", "1", CONFIG)
    with torch.inference_mode():
        return Runtime(card, model, model.prior_mixture(), torch.device("cpu"))


@pytest.fixture(scope="module")
def levels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (40, 1, 12, 12)).astype(np.uint8)


def draw(n: int, seed: int, *, start: int = 0, component: int | None = None, pixels: bool = False, heat: float = 1.0):
    return Draw(start, n, seed, component, heat, pixels, None)


def images(runtime: Runtime, *payloads: Payload) -> list[np.ndarray]:
    return [np.frombuffer(body, np.float32).reshape(-1, 1, 12, 12) for body in compute(runtime, payloads)]


def numbers(seed: int, purpose: int, unit: int = 0) -> np.random.Generator:
    """Random numbers of a seed: what they are must not change, or an answer of a seed would."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, unit << 8 | purpose], np.uint64)))


@pytest.mark.parametrize("pixels", [False, True])
def test_samples_do_not_depend_on_what_they_are_batched_with(runtime: Runtime, pixels: bool) -> None:
    payloads = [draw(n, seed, pixels=pixels) for seed, n in enumerate([1, 3, 17, 64])]
    alone = [images(runtime, payload)[0] for payload in payloads]
    for one, other in zip(alone, images(runtime, *payloads), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("component", [None, 2])
def test_samples_in_units_are_those_in_one_piece(runtime: Runtime, pixels: bool, component: int | None) -> None:
    (whole,) = images(runtime, draw(50, 9, pixels=pixels, component=component))
    units = images(runtime, *(draw(10, 9, start=s, pixels=pixels, component=component) for s in range(0, 50, 10)))
    np.testing.assert_array_equal(whole, np.concatenate(units))


def test_samples_are_the_librarys_with_the_same_noise(runtime: Runtime) -> None:
    index = runtime.mixture.sample_index(torch.from_numpy(numbers(7, COMPONENTS).random(32)))
    noise = torch.from_numpy(numbers(7, LATENTS).standard_normal((32, runtime.model.noise_dim), dtype=np.float32))
    with torch.inference_mode():
        expected = runtime.model.sample(component=index, noise=noise, mixture=runtime.mixture)
    np.testing.assert_array_equal(images(runtime, draw(32, 7))[0], expected.numpy())


def test_samples_of_a_component_at_temperature_zero_are_its_decoded_mean(runtime: Runtime) -> None:
    model = runtime.model
    with torch.inference_mode():
        top = runtime.mixture.component(torch.full((16,), 5))
        expected = model.mean_image(model.ancestral_sample(top, torch.zeros(16, model.noise_dim)))
    np.testing.assert_array_equal(images(runtime, draw(3, 1, component=5, heat=0.0))[0], expected[:3].numpy())


def test_samples_of_the_whole_prior_come_from_all_components(runtime: Runtime) -> None:
    (means,) = images(runtime, draw(64, 0, heat=0.0))
    assert len(np.unique(means.reshape(64, -1), axis=0)) == CONFIG.num_components


def test_drawn_samples_have_the_mean_images_frequencies(runtime: Runtime) -> None:
    (mean,) = images(runtime, draw(1, 0, component=2, heat=0.0))
    (drawn,) = images(runtime, draw(4096, 0, component=2, heat=0.0, pixels=True))
    assert set(np.unique(drawn)) == {0.0, 1.0}
    # 4096 draws of each of 144 pixels: five standard errors leave one false alarm in ten thousand runs
    bound = 5.0 * np.sqrt(mean[0] * (1 - mean[0]) / 4096) + 1e-6
    assert (np.abs(drawn.mean(0) - mean[0]) < bound).all()


def test_reconstruction_passes_posterior_means_through_the_decoder(runtime: Runtime, levels: np.ndarray) -> None:
    model = runtime.model
    with torch.inference_mode():
        posteriors = model.encode(model.likelihood.from_bytes(torch.from_numpy(levels)))
        expected = model.mean_image((posteriors["z2"].mean, posteriors["z1"].mean)).numpy()
    (result,) = images(runtime, Reconstruct(levels.tobytes(), 0, 40, 0, False, None))
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_drawn_reconstructions_in_units_are_those_in_one_piece(runtime: Runtime, levels: np.ndarray) -> None:
    (whole,) = images(runtime, Reconstruct(levels.tobytes(), 0, 40, 3, True, None))
    units = [Reconstruct(levels[s : s + 8].tobytes(), s, 8, 3, True, None) for s in range(0, 40, 8)]
    np.testing.assert_array_equal(whole, np.concatenate(images(runtime, *units)))


def test_images_that_were_computed_in_units_are_rendered_as_in_one_piece(runtime: Runtime) -> None:
    layout = Layout("json", 1, 1)
    (whole,) = compute(runtime, [Draw(0, 5, 1, None, 1.0, False, layout)])
    parts = compute(runtime, [draw(3, 1), draw(2, 1, start=3)])
    assert compute(runtime, [Render(tuple(parts), 1, layout)]) == [whole]


def test_encodings_are_the_librarys(runtime: Runtime, levels: np.ndarray) -> None:
    (whole,) = compute(runtime, [Encode(levels.tobytes(), 40, 7)])
    assert whole == b"\n".join(compute(runtime, [Encode(image.tobytes(), 1, 7) for image in levels]))
    with torch.inference_mode():
        posteriors = runtime.model.encode(runtime.model.likelihood.from_bytes(torch.from_numpy(levels)))
        responsibilities = runtime.mixture.responsibilities(posteriors["z2"].mean).numpy()
    for number, line in enumerate(whole.split(b"\n")):
        code = json.loads(line)
        for name, posterior in posteriors.items():
            np.testing.assert_allclose(code["posterior"][name]["mean"], posterior.mean[number].numpy(), atol=2e-6)
            np.testing.assert_allclose(code["posterior"][name]["std"], posterior.std[number].numpy(), atol=2e-6)
        probabilities = [component["probability"] for component in code["components"]]
        assert probabilities == sorted(probabilities, reverse=True)
        for component in code["components"]:
            assert component["probability"] == pytest.approx(responsibilities[number, component["index"]], abs=2e-6)


def units_of(image: np.ndarray, num_samples: int, seed: int) -> list[Score]:
    return [
        Score(image.tobytes(), b"", seed, start, min(512, num_samples - start)) for start in range(0, num_samples, 512)
    ]


@pytest.mark.parametrize("num_samples", [1, 7, 500, 1234, 3000])
def test_a_log_likelihood_is_the_librarys_with_the_same_noise(
    runtime: Runtime, levels: np.ndarray, num_samples: int
) -> None:
    units = units_of(levels[0], num_samples, 11)
    parts = [compute(runtime, [unit])[0] for unit in units]
    score = json.loads(compute(runtime, [Combine(tuple(parts), None, False)])[0])
    dim = runtime.model.noise_dim
    drawn = [numbers(11, IMPORTANCE, u.start).standard_normal((u.count, dim), dtype=np.float32) for u in units]
    with torch.inference_mode():
        expected = log_likelihood(
            runtime.model,
            runtime.model.likelihood.from_bytes(torch.from_numpy(levels[:1])),
            num_samples=num_samples,
            noise=torch.from_numpy(np.concatenate(drawn))[None],
            mixture=runtime.mixture,
        )
    # float32 sums over 144 pixels, in another order
    assert score["log_likelihood"] == pytest.approx(expected.value.item(), abs=2e-4)
    assert score["elbo"] == pytest.approx(expected.elbo.item(), abs=2e-4)
    assert score["effective_sample_size"] == pytest.approx(expected.effective_sample_size.item(), rel=1e-3, abs=0.1)


@pytest.mark.parametrize("num_samples", [3, 40, 512])
def test_log_weights_do_not_depend_on_what_they_are_batched_with(
    runtime: Runtime, levels: np.ndarray, num_samples: int
) -> None:
    units = [unit for image in levels[:20] for unit in units_of(image, num_samples, 0)]
    assert compute(runtime, units) == [compute(runtime, [unit])[0] for unit in units]


def test_units_of_a_seed_have_noise_of_their_own(runtime: Runtime, levels: np.ndarray) -> None:
    parts = compute(runtime, [Score(levels[0].tobytes(), b"", 0, start, 64) for start in (0, 512, 1024)])
    assert len(set(parts)) == 3


def test_where_one_sample_outweighs_all_others_no_error_is_claimed(runtime: Runtime) -> None:
    weights = np.array([0.0, -30.0, -40.0, -35.0], np.float32)
    for log_px, hangs in ((weights, True), (weights / 100, False)):
        part = np.stack([log_px, np.zeros_like(log_px)]).tobytes()
        score = json.loads(compute(runtime, [Combine((part,), None, False)])[0])
        assert (score["standard_error"] is None) is hangs
        assert ("hangs on a single sample" in score["summary"]) is hangs


@pytest.mark.parametrize(("there", "device", "good"), [(0, "cuda", False), (1, "cuda:0", True), (1, "cuda:1", False)])
def test_a_gpu_must_be_there(monkeypatch: pytest.MonkeyPatch, there: int, device: str, good: bool) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: there)
    if good:
        assert find_device(device) == torch.device(device)
        return
    with pytest.raises(ValueError, match=f"VAMP_DEVICE is {device}, but PyTorch finds {there or 'no'} GPU"):
        find_device(device)


@pytest.mark.parametrize(("there", "device"), [(True, "cuda"), (False, "cpu")])
def test_a_gpu_is_taken_if_there_is_one(monkeypatch: pytest.MonkeyPatch, there: bool, device: str) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: there)
    assert find_device("auto") == torch.device(device)
