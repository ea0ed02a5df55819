"""The client for ordinary code; `AsyncClient` is the same for asyncio."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self, TypeVar, Unpack

import httpx
import numpy as np
from numpy.typing import NDArray

from vampprior_client import calls, streams
from vampprior_client.calls import Call, request_arguments
from vampprior_client.errors import ClientError, ConnectionFailed, Unavailable, service_error, transport_error
from vampprior_client.images import File, Images, batches
from vampprior_client.results import Encoding, LogLikelihood, ModelSummary, Novelty, PseudoInputs, Samples
from vampprior_client.retries import Retries
from vampprior_client.streams import Streamed, StreamReader

__all__ = ["BATCH", "IN_FLIGHT", "TIMEOUT", "Client"]

T = TypeVar("T")
S = TypeVar("S", LogLikelihood, Novelty)
Options = Any  # the options of a call, which mypy checks where the call is made

BATCH, IN_FLIGHT = 64, 4
TIMEOUT = 120.0


class Client:
    """Calls a service. Any number of threads may share it; use it in a `with` block or call `close`.

    Images are paths, bytes of image files, Pillow images or NumPy arrays, see `vampprior_client.images.Image`. Calls
    with images return an iterator with one result per image, in their order. Images are sent in requests of `batch`
    images, `in_flight` of them at a time, and are read only as the iterator advances.

    Args:
        url: Address of the service.
        api_key: Sent in `X-API-Key`.
        timeout: Time without a byte from the service after which `TimedOut` is raised, in seconds.
        retries: When a request is sent again.
        batch: Most images of a request; the service takes 64 by default.
        in_flight: Requests of one iterator that are under way at once.
        transport: Replaces httpx's transport, for tests and proxies.

    Raises:
        ClientError: From every call; `vampprior_client.errors` draws the tree.

    Example:
        >>> with Client("http://localhost:8000") as client:  # doctest: +SKIP
        ...     for result in client.novelty(["digit.png", "shoe.png"]):
        ...         print(result.file, result.p_value)
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
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {} if api_key is None else {"X-API-Key": api_key}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, transport=transport)
        self._retries = retries or Retries()
        self._batch, self._in_flight = batch, in_flight

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def sample(self, **options: Unpack[calls.SampleOptions]) -> Samples:
        """Draw images from the prior, or with `pseudo_input` from its component of the prior."""
        return self._send(calls.sample(options))

    def reconstruct(self, images: Images, **options: Unpack[calls.ReconstructOptions]) -> Iterator[NDArray[np.float32]]:
        """Encode and decode images; arrays (C, H, W) with values in [0, 1]."""
        return self._each(calls.reconstruct, images, options, self._batch)

    def encode(self, images: Images, **options: Unpack[calls.EncodeOptions]) -> Iterator[Encoding]:
        """Posteriors of images, and the components of the prior that are most responsible for them."""
        return self._each(calls.encode, images, options, self._batch)

    def log_likelihood(self, images: Images, **options: Unpack[calls.LogLikelihoodOptions]) -> Iterator[LogLikelihood]:
        """Log-likelihoods of images in nats, by importance sampling."""
        return self._each(calls.log_likelihood, images, options, self._batch)

    def novelty(self, images: Images, **options: Unpack[calls.NoveltyOptions]) -> Iterator[Novelty]:
        """Decide whether images are new to the model."""
        together = options.get("fdr") is not None  # then the decision is over all images of a request
        return self._each(calls.novelty, images, options, None if together else self._batch)

    def heatmap(self, images: Images, **options: Unpack[calls.HeatmapOptions]) -> Iterator[NDArray[np.float32]]:
        """Where images differ from the prototypes closest to them; arrays (1, H, W) with values in [0, 1]."""
        return self._each(calls.heatmap, images, options, self._batch)

    def stream_log_likelihood(
        self, images: Images, *, progress: bool = False, **options: Unpack[calls.LogLikelihoodOptions]
    ) -> Iterator[Streamed[LogLikelihood]]:
        """Log-likelihoods out of one request, each as soon as it is known, whatever the order of the images.

        With `progress`, estimates from 512 samples, 1,024 and so on come before the final one.
        """
        for files in batches(images, None):
            yield from self._stream(streams.log_likelihood(files, options, progress=progress))

    def stream_novelty(
        self, images: Images, **options: Unpack[calls.NoveltyStreamOptions]
    ) -> Iterator[Streamed[Novelty]]:
        """Decisions out of one request, each as soon as it is known, whatever the order of the images."""
        for files in batches(images, None):
            yield from self._stream(streams.novelty(files, options))

    def pseudo_inputs(self, **options: Unpack[calls.PseudoInputOptions]) -> PseudoInputs:
        """A page of the prior's pseudo-inputs."""
        return self._send(calls.pseudo_inputs(options))

    def models(self) -> list[ModelSummary]:
        """The checkpoints of the service."""
        return self._send(calls.models())

    def ready(self) -> bool:
        """Whether the service can be reached and is ready; asks once."""
        try:
            return self._attempt(calls.ready())
        except (Unavailable, ConnectionFailed):
            return False

    def _send(self, call: Call[T]) -> T:
        """Answer of a call, after as many attempts as it takes."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return self._attempt(call)
            except ClientError as error:
                wait = self._retries.wait(attempt, error)
                if wait is None:
                    raise
            time.sleep(wait)

    def _attempt(self, call: Call[T]) -> T:
        try:
            response = self._http.request(**request_arguments(call))
        except httpx.TransportError as error:
            raise transport_error(error, str(self._http.base_url)) from error
        if not response.is_success:
            raise service_error(response)
        return call.read(response)

    def _stream(self, call: Call[StreamReader[S]]) -> Iterator[Streamed[S]]:
        """Results of a stream. Only a request that has no answer yet is sent again."""
        attempt = 0
        while True:
            attempt += 1
            try:
                response = self._open(call)
                break
            except ClientError as error:
                wait = self._retries.wait(attempt, error)
                if wait is None:
                    raise
            time.sleep(wait)
        try:
            reader = call.read(response)
            for line in response.iter_lines():
                if (result := reader.read(line)) is not None:
                    yield result
            reader.end()
        except httpx.TransportError as error:
            raise transport_error(error, str(self._http.base_url)) from error
        finally:
            response.close()

    def _open(self, call: Call[Any]) -> httpx.Response:
        """The answer of a call, with its body still to be read."""
        try:
            response = self._http.send(self._http.build_request(**request_arguments(call)), stream=True)
            if not response.is_success:
                response.read()
                raise service_error(response)
        except httpx.TransportError as error:
            raise transport_error(error, str(self._http.base_url)) from error
        return response

    def _each(
        self,
        build: Callable[[Sequence[File], Options], Call[list[T]]],
        images: Images,
        options: Options,
        batch: int | None,
    ) -> Iterator[T]:
        """Results of calls with `batch` images each, or with all of them for None, in the order of the images."""
        pool = ThreadPoolExecutor(self._in_flight, "vampprior-client")
        pending: deque[Future[list[T]]] = deque()
        try:
            for files in batches(images, batch):
                pending.append(pool.submit(self._send, build(files, options)))
                if len(pending) == self._in_flight:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
