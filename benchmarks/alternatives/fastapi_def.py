"""FastAPI with the model called in `def` handlers, which run in a pool of threads.

uvicorn benchmarks.alternatives.fastapi_def:app --no-access-log
https://fastapi.tiangolo.com/async/
"""

from typing import Annotated, Any

from fastapi import Body, FastAPI, Query, Response

from benchmarks.alternatives.model import Model, decode_png, encode_png

app = FastAPI()
model = Model()


@app.get("/ready")
async def ready() -> None:
    """Answers once the model has been loaded."""


@app.post("/sample")
def sample(
    pseudo_input: Annotated[int, Query(ge=0, lt=500)], temperature: Annotated[float, Query(ge=0, le=10)] = 1.0
) -> Response:
    """Draw an image."""
    return Response(encode_png(model.sample([pseudo_input], temperature)[0]), media_type="image/png")


@app.post("/loglik")
def loglik(image: Annotated[bytes, Body(media_type="image/png")]) -> dict[str, Any]:
    """Score an image."""
    return model.score([decode_png(image)])[0]
