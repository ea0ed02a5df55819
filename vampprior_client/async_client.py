"""The client for asyncio; `Client` is the same for ordinary code."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from typing import Any, Self, TypeVar, Unpack

import httpx
import numpy as np
from numpy.typing import NDArray

from vampprior_client import calls, streams
from vampprior_client.calls import Call, request_arguments
from vampprior_client.client import BATCH, IN_FLIGHT, TIMEOUT, Options
from vampprior_client.errors import ClientError, ConnectionFailed, Unavailable, service_error, transport_error
from vampprior_client.images import File, Images, batches
from vampprior_client.results import Encoding, LogLikelihood, ModelSummary, Novelty, PseudoInputs, Samples
from vampprior_client.retries import Retries
from vampprior_client.streams import Streamed, StreamReader

__all__ = ["AsyncClient", "in_order"]

T = TypeVar("T")
S = TypeVar("S", LogLikelihood, Novelty)


class AsyncClient:
    """`Client` for asyncio: the same arguments, calls and errors.

    Calls with images return an asynchronous iterator, all others are awaited.

    Example:
        >>> async def main() -> None:
        ...     async with AsyncClient("http://localhost:8000") as client:
        ...         async for result in client.novelty(["digit.png", "shoe.png"]):
        ...             print(result.file, result.p_value)
    """

    def __init__(
        self,
        url: str = "http://localhost:8000",
        *,
        api_key: str | None = None,
        timeout: float = TIMEOUT,
        retries: Retries | None = None,
        batch: int = BATCH,
        in_flight: int = IN_FLIGHT,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        headers = {} if api_key is None else {"X-API-Key": api_key}
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=timeout, transport=transport)
        self._retries = retries or Retries()
        self._batch, self._in_flight = batch, in_flight

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def sample(self, **options: Unpack[calls.SampleOptions]) -> Samples:
        """Draw images from the prior, or with `pseudo_input` from its component of the prior."""
        return await self._send(calls.sample(options))

    def reconstruct(
        self, images: Images, **options: Unpack[calls.ReconstructOptions]
    ) -> AsyncIterator[NDArray[np.float32]]:
        """Encode and decode images; arrays (C, H, W) with values in [0, 1]."""
        return self._each(calls.reconstruct, images, options, self._batch)

    def encode(self, images: Images, **options: Unpack[calls.EncodeOptions]) -> AsyncIterator[Encoding]:
        """Posteriors of images, and the components of the prior that are most responsible for them."""
        return self._each(calls.encode, images, options, self._batch)

    def log_likelihood(
        self, images: Images, **options: Unpack[calls.LogLikelihoodOptions]
    ) -> AsyncIterator[LogLikelihood]:
        """Log-likelihoods of images in nats, by importance sampling."""
        return self._each(calls.log_likelihood, images, options, self._batch)

    def novelty(self, images: Images, **options: Unpack[calls.NoveltyOptions]) -> AsyncIterator[Novelty]:
        """Decide whether images are new to the model."""
        together = options.get("fdr") is not None  # then the decision is over all images of a request
        return self._each(calls.novelty, images, options, None if together else self._batch)

    def heatmap(self, images: Images, **options: Unpack[calls.HeatmapOptions]) -> AsyncIterator[NDArray[np.float32]]:
        """Where images differ from the prototypes closest to them; arrays (1, H, W) with values in [0, 1]."""
        return self._each(calls.heatmap, images, options, self._batch)

    async def stream_log_likelihood(
        self, images: Images, *, progress: bool = False, **options: Unpack[calls.LogLikelihoodOptions]
    ) -> AsyncIterator[Streamed[LogLikelihood]]:
        """Log-likelihoods out of one request, each as soon as it is known, whatever the order of the images.

        With `progress`, estimates from 512 samples, 1,024 and so on come before the final one.
        """
        for files in batches(images, None):
            async for result in self._stream(streams.log_likelihood(files, options, progress=progress)):
                yield result

    async def stream_novelty(
        self, images: Images, **options: Unpack[calls.NoveltyStreamOptions]
    ) -> AsyncIterator[Streamed[Novelty]]:
        """Decisions out of one request, each as soon as it is known, whatever the order of the images."""
        for files in batches(images, None):
            async for result in self._stream(streams.novelty(files, options)):
                yield result

    async def pseudo_inputs(self, **options: Unpack[calls.PseudoInputOptions]) -> PseudoInputs:
        """A page of the prior's pseudo-inputs."""
        return await self._send(calls.pseudo_inputs(options))

    async def models(self) -> list[ModelSummary]:
        """The checkpoints of the service."""
        return await self._send(calls.models())

    async def ready(self) -> bool:
        """Whether the service can be reached and is ready; asks once."""
        try:
            return await self._attempt(calls.ready())
        except (Unavailable, ConnectionFailed):
            return False

    async def _send(self, call: Call[T]) -> T:
        """Answer of a call, after as many attempts as it takes."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._attempt(call)
            except ClientError as error:
                wait = self._retries.wait(attempt, error)
                if wait is None:
                    raise
            await asyncio.sleep(wait)

    async def _attempt(self, call: Call[T]) -> T:
        try:
            response = await self._http.request(**request_arguments(call))
        except httpx.TransportError as error:
            raise transport_error(error, str(self._http.base_url)) from error
        if not response.is_success:
            raise service_error(response)
        return call.read(response)

    async def _stream(self, call: Call[StreamReader[S]]) -> AsyncIterator[Streamed[S]]:
        """Results of a stream. Only a request that has no answer yet is sent again."""
        attempt = 0
        while True:
            attempt += 1
            try:
                response = await self._open(call)
                break
            except ClientError as error:
                wait = self._retries.wait(attempt, error)
                if wait is None:
                    raise
            await asyncio.sleep(wait)
        try:
            reader = call.read(response)
            async for line in response.aiter_lines():
                if (result := reader.read(line)) is not None:
                    yield result
            reader.end()
        except httpx.TransportError as error:
            raise transport_error(error, str(self._http.base_url)) from error
        finally:
            await response.aclose()

    async def _open(self, call: Call[Any]) -> httpx.Response:
        """The answer of a call, with its body still to be read."""
        try:
            response = await self._http.send(self._http.build_request(**request_arguments(call)), stream=True)
            if not response.is_success:
                await response.aread()
                raise service_error(response)
        except httpx.TransportError as error:
            raise transport_error(error, str(self._http.base_url)) from error
        return response

    async def _each(
        self,
        build: Callable[[Sequence[File], Options], Call[list[T]]],
        images: Images,
        options: Options,
        batch: int | None,
    ) -> AsyncIterator[T]:
        """Results of calls with `batch` images each, or with all of them for None, in the order of the images."""
        requests = (self._send(build(files, options)) for files in batches(images, batch))
        async for results in in_order(requests, self._in_flight):
            for result in results:
                yield result


async def in_order(work: Iterable[Coroutine[Any, Any, T]], limit: int) -> AsyncIterator[T]:
    """Results of coroutines in their order, while at most `limit` of them run.

    The next coroutine is taken from `work` only when there is room for it. At an error, and if the iterator is closed,
    those that still run are cancelled.
    """
    pending: deque[asyncio.Task[T]] = deque()
    try:
        for coroutine in work:
            pending.append(asyncio.create_task(coroutine))
            if len(pending) == limit:
                yield await pending.popleft()
        while pending:
            yield await pending.popleft()
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
