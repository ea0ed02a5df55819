"""What the Open Inference Protocol asks of a server and its models: health and metadata."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter, Request

from service.errors import NotReady
from service.http.routes.parameters import resolve_model, service_of
from service.http.routes.query import QueryRoute
from service.http.routes.v2.outputs import outputs_of
from service.http.routes.v2.schemas import (
    ERRORS,
    ModelMetadata,
    ModelName,
    ModelReady,
    ModelVersion,
    ServerLive,
    ServerMetadata,
    ServerReady,
    TensorMetadata,
)
from service.http.routes.v2.tensors import INPUT
from service.models.loaded import LoadedModel

__all__ = ["router"]

router = APIRouter(route_class=QueryRoute, tags=["inference protocol"], responses=ERRORS)


@router.get("/v2", operation_id="server_metadata")
async def server_metadata(_: Request) -> ServerMetadata:
    """Name, version and extensions of the server."""
    return ServerMetadata(name="vampprior", version=version("vampprior"), extensions=["binary_tensor_data"])


@router.get("/v2/health/live", operation_id="server_live")
async def live(_: Request) -> ServerLive:
    """Answers as long as the process does."""
    return ServerLive(live=True)


@router.get("/v2/health/ready", operation_id="server_ready")
async def ready(request: Request) -> ServerReady:
    """200 once every model has loaded and run; 503 before, and while the service stops."""
    store = service_of(request).store
    if not store.ready:
        raise NotReady(store.unready_reason)
    return ServerReady(ready=True)


@router.get("/v2/models/{model_name}", operation_id="model_metadata")
async def metadata(request: Request, model_name: ModelName) -> ModelMetadata:
    """Versions, input and outputs of a model."""
    return _metadata(request, resolve_model(request, model_name))


@router.get("/v2/models/{model_name}/versions/{model_version}", operation_id="version_metadata")
async def version_metadata(request: Request, model_name: ModelName, model_version: ModelVersion) -> ModelMetadata:
    """Input and outputs of this version of a model."""
    return _metadata(request, resolve_model(request, f"{model_name}@{model_version}"))


@router.get("/v2/models/{model_name}/ready", operation_id="model_ready")
async def model_ready(request: Request, model_name: ModelName) -> ModelReady:
    """200 if the model answers."""
    loaded = resolve_model(request, model_name)
    return ModelReady(name=loaded.card.name, ready=True)


@router.get("/v2/models/{model_name}/versions/{model_version}/ready", operation_id="version_ready")
async def version_ready(request: Request, model_name: ModelName, model_version: ModelVersion) -> ModelReady:
    """200 if this version of the model answers."""
    loaded = resolve_model(request, f"{model_name}@{model_version}")
    return ModelReady(name=loaded.card.name, ready=True)


def _metadata(request: Request, loaded: LoadedModel) -> ModelMetadata:
    models, name, image_shape = service_of(request).store.models, loaded.card.name, loaded.card.model.image_shape
    return ModelMetadata(
        name=name,
        versions=[model.card.version for model in models if model.card.name == name],
        platform="pytorch_safetensors",
        inputs=[TensorMetadata(name=INPUT, datatype="UINT8", shape=[-1, *image_shape])],
        outputs=[
            TensorMetadata(name=output, datatype=kind.datatype, shape=list(kind.shape))
            for output, kind in outputs_of(loaded).items()
        ],
    )
