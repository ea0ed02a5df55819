"""A worker process: reads batches from its socket, computes them, and sends the results back, until the socket ends."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from service.engine.jobs.calibrations import show_map, show_quantiles
from service.engine.jobs.encodings import encode
from service.engine.jobs.images import draw, reconstruct, render_images
from service.engine.jobs.latents import decode_latents, interpolate
from service.engine.jobs.novelty import decide, locate, measure
from service.engine.jobs.prototypes import decode, gallery
from service.engine.jobs.runtime import Runtime
from service.engine.jobs.scores import combine, refine, score
from service.engine.jobs.stopwatch import rendering
from service.engine.protocol import (
    Batch,
    Combine,
    Computed,
    Decide,
    Decode,
    DecodeLatents,
    Draw,
    Encode,
    Gallery,
    Interpolate,
    Locate,
    Measure,
    Payload,
    Reconstruct,
    Refine,
    Render,
    Score,
    ShowMap,
    ShowQuantiles,
    frame,
    receive,
)

__all__ = ["compute", "work"]

OUT_OF_MEMORY = 12  # exit status of a worker that found no memory; others compute its work

JOBS: dict[type[Payload], Callable[[Runtime, Sequence[Any]], list[bytes]]] = {
    Draw: draw,
    Reconstruct: reconstruct,
    Render: render_images,
    Encode: encode,
    Decode: decode,
    DecodeLatents: decode_latents,
    Interpolate: interpolate,
    Gallery: gallery,
    Refine: refine,
    Score: score,
    Combine: combine,
    Measure: measure,
    Decide: decide,
    Locate: locate,
    ShowMap: show_map,
    ShowQuantiles: show_quantiles,
}

logger = logging.getLogger(__name__)


def work(connection: socket.socket, runtimes: Mapping[str, Runtime]) -> None:
    """Serve the connection until its other end closes it."""
    while (message := receive(connection)) is not None:
        if isinstance(message, Batch):
            try:
                connection.sendall(frame(_computed(message, runtimes)))
            except ConnectionError:
                return


def compute(runtime: Runtime, payloads: Sequence[Payload]) -> list[bytes]:
    """Results of payloads of one kind, in their order."""
    with torch.inference_mode():
        return JOBS[type(payloads[0])](runtime, payloads)


def _computed(batch: Batch, runtimes: Mapping[str, Runtime]) -> Computed:
    begin = time.perf_counter()
    rendering.read()
    results: list[bytes] = []
    error = ""
    try:
        results = compute(runtimes[batch.model], batch.payloads)
    except Exception as failure:
        logger.exception("%s on %s failed", type(batch.payloads[0]).__name__, batch.model)
        if _is_out_of_memory(failure):
            logging.shutdown()
            os._exit(OUT_OF_MEMORY)
        error = f"{type(failure).__name__}: {failure}"[:1000]
    return Computed(batch.number, results, error, time.perf_counter() - begin, rendering.read())


def _is_out_of_memory(error: Exception) -> bool:
    """Whether Python, NumPy or torch found no memory; torch's allocator for the CPU raises a plain `RuntimeError`."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error).lower())
