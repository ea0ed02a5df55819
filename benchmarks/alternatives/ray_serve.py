"""Ray Serve with `@serve.batch`, one deployment a process, tuned for throughput as its performance guide says.

RAY_SERVE_THROUGHPUT_OPTIMIZED=1 python -m benchmarks.alternatives.ray_serve sample|loglik PORT
https://docs.ray.io/en/latest/serve/advanced-guides/dyn-req-batch.html
https://docs.ray.io/en/latest/serve/advanced-guides/performance.html
"""

import signal
import sys
from typing import Any

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.alternatives.model import Model, decode_png, encode_png


@serve.deployment(max_ongoing_requests=200)
class Sampler:
    """`POST /sample`."""

    def __init__(self) -> None:
        self.model = Model()

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.005)
    async def draw(self, pseudo_inputs: list[int]) -> list[bytes]:
        """A PNG for each."""
        return [encode_png(image) for image in self.model.sample(pseudo_inputs)]

    async def __call__(self, request: Request) -> Response:
        """Draw an image."""
        return Response(await self.draw(int(request.query_params["pseudo_input"])), media_type="image/png")


@serve.deployment(max_ongoing_requests=200)
class Scorer:
    """`POST /loglik`."""

    def __init__(self) -> None:
        self.model = Model()

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.005)
    async def score(self, pngs: list[bytes]) -> list[dict[str, Any]]:
        """A score for each."""
        return self.model.score([decode_png(png) for png in pngs])

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Score an image."""
        return await self.score(await request.body())


DEPLOYMENTS = {"sample": Sampler, "loglik": Scorer}

if __name__ == "__main__":
    name, port = sys.argv[1:]
    ray.init(include_dashboard=False, configure_logging=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(port), "access_log": False})
    serve.run(DEPLOYMENTS[name].bind(), route_prefix=f"/{name}")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
