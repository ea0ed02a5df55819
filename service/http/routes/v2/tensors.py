"""Tensors of the Open Inference Protocol, in JSON or by its binary tensor data extension.

A binary body starts with the JSON of the request or answer, whose length in bytes is in the header
`Inference-Header-Content-Length`. The bytes of each tensor with the parameter `binary_data_size` follow in order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.errors import BadImage, BadRequest, TooLarge, quoted
from service.http.uploads import ModelImages
from service.images import levels_of

__all__ = [
    "DATATYPES",
    "INPUT",
    "LENGTH_HEADER",
    "InferenceRequest",
    "RequestedOutput",
    "encode_tensors",
    "read_images",
    "read_request",
]

LENGTH_HEADER = "Inference-Header-Content-Length"
INPUT = "images"
DATATYPES = {"BOOL": np.dtype("?"), "UINT8": np.dtype("u1"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8")}
"""Data types of the protocol that the service takes or gives, little endian."""
MAX_NUMBER_BYTES = 32
"""Bytes of JSON per value of a tensor, with commas, brackets and spaces."""
DECIMALS = 6
"""Decimals of FP32 values in JSON: more than a pixel or a latent can tell, at half the bytes."""


class InputParameters(msgspec.Struct, forbid_unknown_fields=True):
    """Parameters of an input tensor."""

    binary_data_size: Annotated[int, msgspec.Meta(ge=0)] | None = None


class InputTensor(msgspec.Struct, forbid_unknown_fields=True):
    """An input tensor. `data` holds undecoded JSON, so that its size can be checked first."""

    name: str
    shape: Annotated[list[Annotated[int, msgspec.Meta(ge=0)]], msgspec.Meta(max_length=8)]
    datatype: str
    parameters: InputParameters = msgspec.field(default_factory=InputParameters)
    data: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class OutputParameters(msgspec.Struct, forbid_unknown_fields=True):
    """Parameters of a requested output."""

    binary_data: bool | None = None


class RequestedOutput(msgspec.Struct, forbid_unknown_fields=True):
    """An output that is asked for by name."""

    name: str
    parameters: OutputParameters = msgspec.field(default_factory=OutputParameters)


class InferenceRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON of a request. `parameters` holds undecoded JSON, whose fields depend on the outputs."""

    id: Annotated[str, msgspec.Meta(max_length=256)] = ""
    parameters: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    inputs: Annotated[list[InputTensor], msgspec.Meta(max_length=16)] = []
    outputs: Annotated[list[RequestedOutput], msgspec.Meta(max_length=64)] | None = None


_decoder = msgspec.json.Decoder(InferenceRequest)


def read_request(body: bytes, header_length: str | None) -> tuple[InferenceRequest, memoryview]:
    """The JSON of a body and the bytes behind it. `header_length` is the value of the header, if there is one.

    Raises `BadRequest`.
    """
    length = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 16):
            raise BadRequest(f"{LENGTH_HEADER} must be the number of bytes of JSON that the body begins with")
        length = int(header_length)
        if length > len(body):
            raise BadRequest(f"{LENGTH_HEADER} is {length}, but the body has {len(body)} bytes")
    view = memoryview(body)
    try:
        return _decoder.decode(view[:length]), view[length:]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the request cannot be read: {str(error)[:200]}") from error


def read_images(
    request: InferenceRequest, binary: memoryview, image_shape: tuple[int, int, int], *, max_images: int
) -> ModelImages | None:
    """The images of a request, or None if it has no input. Nothing is decoded before its size is known.

    Raises `TooLarge` for more than `max_images` images, and `BadRequest`.
    """
    if not request.inputs:
        if len(binary):
            raise BadRequest(f"{len(binary)} bytes follow the JSON, but no input has binary_data_size")
        return None
    if len(request.inputs) > 1 or request.inputs[0].name != INPUT:
        raise BadRequest(f"the models have one input, `{INPUT}`")
    (tensor,) = request.inputs
    count = _count_images(tensor.shape, image_shape)
    if count > max_images:
        raise TooLarge(f"{count} images were sent, a request may have {max_images}")
    if tensor.datatype not in ("UINT8", "FP32"):
        raise BadRequest(f"`{INPUT}` must be UINT8 or FP32, not {quoted(tensor.datatype)}")
    values = _values(tensor, binary, count * math.prod(image_shape)).reshape(count, *image_shape)
    try:
        levels = levels_of(values)
    except BadImage as error:
        raise BadRequest(f"`{INPUT}` in {tensor.datatype}: {error.detail}") from error
    return ModelImages([f"image {index}" for index in range(count)], levels)


