"""A worker process: reads batches from its socket, computes them, and sends the results back, until the socket ends."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

from service.engine.jobs import Runtime, compute
from service.engine.protocol import Batch, Computed, frame, receive

__all__ = ["work"]

OUT_OF_MEMORY = 12  # exit status of a worker that found no memory; others compute its work

logger = logging.getLogger(__name__)


def work(connection: socket.socket, runtimes: Mapping[str, Runtime]) -> None:
    """Serve the connection until its other end closes it."""
    while (message := receive(connection)) is not None:
        if isinstance(message, Batch):
            try:
                connection.sendall(frame(_computed(message, runtimes)))
            except ConnectionError:
                return


def _computed(batch: Batch, runtimes: Mapping[str, Runtime]) -> Computed:
    begin = time.perf_counter()
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
    return Computed(batch.number, results, error, time.perf_counter() - begin)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether Python, NumPy or torch found no memory; torch's allocator for the CPU raises a plain `RuntimeError`."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error).lower())
