"""`POST /v2/models/{model_name}/infer`: tensors in, tensors out."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ValidationError

from service.errors import BadRequest, UnsupportedMediaType, quoted
from service.http.routes.parameters import client_of, resolve_model, service_of
from service.http.routes.query import QueryRoute
from service.http.routes.v2.outputs import PARAMETERS, Computation, outputs_of
from service.http.routes.v2.schemas import (
    ERRORS,
    INFERENCE_BODY,
    INFERENCE_CONTENT,
    InferenceResponse,
    ModelName,
    ModelVersion,
)
from service.http.routes.v2.tensors import (
    LENGTH_HEADER,
    InferenceRequest,
    RequestedOutput,
    encode_tensors,
    read_images,
    read_request,
)
from service.http.uploads import ModelImages
from service.models.loaded import LoadedModel

__all__ = ["router"]

MAX_PARAMETER_BYTES = 4096

router = APIRouter(route_class=QueryRoute, tags=["inference protocol"], responses=ERRORS)

DESCRIPTION: dict[str, Any] = {
    "response_model": InferenceResponse,
    "responses": {200: INFERENCE_CONTENT},
    "openapi_extra": INFERENCE_BODY,
}


@router.post("/v2/models/{model_name}/infer", operation_id="infer", **DESCRIPTION)
async def infer(request: Request, model_name: ModelName) -> Response:
    """Compute the outputs that are named, from images or, for `sample`, from nothing.

    Without `outputs` the answer has all that the model gives for its images, or samples if there are none.
    """
    return await _infer(request, resolve_model(request, model_name))


@router.post("/v2/models/{model_name}/versions/{model_version}/infer", operation_id="infer_version", **DESCRIPTION)
async def infer_version(request: Request, model_name: ModelName, model_version: ModelVersion) -> Response:
    """Compute the outputs that are named with this version of the model."""
    return await _infer(request, resolve_model(request, f"{model_name}@{model_version}"))


async def _infer(request: Request, loaded: LoadedModel) -> Response:
    service, header_length = service_of(request), request.headers.get(LENGTH_HEADER)
    if request.headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedMediaType("the body must not be compressed")

    def read(body: bytes) -> tuple[InferenceRequest, ModelImages | None]:
        asked, binary = read_request(body, header_length)
        shape, most = loaded.card.model.image_shape, service.settings.max_images
        return asked, read_images(asked, binary, shape, max_images=most)

    asked, images = await service.uploads.read_with(request, read)
    parameters = _parameters(asked)
    wanted = _wanted(asked, loaded, images)
    computation = Computation(service, loaded, parameters, list(wanted), client_of(request))
    computation.check(images)
    outputs = await computation.outputs(images)
    in_binary = [name for name, output in wanted.items() if _in_binary(output, parameters)]
    head: dict[str, Any] = {
        "model_name": loaded.card.name,
        "model_version": loaded.card.version,
        "parameters": {"seed": computation.seed},
    }
    if asked.id:
        head["id"] = asked.id
    body, length = encode_tensors(head, outputs, frozenset(in_binary))
    headers = {**loaded.headers, "X-Seed": str(computation.seed)}
    if length is None:
        return Response(body, media_type="application/json", headers=headers)
    return Response(body, media_type="application/octet-stream", headers={**headers, LENGTH_HEADER: str(length)})


def _parameters(asked: InferenceRequest) -> BaseModel:
    """The parameters of a request. Raises `BadRequest`."""
    text = bytes(asked.parameters)
    if len(text) > MAX_PARAMETER_BYTES:
        raise BadRequest(f"the parameters have {len(text)} bytes, at most {MAX_PARAMETER_BYTES} are read")
    try:
        return PARAMETERS.model_validate_json(text or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise BadRequest(f"parameter {quoted(name)}: {first['msg']}") from error


def _wanted(asked: InferenceRequest, loaded: LoadedModel, images: ModelImages | None) -> dict[str, RequestedOutput]:
    """The outputs that are asked for, by name. Raises `BadRequest`."""
    known = outputs_of(loaded)
    if not asked.outputs:
        names = [name for name in known if (name == "sample") == (images is None)]
        return {name: RequestedOutput(name) for name in names}
    for output in asked.outputs:
        if output.name not in known:
            reason = f"{loaded.reference} has no output {quoted(output.name)}; it has {', '.join(known)}"
            raise BadRequest(reason)
    wanted = {output.name: output for output in asked.outputs}
    if len(wanted) != len(asked.outputs):
        raise BadRequest("an output is asked for twice")
    return wanted


def _in_binary(output: RequestedOutput, parameters: BaseModel) -> bool:
    wish = output.parameters.binary_data
    return bool(getattr(parameters, "binary_data_output", False)) if wish is None else wish
