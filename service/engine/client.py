"""What routes call: computations on a model, as bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Literal

import msgspec

from service.engine.protocol import (
    REFINEMENT_DRAWS,
    UNIT_SAMPLES,
    Combine,
    Decide,
    Decode,
    DecodeLatents,
    Draw,
    Encode,
    Gallery,
    Interpolate,
    Layout,
    Locate,
    Measure,
    Payload,
    Reconstruct,
    Refine,
    Render,
    Score,
    ShowMap,
    ShowQuantiles,
)
from service.engine.queue import Lane, Request, Task
from service.tracing import record_tasks

if TYPE_CHECKING:
    from service.engine.engine import Engine

__all__ = ["EngineModel"]

UNIT_IMAGES = 16
"""Images of a unit of heavy work."""
WINDOW = 256
"""Units of an answer that wait at once."""
MAX_LIGHT_PIXELS = 1 << 18
"""Pixels of an answer beyond which it is heavy work."""
JSON_PIXELS = 8
"""Pixels of a PNG that take as long as a number in JSON."""


class _Progress(msgspec.Struct):
    """The part of a score that says whether to go on."""

    converged: bool | None


class EngineModel:
    """The computations of one model, in the processes of an engine.

    Every answer depends on its arguments alone. `client` names who asks: clients take turns. Calls raise `Overloaded`
    if there is no room in the lane; cancelling one takes out what waits of it.
    """

    def __init__(
        self,
        engine: Engine,
        reference: str,
        *,
        num_pixels: int,
        max_rows: int,
        seconds_per_row: float,
        autoregressive: bool,
    ) -> None:
        self.engine, self.reference = engine, reference
        self._num_pixels, self._max_rows, self._seconds_per_row = num_pixels, max_rows, seconds_per_row
        self.autoregressive = autoregressive

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
        lane = self._lane(n, layout)
        with self._admit(lane, client, n) as request:
            if lane is self.engine.light:
                return await self._one(request, Draw(0, n, seed, component, temperature, draw, layout))
            units = (
                Draw(start, min(UNIT_IMAGES, n - start), seed, component, temperature, draw, None)
                for start in range(0, n, UNIT_IMAGES)
            )
            return await self._last(request, Render(await self._all(request, units), seed, layout))

    async def reconstruct(
        self, levels: Sequence[bytes], *, seed: int, draw: bool, layout: Layout, client: str
    ) -> bytes:
        """Images, 8-bit gray levels or colours each, encoded and decoded, as a body."""
        n = len(levels)
        lane = self._lane(n, layout)
        with self._admit(lane, client, n) as request:
            if lane is self.engine.light:
                return await self._one(request, Reconstruct(b"".join(levels), 0, n, seed, draw, layout))
            parts = ((start, levels[start : start + UNIT_IMAGES]) for start in range(0, n, UNIT_IMAGES))
            units = (Reconstruct(b"".join(part), start, len(part), seed, draw, None) for start, part in parts)
            return await self._last(request, Render(await self._all(request, units), seed, layout))

    async def encode(self, levels: Sequence[bytes], *, top: int, client: str) -> list[bytes]:
        """Posterior and responsible components of each image, as JSON objects."""
        n = len(levels)
        lane = self.engine.heavy if n > self._max_rows else self.engine.light
        with self._admit(lane, client, n) as request:
            body = await self._one(request, Encode(b"".join(levels), n, top))
        return body.split(b"\n")

    async def gallery(
        self,
        components: Sequence[int],
        *,
        view: Literal["input", "decoded"],
        offset: int,
        stretch: bool,
        layout: Layout,
        client: str,
    ) -> bytes:
        """Pseudo-inputs or decoded components, as a body."""
        n = len(components)
        with self._admit(self._lane(n, layout), client, n) as request:
            if view == "input":
                return await self._one(request, Gallery(tuple(components), None, offset, stretch, layout))
            parts = (components[start : start + UNIT_IMAGES] for start in range(0, n, UNIT_IMAGES))
            images = await self._all(request, (Decode(tuple(part)) for part in parts))
            return await self._last(request, Gallery(tuple(components), images, offset, stretch, layout))

    async def decode(self, latents: Sequence[bytes], *, n: int, seed: int, layout: Layout, client: str) -> bytes:
        """Latents of the top layers, float32 values of shape (n, M) each, decoded, as a body."""
        with self._admit(self._lane(n, layout), client, n) as request:
            return await self._one(request, DecodeLatents(tuple(latents), n, seed, layout))

    async def interpolate(self, path: Interpolate, client: str) -> bytes:
        """Images along a path, as a body."""
        with self._admit(self._lane(path.steps, path.layout), client, path.steps) as request:
            return await self._one(request, path)

    async def map(self, calibration: str, client: str) -> bytes:
        """The map of a calibration, as JSON; empty if it has none."""
        with self._admit(self.engine.light, client, 0) as request:
            return await self._one(request, ShowMap(calibration))

    async def quantiles(self, calibration: str, client: str) -> bytes:
        """Quantiles of the scores and log-likelihoods of the calibration images, as JSON."""
        with self._admit(self.engine.light, client, 0) as request:
            return await self._one(request, ShowQuantiles(calibration))

    def admit_scores(self, count: int, num_samples: int, client: str, refine: int = 0) -> Request:
        """Reserve room for the log-likelihoods of `count` images. Raises `Overloaded`."""
        return self._admit(self.engine.heavy, client, count * (num_samples + refine * REFINEMENT_DRAWS))

    def open_scores(self, client: str) -> Request:
        """A request for log-likelihoods that are asked for one after another. Raises `Overloaded`."""
        return self.engine.heavy.open(client, self._seconds_per_row)

    def check_room(self, rows: int) -> None:
        """Raise `Overloaded` if the heavy lane has no room for this number of rows."""
        self.engine.heavy.check_room(rows)

    async def score(
        self,
        request: Request,
        levels: bytes,
        *,
        num_samples: int,
        seed: int,
        refine: int = 0,
        precision: float | None = None,
        report: Callable[[bytes], None] | None = None,
    ) -> bytes:
        """Log-likelihood of one image by importance sampling, as a JSON object, in the room of a request.

        With `refine` steps the proposal is fitted to the image first. With a `precision` the samples double until the
        standard error is below it and can be believed, up to `num_samples`. With `report` they double as well, and it
        is called with the estimate each time but the last. Such steps do not change the estimate.
        """
        proposal = await self._one(request, Refine(levels, seed, refine)) if refine else b""
        parts: tuple[bytes, ...] = ()
        stop = 0
        while True:
            whole = precision is None and report is None
            start, stop = stop, num_samples if whole else min(num_samples, max(UNIT_SAMPLES, 2 * stop))
            parts += await self._all(
                request,
                (
                    Score(levels, proposal, seed, first, min(UNIT_SAMPLES, stop - first))
                    for first in range(start, stop, UNIT_SAMPLES)
                ),
            )
            body = await self._last(request, Combine(parts, precision, bool(refine)))
            if stop == num_samples or msgspec.json.decode(body, type=_Progress).converged:
                return body
            if report is not None:
                report(body)

    async def decide(
        self,
        levels: Sequence[bytes],
        *,
        calibration: str,
        false_alarm_rate: float | None,
        fdr: float | None,
        num_samples: int,
        seed: int,
        client: str,
        bulk: bool = False,
    ) -> list[bytes]:
        """Whether each image is new, as JSON objects; in the heavy lane with `bulk`, however few the images are."""
        rows = len(levels) * num_samples
        lane = self.engine.heavy if bulk or rows > self._max_rows else self.engine.light
        with self._admit(lane, client, rows) as request:
            parts = (levels[start : start + UNIT_IMAGES] for start in range(0, len(levels), UNIT_IMAGES))
            units = (Measure(b"".join(part), len(part), num_samples, seed) for part in parts)
            measured = await self._all(request, units)
            return (await self._last(request, Decide(measured, calibration, false_alarm_rate, fdr))).split(b"\n")

    async def locate(
        self,
        levels: Sequence[bytes],
        *,
        view: Literal["overlay", "heat", "prototypes"],
        layout: Layout,
        client: str,
    ) -> bytes:
        """Where images differ from their closest prototypes, as a body."""
        n = len(levels)
        with self._admit(self._lane(n, layout), client, n) as request:
            return await self._one(request, Locate(b"".join(levels), n, view, layout))

    def _admit(self, lane: Lane, client: str, rows: int) -> Request:
        return lane.admit(client, rows, self._seconds_per_row)

    def _lane(self, n: int, layout: Layout) -> Lane:
        """The lane of an answer of `n` images."""
        scale = {"png": layout.scale**2, "json": JSON_PIXELS, "npy": 1}[layout.format]
        large = n > self._max_rows or n * self._num_pixels * scale > MAX_LIGHT_PIXELS
        return self.engine.heavy if large or self.autoregressive else self.engine.light

    async def _all(self, request: Request, payloads: Iterable[Payload]) -> tuple[bytes, ...]:
        """Results of payloads, in their order."""
        remaining = iter(payloads)
        results: list[bytes] = []
        while window := list(islice(remaining, WINDOW)):
            results += await self._compute(request, window)
        return tuple(results)

    async def _one(self, request: Request, payload: Payload) -> bytes:
        (result,) = await self._compute(request, [payload])
        return result

    async def _last(self, request: Request, payload: Payload) -> bytes:
        """The answer from its parts: short work, which does not wait for its turn."""
        (result,) = await self._compute(request, [payload], first=True)
        return result

    async def _compute(self, request: Request, payloads: Sequence[Payload], *, first: bool = False) -> list[bytes]:
        """Results of payloads that wait together, before all others with `first`."""
        loop = asyncio.get_running_loop()
        tasks = [
            Task(
                request,
                self.reference,
                payload,
                payload.count,
                (self.reference, type(payload), payload.key),
                loop.create_future(),
            )
            for payload in payloads
        ]
        self.engine.add(request, tasks, first=first)
        try:
            results = [await task.result for task in tasks]
            record_tasks(tasks)
            return results
        finally:
            # cancelling a coroutine cancels the future that it waits for
            if left := [task for task in tasks if not task.result.done() or task.result.cancelled()]:
                self.engine.withdraw(request, left)
            for task in tasks:
                if not task.result.cancel() and not task.result.cancelled():
                    task.result.exception()  # seen, though it may be the second one
