"""What runs without Python gives the bits of what runs with it, for every number of rows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from service.jobs import EncodeJob, Job, ReconstructJob, Runtime, SampleJob
from service.scoring import LogLikelihoodJob
from service.thread_pool import thread_pool
from service.tracing import Programs
from vampprior import LIKELIHOODS, MODELS, PRIORS, ModelConfig, build_model


class Untraced(Programs):
    def run(self, key: Hashable, function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
        return function(*inputs)


KINDS = {*product(MODELS, ["vampprior"], LIKELIHOODS), *product(["hvae"], PRIORS, ["bernoulli"])}


@pytest.fixture(scope="module", params=["-".join(kind) for kind in sorted(KINDS)])
def runtimes(request: pytest.FixtureRequest) -> tuple[Runtime, Runtime]:
    """The same model, traced and not."""
    kind, prior, likelihood = request.param.split("-")
    torch.manual_seed(5)
    config = ModelConfig(
        model=kind,
        prior=prior,
        likelihood=likelihood,
        image_shape=(1, 8, 8),
        z1_dim=4,
        z2_dim=3,
        hidden_dim=16,
        num_components=1 if prior == "standard" else 6,
    )
    model = build_model(config).requires_grad_(False).eval()
    with torch.inference_mode():
        mixture = model.prior_mixture()
    pool = thread_pool(2)
    cpu = torch.device("cpu")
    return Runtime(model, mixture, cpu, pool), Runtime(model, mixture, cpu, pool, Untraced())


GRAY = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8)).astype(np.uint8)

JOBS: dict[str, Callable[[Runtime, int], Job]] = {
    "sample": lambda runtime, n: SampleJob(runtime, n=n, seed=n, component=None, temperature=1.0, draw=False),
    "draw": lambda runtime, n: SampleJob(runtime, n=n, seed=n, component=None, temperature=1.0, draw=True),
    "reconstruct": lambda runtime, n: ReconstructJob(runtime.model, GRAY[:n], seed=n, draw=False),
    "encode": lambda runtime, n: EncodeJob(runtime.model, GRAY[:n]),
    "loglik": lambda runtime, n: LogLikelihoodJob(runtime.model, GRAY[n - 1], num_samples=10 * n, seed=n),
}


@pytest.mark.parametrize("name", JOBS)
def test_traced_jobs_give_the_same_bits(runtimes: tuple[Runtime, Runtime], name: str) -> None:
    for n in (2, 1, 3, 40):  # traced with the second, and run with the others
        traced, plain = (outputs(runtime, JOBS[name](runtime, n)) for runtime in runtimes)
        assert len(traced) == len(plain)
        for one, other in zip(traced, plain, strict=True):
            np.testing.assert_array_equal(one, other)


def outputs(runtime: Runtime, job: Job) -> list[np.ndarray]:
    with torch.inference_mode():
        while job.rows:
            type(job).take(runtime, [job], 32)()
    if isinstance(job, LogLikelihoodJob):
        return [job.result().value.numpy(), *job.samples.values()]
    return job.columns()


@pytest.mark.parametrize(
    ("version", "device", "calls"),
    [
        pytest.param(
            sys.version_info,
            "cpu",
            2,  # as it is, and while it is traced
            marks=pytest.mark.skipif(sys.version_info >= (3, 14), reason="TorchScript was not made for it"),
        ),
        ((3, 14), "cpu", 3),
        (sys.version_info, "meta", 3),
    ],
    ids=["here", "newer Python", "other device"],
)
def test_a_function_is_traced_at_its_second_call_where_that_is_supported(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...], device: str, calls: int
) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    called: list[str] = []

    def double(x: Tensor) -> tuple[Tensor]:
        called.append("double")
        return (2 * x,)

    programs = Programs()
    for length in (2, 3, 4):
        (doubled,) = programs.run("double", double, torch.arange(length, device=device))
        assert doubled.is_meta or doubled.tolist() == [2 * number for number in range(length)]
    assert len(called) == calls
