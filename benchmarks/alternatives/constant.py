"""FastAPI with the service's parameters of `POST /sample`, validated alike, and always the same bytes for an answer.

uvicorn benchmarks.alternatives.constant:app --no-access-log
"""

from typing import Annotated, Literal

from fastapi import FastAPI, Query, Response

from benchmarks.machine import DIGIT

app = FastAPI()
PNG = DIGIT.read_bytes()


@app.get("/ready")
async def ready() -> None:
    """Answers."""


@app.post("/sample")
async def sample(
    model: Annotated[str | None, Query()] = None,  # noqa: ARG001
    format: Annotated[Literal["png", "json", "npy"] | None, Query()] = None,  # noqa: A002, ARG001
    columns: Annotated[int, Query(ge=1, le=64)] = 10,  # noqa: ARG001
    scale: Annotated[int, Query(ge=1, le=16)] = 1,  # noqa: ARG001
    pseudo_input: Annotated[int | None, Query(ge=0)] = None,  # noqa: ARG001
    n: Annotated[int, Query(ge=1, le=256)] = 1,  # noqa: ARG001
    seed: Annotated[int | None, Query(ge=0, le=2**53 - 1)] = None,  # noqa: ARG001
    mode: Annotated[Literal["mean", "draw"], Query()] = "mean",  # noqa: ARG001
    temperature: Annotated[float, Query(ge=0, le=10)] = 1.0,  # noqa: ARG001
) -> Response:
    """Answer with the constant."""
    return Response(PNG, media_type="image/png")
