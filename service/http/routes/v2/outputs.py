"""What a model can be asked for by the Open Inference Protocol, computed as the other routes do."""

from __future__ import annotations

import io
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, create_model

from service.engine.protocol import Layout
from service.errors import BadRequest
from service.http.routes.encode import encode_images
from service.http.routes.loglik import LogLikelihoodQuery, score_images
from service.http.routes.novelty import NoveltyQuery, decide_images
from service.http.routes.parameters import Service, random_seed
from service.http.routes.query import QueryModel
from service.http.routes.reconstruct import reconstruct_images
from service.http.routes.sample import SampleQuery, draw_images
from service.http.uploads import ModelImages
from service.models.loaded import LoadedModel

__all__ = ["PARAMETERS", "Computation", "outputs_of"]

SCORES = ("log_likelihood", "standard_error", "elbo")
DECISIONS = ("p_value", "novel")
NPY = Layout("npy", 1, 1)

Query = TypeVar("Query", bound=QueryModel)

QUERIES: dict[str, type[QueryModel]] = {
    "num_samples": LogLikelihoodQuery,
    "refine": LogLikelihoodQuery,
    "precision": LogLikelihoodQuery,
    "calibration": NoveltyQuery,
    "false_alarm_rate": NoveltyQuery,
    "fdr": NoveltyQuery,
    "n": SampleQuery,
    "pseudo_input": SampleQuery,
    "mode": SampleQuery,
    "temperature": SampleQuery,
    "seed": SampleQuery,
}
"""Parameters of a request, each as the model of a query string describes it."""

PARAMETERS: type[BaseModel] = create_model(  # type: ignore[call-overload]
    "InferenceParameters",
    __config__=ConfigDict(extra="forbid", frozen=True),
    binary_data_output=(bool, False),
    **{name: (query.model_fields[name].annotation, query.model_fields[name]) for name, query in QUERIES.items()},
)
"""Parameters of a request by the protocol."""


@dataclass(frozen=True)
class OutputKind:
    """Data type and shape of an output; -1 stands for the number of images."""

    datatype: str
    shape: tuple[int, ...]


def outputs_of(loaded: LoadedModel) -> dict[str, OutputKind]:
    """The outputs of a model by name; decisions only if it has a calibration."""
    images = OutputKind("FP32", (-1, *loaded.card.model.image_shape))
    decisions = {"p_value": OutputKind("FP64", (-1,)), "novel": OutputKind("BOOL", (-1,))}
    return {
        **dict.fromkeys(SCORES, OutputKind("FP64", (-1,))),
        **(decisions if loaded.calibrations else {}),
        "reconstruction": images,
        **{layer: OutputKind("FP32", (-1, units)) for layer, units in loaded.latent_dims.items()},
        "sample": images,
    }


class Computation:
    """The outputs of one request. Each kind of computation is done once, whatever outputs it gives.

    given: the parameters of the request
    seed:  of the random numbers: the one that was given, else 0, or a random one for samples
    """

    def __init__(self, service: Service, loaded: LoadedModel, given: BaseModel, names: Collection[str], client: str):
        self.service, self.loaded, self.client = service, loaded, client
        self.names = names
        self._given = given.model_dump(exclude_unset=True)
        if self._given.get("seed") is None:
            self._given.pop("seed", None)
        self.seed: int = self._given.get("seed", 0 if "sample" not in names else random_seed())

    def check(self, images: ModelImages | None) -> None:
        """Raise a `Problem` for what can be seen to be wrong before anything is computed."""
        if images is None and (needing := [name for name in self.names if name != "sample"]):
            raise BadRequest(f"the outputs {', '.join(needing)} need the input `images`")
        if self._wants(DECISIONS):
            self._query(NoveltyQuery, seed=self.seed).check(self.loaded)
        if self._wants(SCORES):
            self._query(LogLikelihoodQuery, seed=self.seed).scoring(self.service.settings)

    async def outputs(self, images: ModelImages | None) -> dict[str, tuple[str, NDArray[Any]]]:
        """Data type and values of each output by name, in the order in which they were asked for."""
        values: dict[str, NDArray[Any]] = {}
        if images is not None:
            if self._wants(SCORES):
                values |= await self._scores(images)
            if self._wants(DECISIONS):
                values |= await self._decisions(images)
            if self._wants(self.loaded.latent_dims):
                values |= await self._latents(images)
            if self._wants(["reconstruction"]):
                values["reconstruction"] = await self._reconstructions(images)
        if self._wants(["sample"]):
            values["sample"] = await self._samples()
        kinds = outputs_of(self.loaded)
        return {name: (kinds[name].datatype, values[name]) for name in self.names}

    def _wants(self, names: Collection[str]) -> bool:
        return any(name in self.names for name in names)

    def _query(self, kind: type[Query], **seed: int) -> Query:
        """The parameters that such a query has."""
        given = {name: value for name, value in self._given.items() if name in kind.model_fields}
        return kind.model_validate({**given, **seed})

    async def _scores(self, images: ModelImages) -> dict[str, NDArray[Any]]:
        scoring = self._query(LogLikelihoodQuery, seed=self.seed).scoring(self.service.settings)
        results, _, _ = await score_images(self.service, self.loaded, images, scoring, self.client)
        return _columns(results, SCORES, np.float64)

    async def _decisions(self, images: ModelImages) -> dict[str, NDArray[Any]]:
        query = self._query(NoveltyQuery, seed=self.seed)
        results, _, _ = await decide_images(self.service, self.loaded, images, query, self.client)
        return {
            **_columns(results, ["p_value"], np.float64),
            **_columns(results, ["novel"], np.bool_),
        }

    async def _latents(self, images: ModelImages) -> dict[str, NDArray[Any]]:
        """Posterior means of every layer, (N, units)."""
        results, _, _ = await encode_images(self.service, self.loaded, images, 1, self.client)
        posteriors = [msgspec.json.decode(result)["posterior"] for result in results]
        return {
            layer: np.array([posterior[layer]["mean"] for posterior in posteriors], np.float32)
            for layer in self.loaded.latent_dims
        }

    async def _reconstructions(self, images: ModelImages) -> NDArray[Any]:
        mode = self._query(SampleQuery).mode
        body, _, _ = await reconstruct_images(self.service, self.loaded, images, self.seed, mode, NPY, self.client)
        return _array(body)

    async def _samples(self) -> NDArray[Any]:
        query = self._query(SampleQuery)
        body, _, _ = await draw_images(self.service, self.loaded, query, self.seed, NPY, self.client)
        return _array(body)


def _columns(results: Collection[bytes], names: Collection[str], dtype: type[np.generic]) -> dict[str, NDArray[Any]]:
    """Values of JSON objects by name, shape (N,) each; null becomes NaN."""
    decoded = [msgspec.json.decode(result) for result in results]
    return {name: np.array([result[name] for result in decoded], dtype) for name in names}


def _array(body: bytes) -> NDArray[Any]:
    array: NDArray[Any] = np.load(io.BytesIO(body), allow_pickle=False)
    return array
