"""Who is measured over HTTP: the servers, and how each is asked for a sample and for a log-likelihood."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, replace

from benchmarks.alternatives.model import NAIVE, NUM_SAMPLES
from benchmarks.load import Request
from benchmarks.machine import DIGIT, Options
from benchmarks.release import Release
from benchmarks.servers import Server

__all__ = ["CONSTANT", "NAIVE_SCORERS", "SAMPLE", "SAMPLERS", "SCORERS", "SERVICE", "Contestant", "loglik", "services"]

SAMPLE = Request("/sample?pseudo_input={k}", answer=b"\x89PNG")
SCORE = Request("/loglik", content_type="image/png", body=f"@{DIGIT}", answer=b"log_likelihood")


def loglik(num_samples: int = NUM_SAMPLES) -> Request:
    """A log-likelihood from the service, never one that it has in its cache."""
    return replace(SCORE, target=f"/loglik?num_samples={num_samples}&seed={{seed}}")


@dataclass(frozen=True)
class Contestant:
    """A server and what is asked of it."""

    server: Server
    request: Request

    @property
    def name(self) -> str:
        """The server's."""
        return self.server.name


def _fastapi(name: str, module: str) -> Server:
    command = ("uvicorn", f"benchmarks.alternatives.{module}:app", "--port", "{port}", "--no-access-log")
    return Server(name, command, "/ready")


def _lit_serve(api: str) -> Server:
    return Server("LitServe", ("benchmarks.alternatives.lit_serve", api, "{port}"), "/health")


def _bento(service: str) -> Server:
    command = ("bentoml", "serve", f"benchmarks.alternatives.bento:{service}", "--port", "{port}")
    return Server("BentoML", command, "/readyz", {"BENTOML_DO_NOT_TRACK": "True"})


def _ray_serve(deployment: str) -> Server:
    environment = {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # by default 15: behind everything else that the machine does
    }
    return Server("Ray Serve", ("benchmarks.alternatives.ray_serve", deployment, "{port}"), "/-/healthz", environment)


def _json(path: str, body: str, answer: bytes) -> Request:
    return Request(path, content_type="application/json", body=body, answer=answer)


def _naively(contestant: Contestant) -> Contestant:
    """The same with the naive estimate in place of the library's."""
    server = contestant.server
    environment = {**server.environment, NAIVE: "1"}
    return replace(contestant, server=replace(server, name=f"{server.name}, naive", environment=environment))


def services(options: Options) -> list[Server]:
    """The service, and that of a former release if the options have one."""
    return [SERVICE, *([_former_service(options.former)] if options.former else [])]


def _former_service(release: Release) -> Server:
    """The service of a former release, with its own checkpoints: it may not read the cards of the present one."""
    has_workers = (release.folder / "service" / "engine" / "loader.py").exists()
    variables = {
        "VAMP_PORT": "{port}",
        "VAMP_WORKERS" if has_workers else "VAMP_THREADS": "{threads}",
        "VAMP_MODEL_STORE": str(release.folder / "model_store"),
    }
    return replace(SERVICE, name=release.name, environment=variables, folder=release.folder)


SERVICE = Server("service", ("service",), "/health/ready", {"VAMP_PORT": "{port}", "VAMP_WORKERS": "{threads}"})
CONSTANT = Contestant(_fastapi("constant bytes", "constant"), SAMPLE)

FASTAPI_ASYNC = _fastapi("FastAPI, async def", "fastapi_async")
FASTAPI_DEF = _fastapi("FastAPI, def", "fastapi_def")
IMAGE = base64.b64encode(DIGIT.read_bytes()).decode()

SAMPLERS = [
    Contestant(FASTAPI_ASYNC, SAMPLE),
    Contestant(FASTAPI_DEF, SAMPLE),
    Contestant(_lit_serve("sample"), _json("/sample", '{"pseudo_input": {k}}', SAMPLE.answer)),
    Contestant(_bento("Sampler"), _json("/sample", '{"pseudo_inputs": [{k}]}', base64.b64encode(b"\x89PNG\r\n"))),
    Contestant(_ray_serve("sample"), SAMPLE),
]
SCORERS = [
    Contestant(FASTAPI_ASYNC, SCORE),
    Contestant(FASTAPI_DEF, SCORE),
    Contestant(_lit_serve("loglik"), _json("/loglik", json.dumps({"image": IMAGE}), SCORE.answer)),
    Contestant(_bento("Scorer"), _json("/loglik", json.dumps({"images": [IMAGE]}), SCORE.answer)),
    Contestant(_ray_serve("loglik"), SCORE),
]
NAIVE_SCORERS = [_naively(scorer) for scorer in SCORERS]
