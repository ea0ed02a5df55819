"""A small HTTP/1.1 client on asyncio streams, which can also break the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

__all__ = ["Answer", "Connection", "connect", "post"]


@dataclass(frozen=True)
class Answer:
    """Status, headers with lower-case names, and body of an HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """A connection to the service under test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self) -> Answer:
        """The next answer. Raises `ConnectionError` or `EOFError` if the connection ends before."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(int(head[0].split()[1]), headers, body)

    async def ask(self, request: bytes) -> Answer:
        """Send a request and wait for its answer."""
        await self.send(request)
        return await self.receive()


@asynccontextmanager
async def connect(port: int) -> AsyncIterator[Connection]:
    """A new connection to 127.0.0.1, which is dropped at the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.transport.abort()


def post(target: str, body: bytes = b"", content_type: str = "", *, method: str = "POST") -> bytes:
    """The bytes of a request."""
    lines = [f"{method} {target} HTTP/1.1", "Host: soak"]
    lines += [f"Content-Type: {content_type}"] if content_type else []
    lines += [f"Content-Length: {len(body)}"] if body or method == "POST" else []
    return "\r\n".join([*lines, "", ""]).encode() + body
