"""Log-likelihoods by importance sampling, in units of one image's samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
import numpy as np
import torch
from torch import Tensor

from service.engine.jobs.runtime import BLOCK_ROWS, Runtime
from service.engine.jobs.streams import IMPORTANCE, REFINEMENT, stream
from service.engine.protocol import Combine, Refine, Score
from vampprior.calibration import DEFAULT_NAME, log_likelihood_percentile
from vampprior.card import Card
from vampprior.importance import LogLikelihood
from vampprior.refinement import DRAWS, Proposal, fit_proposal

__all__ = ["combine", "refine", "score"]

MIN_EFFECTIVE = 2.0
"""Effective samples below which an estimate hangs on a single one, and its error cannot be told."""
HANGS_ON_ONE = " The estimate hangs on a single sample, and is too low rather than too high: ask for more."


def refine(runtime: Runtime, payloads: Sequence[Refine]) -> list[bytes]:
    """Each image by itself, so that the result does not depend on its batch."""
    results = []
    for payload in payloads:
        shape = (payload.steps, 1, DRAWS, runtime.model.noise_dim)
        noise = stream(payload.seed, REFINEMENT).standard_normal(shape, dtype=np.float32)
        with torch.inference_mode(mode=False), torch.no_grad():
            image = np.frombuffer(payload.levels, np.uint8).reshape(1, *runtime.image_shape)
            x = runtime.model.likelihood.from_bytes(runtime.tensor(image.copy()))
            proposal = fit_proposal(runtime.model, x, runtime.tensor(noise), runtime.mixture)
        results.append(torch.cat(proposal).cpu().numpy().tobytes())
    return results


def score(runtime: Runtime, payloads: Sequence[Score]) -> list[bytes]:
    """Log p(x | z) and KL of the importance samples of a unit, float32, shape (2, count) for each payload."""
    model, count, images = runtime.model, payloads[0].count, len(payloads)
    samples = math.ceil(count / BLOCK_ROWS) * BLOCK_ROWS
    noise = np.zeros((images, samples, model.noise_dim), np.float32)
    for part, payload in zip(noise, payloads, strict=True):
        generator = stream(payload.seed, IMPORTANCE, payload.start)
        generator.standard_normal(out=part[:count].reshape(-1), dtype=np.float32)
    x = runtime.images(payloads)
    context = tuple(part[:images, None] for part in model.condition(x))
    step = max(BLOCK_ROWS, runtime.max_rows // images // BLOCK_ROWS * BLOCK_ROWS)
    log_px_and_kl: Callable[..., tuple[Tensor, Tensor]] = model.log_px_and_kl
    if payloads[0].proposal:
        columns = np.frombuffer(b"".join(payload.proposal for payload in payloads), np.float32)
        shift, log_scale = runtime.tensor(columns.reshape(images, 2, -1).swapaxes(0, 1))
        log_px_and_kl = partial(Proposal(shift, log_scale).log_px_and_kl, model)
    chunks = [
        log_px_and_kl(x[:images, None], context, chunk, runtime.mixture)
        for chunk in torch.split(runtime.tensor(noise), step, dim=1)
    ]
    log_px, kl = (torch.cat(parts, dim=1)[:, :count] for parts in zip(*chunks, strict=True))
    return [part.tobytes() for part in torch.stack([log_px, kl], 1).cpu().numpy()]


def combine(runtime: Runtime, payloads: Sequence[Combine]) -> list[bytes]:
    """Log-likelihoods from their parts, as JSON objects."""
    return [_score_json(runtime, payload) for payload in payloads]


def _score_json(runtime: Runtime, payload: Combine) -> bytes:
    """A `ScoredImage` without its name, as JSON."""
    parts = [torch.frombuffer(bytearray(part), dtype=torch.float32).view(2, -1) for part in payload.parts]
    log_px, kl = torch.cat(parts, dim=1)
    score = LogLikelihood.from_samples(log_px[None], kl[None])
    value, error, effective = (
        number.item() for number in (score.value, score.standard_error, score.effective_sample_size)
    )
    calibration = runtime.calibrations.get(DEFAULT_NAME)
    # refined estimates are higher, so they are not compared with plain ones
    percentile = None if payload.refined else log_likelihood_percentile(runtime.card, calibration, value, len(kl))
    content = {
        "log_likelihood": round(value, 4),
        "standard_error": round(error, 4) if effective >= MIN_EFFECTIVE and math.isfinite(error) else None,
        "bits_per_dim": round(-value / (runtime.card.model.num_pixels * math.log(2.0)), 5),
        "elbo": round(score.elbo.item(), 4),
        "num_samples": len(kl),
        "effective_sample_size": round(effective, 1),
        "pareto_k": round(score.pareto_k.item(), 3) if score.pareto_k.isfinite() else None,
        "reliability": score.reliability[0],
        "converged": None if payload.precision is None else _converged(score, payload.precision),
        "percentile": None if percentile is None else round(percentile, 1),
        "summary": _in_words(runtime.card, percentile) + ("" if effective >= MIN_EFFECTIVE else HANGS_ON_ONE),
    }
    return msgspec.json.encode(content)


def _converged(score: LogLikelihood, precision: float) -> bool:
    """Whether the standard error can be believed and is small enough."""
    return score.reliability[0] == "good" and score.standard_error.item() <= precision


def _in_words(card: Card, percentile: float | None) -> str:
    if percentile is None and not card.metrics:
        return "This checkpoint was never evaluated, so there is nothing to compare with."
    if percentile is None:
        return "Estimates with these settings are not known for held-out images, so there is nothing to compare with."
    if percentile <= 0.0:
        return "Less likely than every one of the held-out images."
    if percentile >= 100.0:
        return "More likely than every one of the held-out images."
    return f"More likely than {percentile:.0f} % of the held-out images."
