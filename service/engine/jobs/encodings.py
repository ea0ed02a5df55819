"""Where images lie in latent space."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from service.engine.jobs.runtime import Runtime, decimals
from service.engine.protocol import Encode

__all__ = ["encode"]


def encode(runtime: Runtime, payloads: Sequence[Encode]) -> list[bytes]:
    """Posterior of each image and the components most responsible for it, a JSON object in a line each."""
    posterior = runtime.model.encode(runtime.images(payloads))
    top_layer = next(iter(posterior.values()))
    responsibilities = runtime.mixture.responsibilities(top_layer.mean).cpu().numpy()
    layers = {name: {"mean": decimals(normal.mean), "std": decimals(normal.std)} for name, normal in posterior.items()}
    results, row = [], 0
    for payload in payloads:
        lines = []
        for index in range(row, row + payload.count):
            order = np.argsort(-responsibilities[index], kind="stable")[: payload.top]
            image = {
                "posterior": {
                    name: {key: values[index].tolist() for key, values in layer.items()}
                    for name, layer in layers.items()
                },
                "components": [
                    {"index": int(k), "probability": round(float(responsibilities[index, k]), 6)} for k in order
                ],
            }
            lines.append(msgspec.json.encode(image))
        row += payload.count
        results.append(b"\n".join(lines))
    return results
