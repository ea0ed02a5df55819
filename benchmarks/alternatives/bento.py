"""BentoML with adaptive batching, one service a process.

bentoml serve benchmarks.alternatives.bento:Sampler
bentoml serve benchmarks.alternatives.bento:Scorer
https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html

A batchable endpoint takes a list and answers a list, so PNGs come and go in base64. The same page's other set-up, where
another service stands before the batching one and takes single requests, answers some of 64 clients with status 500:
the connection between the two breaks (https://github.com/bentoml/BentoML/issues/4238).
"""

import base64
from typing import Any

import bentoml

from benchmarks.alternatives.model import Model, decode_png, encode_png

QUIET: dict[str, Any] = {
    "workers": 1,
    "traffic": {"timeout": 120},
    "logging": {"access": {"enabled": False}},
    "metrics": {"enabled": False},
}


@bentoml.service(**QUIET)
class Sampler:
    """`POST /sample`."""

    def __init__(self) -> None:
        self.model = Model()

    @bentoml.api(batchable=True, max_batch_size=64)
    def sample(self, pseudo_inputs: list[int]) -> list[str]:
        """An image for each."""
        return [base64.b64encode(encode_png(image)).decode() for image in self.model.sample(pseudo_inputs)]


@bentoml.service(**QUIET)
class Scorer:
    """`POST /loglik`."""

    def __init__(self) -> None:
        self.model = Model()

    @bentoml.api(batchable=True, max_batch_size=16)
    def loglik(self, images: list[str]) -> list[dict[str, Any]]:
        """A score for each."""
        return self.model.score([decode_png(base64.b64decode(image)) for image in images])
