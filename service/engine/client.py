"""What routes call: computations on a model, as bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from service.engine.protocol import Combine, Draw, Encode, Gallery, Layout, Payload, Reconstruct, Render, Score
from service.engine.queue import Request, Task

if TYPE_CHECKING:
    from service.engine.engine import Engine

__all__ = ["EngineModel"]

UNIT_SAMPLES = 512
"""Importance samples of a unit of heavy work."""
UNIT_IMAGES = 16
"""Images of a unit of heavy work."""
MAX_LIGHT_PIXELS = 1 << 18
"""Pixels of an answer beyond which it is heavy work."""


class EngineModel:
    """The computations of one model, in the processes of an engine.

    Every answer depends on its arguments alone. `client` names who asks: clients take turns. Calls raise `Overloaded`
    if there is no room in the lane; cancelling one takes out what waits of it.
    """

    def __init__(self, engine: Engine, reference: str, *, num_pixels: int, max_rows: int, autoregressive: bool) -> None:
        self.engine, self.reference = engine, reference
        self._num_pixels, self._max_rows, self._autoregressive = num_pixels, max_rows, autoregressive

    async def sample(
        self,
        *,
        n: int,
        seed: int,
        component: int | None,
        temperature: float,
        draw: bool,
        layout: Layout,
        client: str,
    ) -> bytes:
        """Images from the prior or one of its components, as a body."""
        if not self._is_heavy(n, layout):
            return await self._light(Draw(0, n, seed, component, temperature, draw, layout), n, client, key=draw)
        units = [
            Draw(start, min(UNIT_IMAGES, n - start), seed, component, temperature, draw, None)
            for start in range(0, n, UNIT_IMAGES)
        ]
        return await self._heavy_images(units, n, Render((), seed, layout), client, key=draw)

    async def reconstruct(
        self, levels: Sequence[bytes], *, seed: int, draw: bool, layout: Layout, client: str
    ) -> bytes:
        """Images, 8-bit gray levels or colours each, encoded and decoded, as a body."""
        n = len(levels)
        if not self._is_heavy(n, layout):
            return await self._light(Reconstruct(b"".join(levels), 0, n, seed, draw, layout), n, client, key=draw)
        units = []
        for start in range(0, n, UNIT_IMAGES):
            part = levels[start : start + UNIT_IMAGES]
            units.append(Reconstruct(b"".join(part), start, len(part), seed, draw, None))
        return await self._heavy_images(units, n, Render((), seed, layout), client, key=draw)

    async def encode(self, levels: Sequence[bytes], *, top: int, client: str) -> list[bytes]:
        """Posterior and responsible components of each image, as JSON objects."""
        n = len(levels)
        lane = self.engine.heavy if n > self._max_rows else self.engine.light
        with lane.admit(client, n) as request:
            (body,) = await self._compute(request, [Encode(b"".join(levels), n, top)], [n])
        return body.split(b"\n")

    async def gallery(
        self, components: Sequence[int], *, offset: int, stretch: bool, layout: Layout, client: str
    ) -> bytes:
        """Pseudo-inputs or decoded components, as a body."""
        n = len(components)
        lane = self.engine.heavy if self._is_heavy(n, layout) else self.engine.light
        with lane.admit(client, n) as request:
            (body,) = await self._compute(request, [Gallery(tuple(components), offset, stretch, layout)], [n])
        return body

    def admit_scores(self, count: int, num_samples: int, client: str) -> Request:
        """Reserve room for the log-likelihoods of so many images. Raises `Overloaded`."""
        return self.engine.heavy.admit(client, count * num_samples)

    async def score(self, request: Request, levels: bytes, *, num_samples: int, seed: int) -> bytes:
        """Log-likelihood of one image by importance sampling, as a JSON object, in the room of a request."""
        units = [
            Score(levels, seed, start, min(UNIT_SAMPLES, num_samples - start))
            for start in range(0, num_samples, UNIT_SAMPLES)
        ]
        parts = await self._compute(request, units, [unit.count for unit in units])
        return await self._last(request, Combine(tuple(parts)))

    def _is_heavy(self, n: int, layout: Layout) -> bool:
        scale = layout.scale**2 if layout.format == "png" else 1
        return self._autoregressive or n > self._max_rows or n * self._num_pixels * scale > MAX_LIGHT_PIXELS

    async def _light(self, payload: Payload, rows: int, client: str, key: object = None) -> bytes:
        with self.engine.light.admit(client, rows) as request:
            (result,) = await self._compute(request, [payload], [rows], key)
        return result

    async def _heavy_images(
        self, units: Sequence[Draw | Reconstruct], n: int, render: Render, client: str, key: object
    ) -> bytes:
        """Images unit by unit, then rendered together."""
        with self.engine.heavy.admit(client, n) as request:
            images = await self._compute(request, units, [unit.count for unit in units], key)
            return await self._last(request, Render(tuple(images), render.seed, render.layout))

    async def _last(self, request: Request, payload: Payload) -> bytes:
        """The answer from its parts: short work, which does not wait for its turn."""
        (result,) = await self._compute(request, [payload], [0], first=True)
        return result

    async def _compute(
        self,
        request: Request,
        payloads: Sequence[Payload],
        rows: Sequence[int],
        key: object = None,
        *,
        first: bool = False,
    ) -> list[bytes]:
        """Results of payloads, each with so many rows, in their order."""
        loop = asyncio.get_running_loop()
        tasks = []
        for payload, count in zip(payloads, rows, strict=True):
            kind = (self.reference, type(payload), payload.count if isinstance(payload, Score) else key)
            tasks.append(Task(request, self.reference, payload, count, kind, loop.create_future()))
        self.engine.add(request, tasks, first=first)
        try:
            return [await task.result for task in tasks]
        finally:
            if left := [task for task in tasks if not task.result.done()]:
                request.withdraw(left)
            for task in tasks:
                if not task.result.cancel() and not task.result.cancelled():
                    task.result.exception()  # seen, though it may be the second one