def _count_images(shape: Sequence[int], image_shape: tuple[int, int, int]) -> int:
    """N of a shape (N, C, H, W), or (N, H, W) for images of one channel. Raises `BadRequest`."""
    channels, *size = image_shape
    fits = list(shape[1:]) == list(image_shape) or (channels == 1 and list(shape[1:]) == size)
    if not fits or not shape[0]:
        allowed = f"[N, {channels}, {size[0]}, {size[1]}]" + (f" or [N, {size[0]}, {size[1]}]" if channels == 1 else "")
        raise BadRequest(f"`{INPUT}` has the shape {list(shape)}, the model takes {allowed}")
    return shape[0]


def _values(tensor: InputTensor, binary: memoryview, count: int) -> NDArray[Any]:
    """The `count` values of a tensor, flat. Raises `BadRequest` if there are more or fewer."""
    dtype, size = DATATYPES[tensor.datatype], tensor.parameters.binary_data_size
    if size is None:
        if len(binary):
            raise BadRequest(f"{len(binary)} bytes follow the JSON, but `{INPUT}` has no binary_data_size")
        with np.errstate(over="ignore"):  # infinity is out of range as well
            return np.array(_json_values(tensor, count), dtype)
    if bytes(tensor.data):
        raise BadRequest(f"`{INPUT}` has both data and binary_data_size")
    if size != count * dtype.itemsize or len(binary) != size:
        raise BadRequest(
            f"`{INPUT}` has {count * dtype.itemsize} bytes by its shape and type, {size} by binary_data_size, and "
            f"{len(binary)} bytes follow the JSON"
        )
    return np.frombuffer(binary, dtype)


def _json_values(tensor: InputTensor, count: int) -> list[float]:
    """The values of a tensor in JSON, nested in any way, in row-major order."""
    text = memoryview(tensor.data)
    if len(text) > count * MAX_NUMBER_BYTES + 1024:
        raise BadRequest(f"`{INPUT}` has {len(text)} bytes of data, too many for {count} values")
    flat = bytes(text).translate(None, b"[]")
    if flat.count(b",") != count - 1:  # before any of them becomes an object
        raise BadRequest(f"`{INPUT}` must have {count} values by its shape")
    kind = Annotated[int, msgspec.Meta(ge=0, le=255)] if tensor.datatype == "UINT8" else float
    try:
        return msgspec.json.decode(b"[" + flat + b"]", type=list[kind])  # type: ignore[valid-type]
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequest(f"`{INPUT}` cannot be read as {tensor.datatype}: {str(error)[:200]}") from error


@dataclass(frozen=True)
class _Encoded:
    """A tensor of an answer: its description, and its bytes if it goes out in binary."""

    description: dict[str, Any]
    binary: bytes = b""


def encode_tensors(
    head: Mapping[str, Any], tensors: Mapping[str, tuple[str, NDArray[Any]]], binary: frozenset[str]
) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON if bytes of tensors follow it.

    head:    what the answer says beside its outputs
    tensors: data type and values of each output, by name
    binary:  names of the outputs that go out in binary
    """
    encoded = [_encode(name, *tensor, in_binary=name in binary) for name, tensor in tensors.items()]
    text = msgspec.json.encode({**head, "outputs": [tensor.description for tensor in encoded]})
    if not binary:
        return text, None
    return b"".join([text, *(tensor.binary for tensor in encoded)]), len(text)


def _encode(name: str, datatype: str, values: NDArray[Any], *, in_binary: bool) -> _Encoded:
    description: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(values.shape)}
    if in_binary:
        content = values.astype(DATATYPES[datatype]).tobytes()
        return _Encoded(description | {"parameters": {"binary_data_size": len(content)}}, content)
    if datatype == "FP32":
        values = values.astype(np.float64).round(DECIMALS)
    return _Encoded(description | {"data": values.ravel().tolist()})  # NaN becomes null
