"""The OpenAPI document: what FastAPI finds in the routes, and what it cannot find there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import FastAPI

from service.http.access import OPEN_PATHS
from service.http.problems import PROBLEM_JSON, ProblemDetail
from service.http.schemas import EXAMPLE_PNG
from service.http.uploads import ARRAY_TYPES
from service.images import format_names
from service.settings import Settings

__all__ = ["DESCRIPTION", "TAGS", "install_document"]

DESCRIPTION = """
A density model of images at work: a hierarchical variational autoencoder (VAE) with a VampPrior
([Tomczak & Welling, 2018](https://arxiv.org/abs/1705.07120)).

- The model assigns each image **x** a probability p(x), learned from a set of training images. Its **latents** z2 and
  z1 are the numbers from which it decodes an image.
- A **pseudo-input** is an image that the model learned together with its weights; it stands for a group of training
  images. Encoding it gives a **component** of the prior, from which latents are drawn. They are numbered from 0.

Every call can be tried as it stands: unfold it and press *Execute*. Images go in as a multipart `file`, as a raw body,
as a NumPy file or as base64 in JSON (filled in here), and come out as PNG, JSON or NPY. The same `seed` gives the same
answer. Errors are `application/problem+json`.
"""
TAGS = [
    {"name": "sample", "description": "Draw new images from the model."},
    {
        "name": "images",
        "description": "Ask what the model makes of your images: how likely, how new, where in latent space.",
    },
    {"name": "latents", "description": "Turn latents into images, and follow a path between two images."},
    {"name": "pseudo-inputs", "description": "See the prototypes that the model learned, which make up its prior."},
    {"name": "models", "description": "See which checkpoints answer, and load others."},
    {"name": "operations", "description": "Health checks and metrics, for orchestrators."},
    {"name": "inference protocol", "description": "The Open Inference Protocol, for clients of KServe and Triton."},
]
LAST_PARAMETERS = ("format", "columns", "scale", "resize", "invert", "model")
"""Parameters that many calls share; they follow those of the call itself."""
KEY_SCHEME: dict[str, Any] = {
    "type": "apiKey",
    "in": "header",
    "name": "X-API-Key",
    "description": "One of the keys in `VAMP_API_KEYS`.",
}


def install_document(app: FastAPI, settings: Settings) -> None:
    """Have `app` describe itself with shared errors, examples, the limits of the settings, and keys if it has any."""
    describe: Callable[[], dict[str, Any]] = app.openapi

    @cache
    def openapi() -> dict[str, Any]:
        document = describe()
        components = document.setdefault("components", {})
        images = _body(settings)
        components["requestBodies"] = {"Images": images, "OptionalImages": {**images, "required": False}}
        _add_problems(document)
        for path, _, operation in _operations(document):
            _order_parameters(operation)
            _add_limits(operation, settings)
            _add_example(operation)
            if settings.api_key_list():
                operation["security"] = [] if OPEN_PATHS.fullmatch(path) else [{"ApiKey": []}]
        if settings.api_key_list():
            components["securitySchemes"] = {"ApiKey": KEY_SCHEME}
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, method and description of every call."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield path, method, operation


def _add_problems(document: dict[str, Any]) -> None:
    """Describe problems, and each group of them once; the calls refer to it."""
    components = document["components"]
    schema = ProblemDetail.model_json_schema(ref_template="#/components/schemas/{model}")
    components["schemas"] |= schema.pop("$defs") | {"ProblemDetail": schema}
    shared = components.setdefault("responses", {})
    for _, _, operation in _operations(document):
        for status, response in operation["responses"].items():
            if PROBLEM_JSON in response.get("content", {}):
                words = response["description"].replace(";", " or").title()
                name = "".join(letter for letter in words if letter.isalnum())
                shared[name] = response
                operation["responses"][status] = {"$ref": f"#/components/responses/{name}"}


def _order_parameters(operation: dict[str, Any]) -> None:
    """Put the parameters that many calls share behind those of the call."""
    last = {name: place for place, name in enumerate(LAST_PARAMETERS, 1)}
    operation.get("parameters", []).sort(key=lambda parameter: last.get(parameter["name"], 0))


def _add_limits(operation: dict[str, Any], settings: Settings) -> None:
    for parameter in operation.get("parameters", []):
        if parameter["name"] == "num_samples":
            schema = parameter["schema"]
            schema["maximum"] = settings.max_num_samples
            schema["default"] = min(schema["default"], settings.max_num_samples)


@cache
def _examples() -> dict[str, Any]:
    """Answers of the shipped default model to the requests that the document fills in, by operation."""
    examples: dict[str, Any] = json.loads(files("service.http").joinpath("examples.json").read_text("utf-8"))
    return examples


def _add_example(operation: dict[str, Any]) -> None:
    example = _examples().get(operation["operationId"])
    if example is not None:
        operation["responses"]["200"]["content"]["application/json"]["example"] = example


def _body(settings: Settings) -> dict[str, Any]:
    """A body of images, with the limits that the settings give."""
    formats = settings.image_format_list()
    names, count = format_names(formats), {"minItems": 1, "maxItems": settings.max_images}
    file = {"type": "string", "format": "binary", "minLength": 1}
    description = (
        f"{names} files, told apart by their content: at most {settings.max_images} images of "
        f"{settings.max_image_pixels:,} pixels each and {settings.max_request_pixels:,} together, in at most "
        f"{settings.max_body_bytes:,} bytes. A model whose card has a `preparation` takes any size; for "
        "others each image must have the model's size, unless `resize=true`. "
        "Or a NumPy file of images of the model's size: levels of 0 to 255, or fractions of 0 to 1."
    )
    text = {
        "type": "string",
        "format": "base64-image",
        "minLength": 1,
        "description": f"{names} file in base64, with or without a prefix such as `data:image/png;base64,`.",
    }
    json_schema = {
        "type": "object",
        "required": ["images"],
        "properties": {"images": {"type": "array", "items": text, **count}},
        "additionalProperties": False,
    }
    form_schema = {
        "type": "object",
        "required": ["file"],
        "properties": {"file": {"type": "array", "items": file, **count}},
    }
    return {
        "description": description,
        "required": True,
        "content": {
            "application/json": {"schema": json_schema, "example": {"images": [EXAMPLE_PNG]}},
            "multipart/form-data": {"schema": form_schema},
            **{f"image/{kind}": {"schema": file} for kind in formats},
            "application/octet-stream": {"schema": file},
            **{kind: {"schema": file} for kind in ARRAY_TYPES},
        },
    }
