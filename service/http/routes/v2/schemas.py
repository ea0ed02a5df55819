"""How the OpenAPI document describes the Open Inference Protocol."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import BaseModel, Field

from service.http.answers import ANSWER_HEADERS
from service.http.routes.v2.outputs import PARAMETERS
from service.http.routes.v2.tensors import INPUT, LENGTH_HEADER

__all__ = [
    "ERRORS",
    "INFERENCE_BODY",
    "INFERENCE_CONTENT",
    "InferenceResponse",
    "ModelMetadata",
    "ModelName",
    "ModelReady",
    "ModelVersion",
    "ServerLive",
    "ServerMetadata",
    "ServerReady",
    "TensorMetadata",
]

ModelName = Annotated[
    str,
    Path(
        description="Name of a model, for its newest version.",
        openapi_examples={"default": {"value": "static_mnist-hvae-vampprior"}},
    ),
]
ModelVersion = Annotated[str, Path(description="Version of the model.", openapi_examples={"default": {"value": "1"}})]


class InferenceError(BaseModel):
    """An error, as the protocol has it."""

    error: str = Field(description="What is wrong with the request and what to do about it.")


STATUSES = {
    400: "The request cannot be read, or asks for what the model does not have",
    401: "API key missing or wrong",
    404: "No such model",
    413: "Request too large",
    415: "The body is compressed",
    429: "Too many requests",
    500: "Internal error",
    503: "Overloaded, or not ready",
    504: "Deadline exceeded",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": InferenceError, "description": description} for status, description in STATUSES.items()
} | {"4XX": {"model": InferenceError, "description": "Another error of the request"}}  # or FastAPI would add its 422


class ServerMetadata(BaseModel):
    """What the server is."""

    name: str
    version: str
    extensions: list[str] = Field(description="Extensions of the protocol that it speaks.")


class ServerLive(BaseModel):
    """The server lives."""

    live: Literal[True]


class ServerReady(BaseModel):
    """The server is ready for requests."""

    ready: Literal[True]


class ModelReady(BaseModel):
    """The model is ready for requests."""

    name: str
    ready: Literal[True]


class TensorMetadata(BaseModel):
    """A tensor that a model takes or gives."""

    name: str
    datatype: str
    shape: list[int] = Field(description="-1 stands for the number of images.")


class ModelMetadata(BaseModel):
    """What a model takes and gives."""

    name: str
    versions: list[str] = Field(description="Versions that answer, the newest first.")
    platform: str
    inputs: list[TensorMetadata] = Field(description="UINT8 from 0 to 255; FP32 from 0 to 1 is taken as well.")
    outputs: list[TensorMetadata]


class OutputTensor(TensorMetadata):
    """A tensor of an answer."""

    parameters: dict[str, int] | None = Field(None, description="`binary_data_size`, if it goes out in binary.")
    data: list[float | bool | None] | None = Field(None, description="Its values in row-major order, else.")


class InferenceResponse(BaseModel):
    """Tensors that were computed."""

    model_name: str
    model_version: str
    id: str | None = Field(None, description="The id of the request, if it had one.")
    parameters: dict[str, int] = Field(description="`seed`: the same seed gives the same answer.")
    outputs: list[OutputTensor]


BINARY = {"schema": {"type": "string", "format": "binary"}}
INFERENCE_CONTENT: dict[str, Any] = {
    "description": "The outputs, as JSON or by the binary tensor data extension.",
    "content": {"application/octet-stream": BINARY},
    "headers": {
        **{name: ANSWER_HEADERS[name] for name in ("X-Model", "X-Model-Version", "X-Seed")},
        LENGTH_HEADER: {"schema": {"type": "integer"}, "description": "Bytes of JSON that a binary body begins with."},
    },
}
_TENSOR_PARAMETERS = {"binary_data_size": {"type": "integer", "minimum": 0}}
INFERENCE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": f"`{INPUT}`: UINT8 from 0 to 255 or FP32 from 0 to 1, [N, C, H, W], or [N, H, W] for one "
        f"channel. With the header `{LENGTH_HEADER}` the body is that many bytes of JSON, and behind them the bytes of "
        "each input that has the parameter `binary_data_size`.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "id": {"type": "string", "maxLength": 256},
                        "parameters": PARAMETERS.model_json_schema(),
                        "inputs": {
                            "type": "array",
                            "maxItems": 1,
                            "items": {
                                "type": "object",
                                "additionalProperties": False,
                                "required": ["name", "shape", "datatype"],
                                "properties": {
                                    "name": {"type": "string", "enum": [INPUT]},
                                    "shape": {"type": "array", "items": {"type": "integer"}},
                                    "datatype": {"type": "string", "enum": ["UINT8", "FP32"]},
                                    "parameters": {"type": "object", "properties": _TENSOR_PARAMETERS},
                                    "data": {"type": "array", "items": {}},
                                },
                            },
                        },
                        "outputs": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "additionalProperties": False,
                                "required": ["name"],
                                "properties": {
                                    "name": {"type": "string"},
                                    "parameters": {
                                        "type": "object",
                                        "properties": {"binary_data": {"type": "boolean"}},
                                    },
                                },
                            },
                        },
                    },
                },
                "example": {"parameters": {"n": 1, "seed": 1}, "outputs": [{"name": "sample"}]},
            },
            "application/octet-stream": BINARY,
        },
    }
}
