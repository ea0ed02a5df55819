"""What calls return. Arrays are NumPy arrays; all other fields are as the HTTP interface documents them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Component",
    "Encoding",
    "LogLikelihood",
    "ModelSummary",
    "Novelty",
    "Posterior",
    "Prototype",
    "PseudoInputs",
    "Samples",
    "Statistic",
    "read_json",
    "read_npy",
]

T = TypeVar("T")


class LogLikelihood(msgspec.Struct, frozen=True, kw_only=True):
    """How likely one image is.

    Args:
        file: Name of the file, or `image <index>`.
        log_likelihood: Estimate of log p(x) in nats.
        standard_error: Its Monte Carlo standard error in nats; None where it cannot be told.
        bits_per_dim: The same in bits per pixel; lower is more likely.
        elbo: Evidence lower bound in nats.
        num_samples: Importance samples that were drawn.
        effective_sample_size: Between 1 and `num_samples`.
        pareto_k: Shape of the tail of the weights; below 0.7 the error can be believed.
        reliability: "good" or "low".
        converged: Whether the `precision` that was asked for was reached; None without one.
        percentile: Per cent of held-out images that are less likely; None where they are not known.
        summary: The result in a sentence.
        model: The model that answered, `name@version`.
    """

    file: str
    log_likelihood: float
    standard_error: float | None
    bits_per_dim: float
    elbo: float
    num_samples: int
    effective_sample_size: float
    pareto_k: float | None
    reliability: Literal["good", "low"]
    converged: bool | None
    percentile: float | None
    summary: str
    model: str = ""


class Statistic(msgspec.Struct, frozen=True):
    """A statistic of an image, in nats, with the p-value that it has alone."""

    value: float
    p_value: float


class Prototype(msgspec.Struct, frozen=True):
    """A component of the prior, and the log-probability in nats of the image given the component's mean."""

    index: int
    log_prob: float


class Novelty(msgspec.Struct, frozen=True, kw_only=True):
    """Whether one image is new to the model.

    Args:
        file: Name of the file, or `image <index>`.
        novel: The decision.
        p_value: Share of calibration images that look at least as unusual.
        score: About 0 for the median of known images, and 1 for their 95th percentile.
        statistics: What the decision rests on, by name.
        prototypes: Components that explain the image best, best first.
        summary: The decision in a sentence.
        model: The model that answered, `name@version`.
    """

    file: str
    novel: bool
    p_value: float
    score: float
    statistics: dict[str, Statistic]
    prototypes: list[Prototype]
    summary: str
    model: str = ""


class Posterior(msgspec.Struct, frozen=True):
    """Mean and standard deviation of a layer's normal posterior, each of shape (dim,)."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]


class Component(msgspec.Struct, frozen=True):
    """A component of the prior, and its probability given the image."""

    index: int
    probability: float


class Encoding(msgspec.Struct, frozen=True, kw_only=True):
    """Where one image lies in latent space: the posterior of each layer, and the most responsible components."""

    file: str
    posterior: dict[str, Posterior]
    components: list[Component]
    model: str = ""


class ModelSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint of the service's store.

    Args:
        name, version: Its reference is `name@version`.
        status: "ready" or "refused".
        default: Whether it answers calls that name no model.
        reason: Why it was refused.
        architecture: The network, with its `image_shape` (C, H, W); None if it was refused.
        preparation: Size, mode and fit to which the service prepares images of any size; None if they must have the
            model's size.
        dataset: What it was trained on.
        log_likelihood: Mean over its test set in nats.
    """

    name: str
    version: str
    status: Literal["ready", "refused"]
    default: bool = False
    reason: str | None = None
    architecture: dict[str, Any] | None = None
    preparation: dict[str, Any] | None = None
    dataset: str | None = None
    log_likelihood: float | None = None


@dataclass(frozen=True)
class Samples:
    """Images drawn from the prior.

    Args:
        images: Values in [0, 1], shape (N, C, H, W).
        seed: The seed that gives the same images again.
        model: The model that answered, `name@version`.
    """

    images: NDArray[np.float32]
    seed: int
    model: str


@dataclass(frozen=True)
class PseudoInputs:
    """A page of the gallery.

    Args:
        total: Number of components of the prior.
        kind: Whether images are learned, or decoded at the components' means.
        index: Number of each component, shape (n,).
        weight: Its weight in the prior, shape (n,).
        images: Values in [0, 1], shape (n, C, H, W).
        model: The model that answered, `name@version`.
    """

    total: int
    kind: Literal["pseudo-inputs", "decoded components"]
    index: NDArray[np.int64]
    weight: NDArray[np.float64]
    images: NDArray[np.float64]
    model: str


def read_json(body: bytes, type_: type[T]) -> T:
    """Decode and check an answer. Lists become arrays where the type has them."""
    return msgspec.json.decode(body, type=type_, dec_hook=_array)


def read_npy(body: bytes) -> NDArray[np.float32]:
    """The array of an answer in NumPy's format."""
    array: NDArray[np.float32] = np.load(io.BytesIO(body), allow_pickle=False)
    return array


def _array(_: type, values: Any) -> NDArray[np.float64]:
    return np.asarray(values, np.float64)
