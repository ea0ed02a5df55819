"""Jobs: the same bits whatever they are batched with, and the library's own numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from service.jobs import EncodeJob, ReconstructJob, Runtime, SampleJob
from service.noise import seeded_generator
from service.scoring import LogLikelihoodJob
from service.thread_pool import thread_pool
from vampprior import ModelConfig, build_model, log_likelihood

CONFIG = ModelConfig(image_shape=(1, 12, 12), z1_dim=5, z2_dim=4, hidden_dim=64, num_components=7)


@pytest.fixture(scope="module", params=[1, 3], ids=lambda size: f"{size} threads")
def runtime(request: pytest.FixtureRequest) -> Runtime:
    torch.manual_seed(3)
    model = build_model(CONFIG).requires_grad_(False).eval()
    return Runtime(model, model.prior_mixture(), torch.device("cpu"), thread_pool(request.param))


@pytest.fixture(scope="module")
def gray() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (40, 1, 12, 12)).astype(np.uint8)


def finish(runtime: Runtime, *jobs, rows: int = 512):
    """Advance jobs together until all are done."""
    while waiting := [job for job in jobs if job.rows]:
        together = [job for job in waiting if job.key == waiting[0].key]
        type(jobs[0]).take(runtime, together, rows)()
    return [job.result() for job in jobs]


def sample(runtime: Runtime, n: int, seed: int, component: int | None = None, *, draw: bool = False, heat: float = 1.0):
    return SampleJob(runtime, n=n, seed=seed, component=component, temperature=heat, draw=draw)


@pytest.mark.parametrize("draw", [False, True])
def test_samples_do_not_depend_on_what_they_are_batched_with(runtime, draw):
    alone = [finish(runtime, sample(runtime, n, seed, draw=draw))[0] for seed, n in enumerate([1, 3, 17, 64])]
    together = finish(runtime, *(sample(runtime, n, seed, draw=draw) for seed, n in enumerate([1, 3, 17, 64])))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_first_samples_do_not_depend_on_how_many_are_asked_for(runtime):
    few, many = finish(runtime, sample(runtime, 2, 9, draw=True), sample(runtime, 50, 9, draw=True))
    np.testing.assert_array_equal(few, many[:2])


def test_a_job_larger_than_a_batch_gives_the_same_rows(runtime):
    whole = finish(runtime, sample(runtime, 100, 4))[0]
    np.testing.assert_array_equal(whole, finish(runtime, sample(runtime, 100, 4), rows=32)[0])


def test_samples_of_a_component_at_temperature_zero_are_its_decoded_mean(runtime):
    images = finish(runtime, sample(runtime, 3, 1, component=5, heat=0.0))[0]
    model = runtime.model
    top = runtime.mixture.component(torch.full((16,), 5))
    expected = model.mean_image(model.ancestral_sample(top, torch.zeros(16, model.noise_dim)))
    np.testing.assert_array_equal(images, expected[:3].numpy())


def test_samples_of_the_whole_prior_come_from_many_components(runtime):
    images = finish(runtime, sample(runtime, 64, 0, heat=0.0))[0]
    assert len(np.unique(images.reshape(64, -1), axis=0)) == CONFIG.num_components


def test_drawn_samples_have_the_mean_images_frequencies(runtime):
    mean = finish(runtime, sample(runtime, 1, 0, component=2, heat=0.0))[0]
    drawn = finish(runtime, sample(runtime, 4096, 0, component=2, heat=0.0, draw=True))[0]
    assert set(np.unique(drawn)) == {0.0, 1.0}
    # 4096 draws of each of 144 pixels: five standard errors leave one false alarm in ten thousand runs
    bound = 5.0 * np.sqrt(mean[0] * (1 - mean[0]) / 4096) + 1e-6
    assert (np.abs(drawn.mean(0) - mean[0]) < bound).all()


def test_reconstruction_passes_posterior_means_through_the_decoder(runtime, gray):
    model = runtime.model
    posteriors = model.encode(model.likelihood.from_bytes(torch.from_numpy(gray)))
    expected = model.mean_image((posteriors["z2"].mean, posteriors["z1"].mean)).numpy()
    result = finish(runtime, ReconstructJob(model, gray, seed=0, draw=False))[0]
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_encodings_name_layers_and_responsibilities(runtime, gray):
    encoding = finish(runtime, EncodeJob(runtime.model, gray))[0]
    assert list(encoding.mean) == ["z2", "z1"]
    assert encoding.mean["z1"].shape == (40, 5)
    assert (encoding.std["z2"] > 0).all()
    np.testing.assert_allclose(encoding.responsibilities.sum(1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("num_samples", [1, 7, 500, 1234, 3000])
def test_log_likelihood_is_the_librarys_with_the_same_noise(runtime, gray, num_samples):
    job = LogLikelihoodJob(runtime.model, gray[0], num_samples=num_samples, seed=11)
    score = finish(runtime, job)[0]
    drawn = torch.randn(1, num_samples, runtime.model.noise_dim, generator=seeded_generator(11))
    x = runtime.model.likelihood.from_bytes(torch.from_numpy(gray[:1]))
    expected = log_likelihood(runtime.model, x, num_samples=num_samples, noise=drawn, mixture=runtime.mixture)
    assert score.num_samples == num_samples
    # float32 sums over 144 pixels, in another order
    assert score.value.item() == pytest.approx(expected.value.item(), abs=1e-4)
    assert score.effective_sample_size.item() == pytest.approx(expected.effective_sample_size.item(), rel=1e-3)


@pytest.mark.parametrize("num_samples", [3, 40, 700])
def test_log_likelihoods_do_not_depend_on_what_they_are_batched_with(runtime, gray, num_samples):
    def jobs():
        return [LogLikelihoodJob(runtime.model, x, num_samples=num_samples, seed=0) for x in gray[:20]]

    alone = [finish(runtime, job)[0].value.item() for job in jobs()]
    together = [score.value.item() for score in finish(runtime, *jobs())]
    assert alone == together


def test_log_likelihoods_of_many_images_respect_the_row_limit(runtime, gray):
    jobs = [LogLikelihoodJob(runtime.model, x, num_samples=500, seed=0) for x in gray[:4]]
    LogLikelihoodJob.take(runtime, jobs, max_rows=512)
    assert [job.rows for job in jobs] == [0, 500, 500, 500]


def test_images_that_wait_pass_the_encoder_together_and_once(runtime, gray, monkeypatch):
    passes = []
    condition = type(runtime.model).condition

    def counting(model, x):
        passes.append(len(x))
        return condition(model, x)

    monkeypatch.setattr(type(runtime.model), "condition", counting)
    untraced = Runtime(runtime.model, runtime.mixture, runtime.device, runtime.pool)
    monkeypatch.setattr(untraced.programs, "run", lambda key, function, *inputs: function(*inputs))
    jobs = [LogLikelihoodJob(runtime.model, x, num_samples=30, seed=0) for x in gray[:20]]
    finish(untraced, *jobs)
    assert passes == [32]  # twenty, filled up
    finish(untraced, *(LogLikelihoodJob(runtime.model, x, num_samples=20, seed=0) for x in gray[:20]), rows=16)
    assert passes == [32, 16, 16]  # no more at once than the rows of a step


def test_a_step_does_not_wait_for_an_encoding_that_another_thread_is_at(runtime, gray):
    jobs = [LogLikelihoodJob(runtime.model, x, num_samples=500, seed=0) for x in gray[:3]]
    alone = [finish(runtime, LogLikelihoodJob(runtime.model, x, num_samples=500, seed=0))[0].value for x in gray[:3]]
    first = LogLikelihoodJob.take(runtime, jobs, 512)  # which is to encode all three images
    second = LogLikelihoodJob.take(runtime, jobs[1:], 512)
    second()
    first()
    LogLikelihoodJob.take(runtime, jobs[2:], 512)()
    assert [job.result().value for job in jobs] == alone


@pytest.mark.parametrize("num_samples", [300, 1024, 2500])
def test_a_score_has_the_same_bits_in_short_chunks(runtime, gray, num_samples):
    def score(rows):
        job = LogLikelihoodJob(runtime.model, gray[0], num_samples=num_samples, seed=5)
        return finish(runtime, job, rows=rows)[0]

    long, short = score(runtime.long_step), score(runtime.short_step)
    assert runtime.short_step < runtime.long_step
    assert (long.value, long.effective_sample_size, long.elbo) == (short.value, short.effective_sample_size, short.elbo)
