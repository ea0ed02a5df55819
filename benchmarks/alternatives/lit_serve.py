"""LitServe with its batching on, one API a process.

python -m benchmarks.alternatives.lit_serve sample|loglik PORT
https://lightning.ai/docs/litserve/features/batching
"""

import sys
from typing import Annotated, Any

import litserve
import numpy as np
from fastapi import Response
from numpy.typing import NDArray
from pydantic import Base64Bytes, BaseModel, Field
from torch import Tensor

from benchmarks.alternatives.model import Model, decode_png, encode_png


class Draw(BaseModel):
    """A request for a sample."""

    pseudo_input: Annotated[int, Field(ge=0, lt=500)]
    temperature: Annotated[float, Field(ge=0, le=10)] = 1.0


class Upload(BaseModel):
    """An image to score, a PNG in base64."""

    image: Base64Bytes


class SampleAPI(litserve.LitAPI):
    """Draws images."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        self.model = Model()

    def decode_request(self, request: Draw) -> int:
        return request.pseudo_input

    def batch(self, inputs: list[int]) -> list[int]:
        return inputs

    def predict(self, batch: list[int]) -> NDArray[np.float32]:
        return self.model.sample(batch)

    def unbatch(self, output: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return [*output]

    def encode_response(self, output: NDArray[np.float32]) -> Response:
        return Response(encode_png(output), media_type="image/png")


class ScoreAPI(litserve.LitAPI):
    """Scores images."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        self.model = Model()

    def decode_request(self, request: Upload) -> Tensor:
        return decode_png(request.image)

    def batch(self, inputs: list[Tensor]) -> list[Tensor]:
        return inputs

    def predict(self, batch: list[Tensor]) -> list[dict[str, Any]]:
        return self.model.score(batch)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output


APIS = {"sample": SampleAPI, "loglik": ScoreAPI}

if __name__ == "__main__":
    name, port = sys.argv[1:]
    api = APIS[name](max_batch_size=64, batch_timeout=0.005, api_path=f"/{name}")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=120)
    server.run(port=int(port), host="127.0.0.1", generate_client_file=False, access_log=False)
