"""The calls of the service as values: what to send, and how to read the answer. Shared by both clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypedDict, TypeVar

import httpx
import msgspec
import numpy as np
from numpy.typing import NDArray

from vampprior_client.images import File
from vampprior_client.results import (
    Encoding,
    LogLikelihood,
    ModelSummary,
    Novelty,
    PseudoInputs,
    Samples,
    read_json,
    read_npy,
)

__all__ = [
    "Call",
    "EncodeOptions",
    "HeatmapOptions",
    "LogLikelihoodOptions",
    "NoveltyOptions",
    "NoveltyStreamOptions",
    "PseudoInputOptions",
    "ReconstructOptions",
    "SampleOptions",
    "encode",
    "heatmap",
    "log_likelihood",
    "models",
    "novelty",
    "pseudo_inputs",
    "ready",
    "reconstruct",
    "request_arguments",
    "sample",
]

T = TypeVar("T")
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Call(Generic[T]):
    """A call: what to send, and how to read its answer."""

    method: Literal["GET", "POST"]
    path: str
    read: Callable[[httpx.Response], T]
    options: Mapping[str, Any] = field(default_factory=dict)
    files: Sequence[File] = ()
    accept: str | None = None


class ModelOptions(TypedDict, total=False):
    """Options of every call; what is left out is as the service has it.

    Args:
        model: The model that answers, `name` or `name@version`.
    """

    model: str


class SampleOptions(ModelOptions, total=False):
    """Options of `sample`.

    Args:
        pseudo_input: Draw from the prior component of this pseudo-input; from the whole prior if left out.
        n: Number of images, at most 256.
        seed: The same seed gives the same images.
        mode: "mean" for expected images, "draw" for pixels that are drawn.
        temperature: Factor of the standard deviations of the prior.
    """

    pseudo_input: int
    n: int
    seed: int
    mode: Literal["mean", "draw"]
    temperature: float


class UploadOptions(ModelOptions, total=False):
    """Options of every call with images.

    Args:
        resize: Fit images of another size to the model's.
        invert: Swap dark and light.
    """

    resize: bool
    invert: bool


class ReconstructOptions(UploadOptions, total=False):
    """Options of `reconstruct`; with `mode="draw"` every request of 64 images starts the seed anew."""

    seed: int
    mode: Literal["mean", "draw"]


class EncodeOptions(UploadOptions, total=False):
    """Options of `encode`: `top` is the number of components that are named."""

    top: int


class BinarizeOptions(UploadOptions, total=False):
    """How gray levels become black and white for a binary model: by a threshold, or drawn with the seed."""

    binarize: Literal["threshold", "sample"]
    seed: int


class LogLikelihoodOptions(BinarizeOptions, total=False):
    """Options of `log_likelihood`.

    Args:
        num_samples: Importance samples per image.
        refine: Steps that fit the proposal distribution to each image first.
        precision: Draw samples until the standard error is at most this number of nats.
    """

    num_samples: int
    refine: int
    precision: float


class NoveltyStreamOptions(BinarizeOptions, total=False):
    """Options of `stream_novelty`.

    Args:
        calibration: The known images to compare with.
        false_alarm_rate: Share of known images that may be called new.
    """

    calibration: str
    false_alarm_rate: float


class NoveltyOptions(NoveltyStreamOptions, total=False):
    """Options of `novelty`.

    Args:
        fdr: Decide over all images together at this false discovery rate; all of them go into one request.
    """

    fdr: float


class HeatmapOptions(BinarizeOptions, total=False):
    """Options of `heatmap`: `view="prototypes"` gives what the closest prototypes show instead of the map."""

    view: Literal["heat", "prototypes"]


class PseudoInputOptions(ModelOptions, total=False):
    """Options of `pseudo_inputs`.

    Args:
        offset: Leave out this many first.
        limit: Number of pseudo-inputs, at most 1,000.
        sort: By number, or the greatest weight first.
    """

    offset: int
    limit: int
    sort: Literal["index", "weight"]


def sample(options: SampleOptions) -> Call[Samples]:
    """`POST /sample`."""

    def read(response: httpx.Response) -> Samples:
        headers = response.headers
        model = f"{headers['x-model']}@{headers['x-model-version']}"
        return Samples(read_npy(response.content), int(headers["x-seed"]), model)

    return Call("POST", "/sample", read, {**options, "format": "npy"})


def reconstruct(files: Sequence[File], options: ReconstructOptions) -> Call[list[Array]]:
    """`POST /reconstruct`."""
    return Call("POST", "/reconstruct", _images, {**options, "format": "npy"}, files)


def heatmap(files: Sequence[File], options: HeatmapOptions) -> Call[list[Array]]:
    """`POST /novelty/heatmap`."""
    return Call("POST", "/novelty/heatmap", _images, {"view": "heat", **options, "format": "npy"}, files)


def log_likelihood(files: Sequence[File], options: LogLikelihoodOptions) -> Call[list[LogLikelihood]]:
    """`POST /loglik`."""

    def read(response: httpx.Response) -> list[LogLikelihood]:
        answer = read_json(response.content, _LogLikelihoods)
        return [msgspec.structs.replace(result, model=answer.reference) for result in answer.results]

    return Call("POST", "/loglik", read, options, files)


def novelty(files: Sequence[File], options: NoveltyOptions) -> Call[list[Novelty]]:
    """`POST /novelty`."""

    def read(response: httpx.Response) -> list[Novelty]:
        answer = read_json(response.content, _Novelties)
        return [msgspec.structs.replace(result, model=answer.reference) for result in answer.results]

    return Call("POST", "/novelty", read, options, files)


def encode(files: Sequence[File], options: EncodeOptions) -> Call[list[Encoding]]:
    """`POST /encode`."""

    def read(response: httpx.Response) -> list[Encoding]:
        answer = read_json(response.content, _Encodings)
        return [msgspec.structs.replace(result, model=answer.reference) for result in answer.results]

    return Call("POST", "/encode", read, options, files)


def pseudo_inputs(options: PseudoInputOptions) -> Call[PseudoInputs]:
    """`GET /pseudo-inputs`."""

    def read(response: httpx.Response) -> PseudoInputs:
        page = read_json(response.content, _Gallery)
        return PseudoInputs(
            total=page.total,
            kind=page.kind,
            index=np.array([item.index for item in page.pseudo_inputs], np.int64),
            weight=np.array([item.weight for item in page.pseudo_inputs]),
            images=np.array([item.image for item in page.pseudo_inputs]),
            model=page.reference,
        )

    return Call("GET", "/pseudo-inputs", read, {**options, "format": "json"})


def models() -> Call[list[ModelSummary]]:
    """`GET /models`."""
    return Call("GET", "/models", lambda response: read_json(response.content, _Models).models)


def ready() -> Call[bool]:
    """`GET /health/ready`, whose answer is an error if the service is not ready."""
    return Call("GET", "/health/ready", lambda _: True)


def request_arguments(call: Call[Any]) -> dict[str, Any]:
    """Arguments of `httpx.Client.request` for a call. Options that are None are left out."""
    arguments: dict[str, Any] = {
        "method": call.method,
        "url": call.path,
        "params": {name: value for name, value in call.options.items() if value is not None},
        "headers": {} if call.accept is None else {"Accept": call.accept},
    }
    if call.files:
        arguments["files"] = [("file", (file.name, file.content, "application/octet-stream")) for file in call.files]
    return arguments


class _Answer(msgspec.Struct):
    model: str
    model_version: str

    @property
    def reference(self) -> str:
        return f"{self.model}@{self.model_version}"


class _LogLikelihoods(_Answer):
    results: list[LogLikelihood]


class _Novelties(_Answer):
    results: list[Novelty]


class _Encodings(_Answer):
    results: list[Encoding]


class _PseudoInput(msgspec.Struct):
    index: int
    weight: float
    image: NDArray[np.float64]


class _Gallery(_Answer):
    total: int
    kind: Literal["pseudo-inputs", "decoded components"]
    pseudo_inputs: list[_PseudoInput]


class _Models(msgspec.Struct):
    models: list[ModelSummary]


def _images(response: httpx.Response) -> list[Array]:
    return list(read_npy(response.content))
