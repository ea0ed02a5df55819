"""What routes call: computations on a model, as bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from service.engine.pool import Pool
from service.engine.protocol import Combine, Draw, Encode, Gallery, Layout, Payload, Reconstruct, Render, Score
from service.engine.queue import Lane, Request, Task

__all__ = ["EngineModel"]

UNIT_SAMPLES = 512
"""Importance samples of a unit of heavy work."""
UNIT_PIXELS = 1 << 18
"""Pixels of a PNG, or values of another answer, beyond which an answer is heavy work."""
UNIT_IMAGES = 16
"""Images of a unit that draws many images, or images pixel by pixel."""


class EngineModel:
    """The computations of one model, in the processes of a pool.

    Every answer depends on its arguments alone. Calls raise `Overloaded` if a queue is full; cancelling a call takes
    what waits of it out of the queue.
    """

    def __init__(
        self,
        reference: str,
        pool: Pool,
        *,
        light: Lane,
        heavy: Lane,
        num_pixels: int,
        autoregressive: bool,
    ) -> None:
        self.reference, self.pool = reference, pool
        self._light, self._heavy = light, heavy
        self._num_pixels, self._autoregressive = num_pixels, autoregressive

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
            payload = Draw(0, n, seed, component, temperature, draw, layout)
            return await self._one(self._light, payload, n, client, draw)
        units = [
            Draw(start, min(UNIT_IMAGES, n - start), seed, component, temperature, draw, None)
            for start in range(0, n, UNIT_IMAGES)
        ]
        images = await self._all(self._heavy, units, [unit.count for unit in units], client, draw)
        return await self._one(self._heavy, Render(tuple(images), seed, layout), n, client)

    async def reconstruct(self, gray: Sequence[bytes], *, seed: int, draw: bool, layout: Layout, client: str) -> bytes:
        """Images, 8-bit gray levels each, encoded and decoded, as a body."""
        n = len(gray)
        if not self._is_heavy(n, layout):
            payload = Reconstruct(b"".join(gray), 0, n, seed, draw, layout)
            return await self._one(self._light, payload, n, client, draw)
        units = [
            Reconstruct(
                b"".join(gray[start : start + UNIT_IMAGES]), start, min(UNIT_IMAGES, n - start), seed, draw, None
            )
            for start in range(0, n, UNIT_IMAGES)
        ]
        images = await self._all(self._heavy, units, [unit.count for unit in units], client, draw)
        return await self._one(self._heavy, Render(tuple(images), seed if draw else None, layout), n, client)

    async def encode(self, gray: Sequence[bytes], *, top: int, client: str) -> bytes:
        """Posterior and responsible components of each image, as a JSON list."""
        return await self._one(self._light, Encode(b"".join(gray), len(gray), top), len(gray), client)

    async def gallery(self, components: Sequence[int], *, layout: Layout, client: str) -> bytes:
        """Pseudo-inputs or decoded components, as a body."""
        lane = self._heavy if self._is_heavy(len(components), layout) else self._light
        return await self._one(lane, Gallery(tuple(components), layout), len(components), client)

    async def score(self, gray: bytes, *, num_samples: int, seed: int, client: str) -> bytes:
        """Log-likelihood of one image by importance sampling, as a JSON object."""
        units = [
            Score(gray, seed, start, min(UNIT_SAMPLES, num_samples - start))
            for start in range(0, num_samples, UNIT_SAMPLES)
        ]
        parts = await self._all(self._heavy, units, [unit.count for unit in units], client)
        return await self._one(self._light, Combine(tuple(parts)), 1, client)

    def _is_heavy(self, n: int, layout: Layout) -> bool:
        scale = layout.scale**2 if layout.format == "png" else 1
        return self._autoregressive or n * self._num_pixels * scale > UNIT_PIXELS

    async def _one(self, lane: Lane, payload: Payload, rows: int, client: str, key: object = None) -> bytes:
        (result,) = await self._all(lane, [payload], [rows], client, key)
        return result

    async def _all(
        self, lane: Lane, payloads: Sequence[Payload], rows: Sequence[int], client: str, key: object = None
    ) -> list[bytes]:
        """Results of payloads that are admitted together."""
        loop = asyncio.get_running_loop()
        request = Request(client)
        for payload, count in zip(payloads, rows, strict=True):
            kind = (self.reference, type(payload), payload.count if isinstance(payload, Score) else key)
            request.tasks.append(Task(lane, request, self.reference, payload, count, kind, loop.create_future()))
        tasks = list(request.tasks)
        lane.admit(request)
        self.pool.dispatch(lane)
        try:
            return [await task.result for task in tasks]
        finally:
            if request.tasks:
                lane.withdraw(request)
            for task in tasks:
                task.result.cancel()


