"""Figures of what one request may cost the service: hostile JSON bodies, and large images at once."""

from __future__ import annotations

import base64
import http.client
import io
import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from benchmarks.contestants import SERVICE
from benchmarks.machine import DIGIT, Options
from benchmarks.measure import AtMost, Claim, Series
from benchmarks.results import Result
from benchmarks.servers import Running, running

__all__ = ["BODIES", "LIMIT", "bodies", "decoding"]

LIMIT = 16 * 1024 * 1024  # the default of VAMP_MAX_BODY_BYTES
IDLE_SECONDS = 0.5  # about as long as a body takes
CLIENTS, SIDE = 12, 2000
WIDE = b"\\ud83d\\ude00"  # Python stores a string with such a character in 4 bytes per character

BODIES: dict[str, tuple[bytes, bytes, bytes]] = {
    "numbers": (b'{"images":[', b"1,", b"1]}"),
    "empty strings": (b'{"images":[', b'"",', b'""]}'),
    "lists": (b'{"images":[', b"[],", b"[]]}"),
    "unknown keys": (b"{", b'"a":1,', b'"a":1}'),
    "nested lists": (b'{"images":', b"[", b""),
    "a long key": (b'{"' + WIDE, b"k", b'":1,"images":["YWJj"]}'),
    "a long number": (b'{"images":[', b"1", b"]}"),
    "a long string": (b'{"images":["', b"A", b'"]}'),
    "a long string with a prefix": (b'{"images":["data:image/png;base64,', b"AAAA", b'"]}'),
    "a long string of wide characters": (b'{"images":["', WIDE, b'"]}'),
    "a long string of escapes": (b'{"images":["', b"\\u0041", b'"]}'),
    "a long string of escaped slashes": (b'{"images":["', b"\\/", b'"]}'),
    "spaces": (b'{"images":[', b" ", b"]}"),
}
"""Hostile bodies by name: a start, a unit that is repeated up to the limit, and an end."""


def bodies(options: Options) -> Result:
    """Longest stall of the event loop in each round, and peak memory over all, while a new process refuses a body."""
    stalls, multiples = [_idle(options)], []
    for name, parts in BODIES.items():
        body = _fill(*parts)
        with running(SERVICE, options) as server:
            _warm_up(server)
            with _peak_bytes(server) as peak:
                longest = [_longest_stall(server, body) for _ in range(options.rounds)]
        stalls.append(Series(f"{name}: longest answer of /health/live", "s", longest))
        multiples.append(Series(f"{name}: peak memory over the body", "times", [peak[0] / len(body)]))
    slowest = Series("longest answer of /health/live beside a body", "s", [max(s.median for s in stalls[1:])])
    largest = Series("peak memory over the body, largest", "times", [max(s.median for s in multiples)])
    claims = [Claim(slowest, AtMost(0.1)), Claim(largest, AtMost(4.0))]
    return Result(stalls + multiples, claims, {"body_bytes": LIMIT})


def decoding(options: Options) -> Result:
    """Peak memory while 12 clients send a PNG of 2000 x 2000 RGBA pixels each."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((SIDE, SIDE, 4), np.uint8)).save(buffer, "PNG")
    series = []
    for name, path in (("refused for their size", "/encode"), ("decoded and resized", "/encode?resize=true")):
        with running(SERVICE, options) as server:
            _warm_up(server)
            with _peak_bytes(server) as peak, ThreadPoolExecutor(CLIENTS) as threads:
                tasks = [threads.submit(_post, server, path, buffer.getvalue(), "image/png") for _ in range(CLIENTS)]
                statuses = sorted(task.result() for task in tasks)
        counts = ", ".join(f"{statuses.count(status)} x {status}" for status in sorted(set(statuses)))
        series.append(Series(f"growth, {name} ({counts})", "MB", [peak[0] / 1e6]))
    claims = [Claim(series[0], AtMost(50.0)), Claim(series[1], AtMost(400.0))]
    return Result(series, claims, {"clients": CLIENTS, "pixels": SIDE * SIDE, "file_bytes": len(buffer.getvalue())})


def _idle(options: Options) -> Series:
    """The same without a body: what the machine's other work adds."""
    longest = []
    with running(SERVICE, options) as server:
        _warm_up(server)
        for _ in range(options.rounds):
            with _probe(server) as latencies:
                time.sleep(IDLE_SECONDS)
            longest.append(max(latencies))
    return Series("no body: longest answer of /health/live", "s", longest)


def _longest_stall(server: Running, body: bytes) -> float:
    """Longest answer of /health/live in seconds while the body is sent and refused."""
    with _probe(server) as latencies:
        status = _post(server, "/encode", body, "application/json")
    if not 400 <= status < 500:
        raise RuntimeError(f"the service answered {status} to a hostile body")
    return max(latencies)


def _fill(start: bytes, unit: bytes, end: bytes) -> bytes:
    return start + unit * ((LIMIT - len(start) - len(end)) // len(unit)) + end


def _warm_up(server: Running) -> None:
    """Send what every process meets early, so that it does not count as the cost of a body."""
    digit = DIGIT.read_bytes()
    text = base64.b64encode(digit)
    for _ in range(20):
        _post(server, "/encode", digit, "image/png")
        _post(server, "/encode", b'{"images": ["' + text + b'"' + b" " * 5000 + b"]}", "application/json")


def _post(server: Running, path: str, body: bytes, media_type: str) -> int:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    try:
        connection.request("POST", path, body, {"Content-Type": media_type})
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


@contextmanager
def _peak_bytes(server: Running) -> Iterator[list[int]]:
    """Bytes by which the process's resident memory grows at its peak; known once the block has ended."""
    folder = Path(f"/proc/{server.process.pid}")
    (folder / "clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    before = int((folder / "statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    peak: list[int] = []
    yield peak
    found = re.search(r"VmHWM:\s+(\d+) kB", (folder / "status").read_text(encoding="ascii"))
    peak.append(max(0, int(found[1]) * 1024 - before) if found else 0)


@contextmanager
def _probe(server: Running) -> Iterator[list[float]]:
    """Seconds that each request to /health/live takes, one after another, until the block has ended."""
    latencies: list[float] = []
    done = threading.Event()

    def ask() -> None:
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
        while not done.is_set():
            begin = time.perf_counter()
            connection.request("GET", "/health/live")
            connection.getresponse().read()
            latencies.append(time.perf_counter() - begin)
        connection.close()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield latencies
    finally:
        done.set()
        thread.join()
