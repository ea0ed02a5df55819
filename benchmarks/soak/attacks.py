"""Hostile requests of the soak: what is sent, and which answers are expected.

Each attack is a coroutine on a fresh connection. It returns the status of the answer, or 0 where the service closed
the connection or where the attack hangs up itself.
"""

from __future__ import annotations

import asyncio
import io
import json
import random
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from PIL import Image

from benchmarks.machine import DIGIT
from benchmarks.soak.client import Connection, post

__all__ = ["ATTACKS", "Attack"]

JSON, MULTIPART = "application/json", "multipart/form-data; boundary=b"
BODY = 4_000_000  # bytes of the large bodies
SLOW_SECONDS = 2.0


@dataclass(frozen=True)
class Attack:
    """A kind of hostile request.

    run:      sends it, and returns the status of the answer, or 0 for none
    expected: statuses that are right
    """

    name: str
    run: Callable[[Connection], Awaitable[int]]
    expected: frozenset[int]


def _png(width: int, height: int, mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def _form(part_headers: bytes, content: bytes) -> bytes:
    return b"--b\r\n" + part_headers + b"\r\n\r\n" + content + b"\r\n--b--\r\n"


def _sends(request: bytes) -> Callable[[Connection], Awaitable[int]]:
    """An attack that sends a request and reads its answer."""

    async def run(connection: Connection) -> int:
        return (await connection.ask(request)).status

    return run


def _hangs_up(request: bytes) -> Callable[[Connection], Awaitable[int]]:
    """An attack that sends a request and leaves."""

    async def run(connection: Connection) -> int:
        await connection.send(request)
        await asyncio.sleep(random.random() * 0.05)
        return 0

    return run


def _repeats(start: bytes, piece: bytes, times: int) -> Callable[[Connection], Awaitable[int]]:
    """An attack that sends a piece again and again."""

    async def run(connection: Connection) -> int:
        await connection.send(start)
        for _ in range(times):
            await connection.send(piece)
        return (await connection.receive()).status

    return run


def _dribbles(start: bytes) -> Callable[[Connection], Awaitable[int]]:
    """An attack that sends a byte now and then."""

    async def run(connection: Connection) -> int:
        await connection.send(start)
        for _ in range(int(SLOW_SECONDS / 0.1)):
            await connection.send(b"x")
            await asyncio.sleep(0.1)
        return 0

    return run


async def _reads_nothing(connection: Connection) -> int:
    connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await connection.send(post("/sample?n=256&seed=1&format=npy") * 4)
    await asyncio.sleep(SLOW_SECONDS)
    return 0


async def _stays_idle(_: Connection) -> int:
    await asyncio.sleep(SLOW_SECONDS)
    return 0


DIGIT_PNG = DIGIT.read_bytes()
FILE = b'Content-Disposition: form-data; name="file"; filename="a.png"'
SCORE = "/loglik?num_samples=20"
REFUSED = frozenset({400, 413, 415, 422, 429, 431, 503})
CUT_OFF = frozenset({0, 200, 400, 408, 431})

ATTACKS = [
    Attack("JSON of numbers", _sends(post(SCORE, b'{"images":[' + b"1," * (BODY // 2) + b"1]}", JSON)), REFUSED),
    Attack("JSON of lists", _sends(post(SCORE, b'{"images":[' + b"[]," * (BODY // 3) + b"1]}", JSON)), REFUSED),
    Attack("JSON of empty texts", _sends(post(SCORE, b'{"images":[' + b'"",' * (BODY // 3) + b'""]}', JSON)), REFUSED),
    Attack("nested JSON", _sends(post(SCORE, b"[" * BODY, JSON)), REFUSED),
    Attack(
        "JSON of unknown keys",
        _sends(post(SCORE, json.dumps({str(number): 0 for number in range(BODY // 12)}).encode(), JSON)),
        REFUSED,
    ),
    Attack("PNG of the wrong size", _sends(post(SCORE, _png(2000, 2000, "RGBA"), "image/png")), REFUSED),
    Attack(
        "PNG to be resized",
        _sends(post(f"{SCORE}&resize=true", _png(2000, 1999, "RGBA"), "image/png")),
        frozenset({200, 503}),
    ),
    Attack("PNG of 80 megapixels", _sends(post(f"{SCORE}&resize=true", _png(9000, 9000, "1"), "image/png")), REFUSED),
    Attack("damaged PNG", _sends(post(SCORE, DIGIT_PNG[:50] + bytes(20) + DIGIT_PNG[70:], "image/png")), REFUSED),
    Attack("deflated zeros", _sends(post(SCORE, zlib.compress(bytes(10_000_000)), "image/png")), REFUSED),
    Attack(
        "unknown charset",
        _sends(post(SCORE, _form(FILE, DIGIT_PNG), f"{MULTIPART}; charset=punycode")),
        frozenset({200, 400, 415, 422}),
    ),
    Attack(
        "a thousand parts", _sends(post(SCORE, b"--b\r\n" + (FILE + b"\r\n\r\n\r\n--b\r\n") * 1000, MULTIPART)), REFUSED
    ),
    Attack("large file", _sends(post(SCORE, _form(FILE, bytes(12_000_000)), MULTIPART)), REFUSED),
    Attack("parameters", _sends(post(f"/sample?n={'9' * 3000}&seed=-1&mode=x&model={'%00' * 100}")), REFUSED),
    Attack("unknown path", _sends(post(f"/{'a' * 1000}")), frozenset({404})),
    Attack("no HTTP", _sends(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"), frozenset({400})),
    Attack("pipelined flood", _sends(post("/models", method="GET") * 5000), CUT_OFF),
    Attack("endless headers", _repeats(b"GET / HTTP/1.1\r\nX-Padding: ", b"x" * 65536, 100), CUT_OFF),
    Attack(
        "endless chunk extension",
        _repeats(b"POST /loglik HTTP/1.1\r\nHost: soak\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"e" * 65536, 100),
        CUT_OFF | REFUSED,
    ),
    Attack("slow headers", _dribbles(b"GET / HTTP/1.1\r\nX-Padding: "), frozenset({0})),
    Attack("slow body", _dribbles(post(SCORE, DIGIT_PNG, "image/png")[: -len(DIGIT_PNG) // 2]), frozenset({0})),
    Attack("idle connection", _stays_idle, frozenset({0})),
    Attack("unread answer", _reads_nothing, frozenset({0})),
    Attack(
        "hang-up while scoring", _hangs_up(post("/loglik?num_samples=100000", DIGIT_PNG, "image/png")), frozenset({0})
    ),
    Attack("hang-up while sampling", _hangs_up(post("/sample?n=256&seed=3")), frozenset({0})),
    Attack("hang-up while sending", _hangs_up(post(SCORE, bytes(1000), "image/png")[:-500]), frozenset({0})),
]
