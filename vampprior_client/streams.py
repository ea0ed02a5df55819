"""Answers of `/loglik` and `/novelty` in parts: a JSON object in a line per image, sent when its result is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, Literal, TypeVar

import httpx
import msgspec

from vampprior_client.calls import Call, LogLikelihoodOptions, NoveltyStreamOptions
from vampprior_client.errors import ClientError, ConnectionFailed, problem_error
from vampprior_client.images import File
from vampprior_client.results import LogLikelihood, Novelty

__all__ = ["StreamReader", "Streamed", "log_likelihood", "novelty"]

T = TypeVar("T", LogLikelihood, Novelty)

MEDIA_TYPE = "application/x-ndjson"


@dataclass(frozen=True)
class Streamed(Generic[T]):
    """A result out of a stream.

    Args:
        index: Place of the image among those that were sent, from 0.
        final: False for an estimate that a later one of the same image replaces.
        result: The result.
    """

    index: int
    final: bool
    result: T


def log_likelihood(
    files: Sequence[File], options: LogLikelihoodOptions, *, progress: bool
) -> Call[StreamReader[LogLikelihood]]:
    """`POST /loglik` as a stream; with `progress` estimates come before all samples are drawn."""
    told = {"progress": True} if progress else {}
    return Call("POST", "/loglik", partial(_reader, LogLikelihood), {**options, **told}, files, MEDIA_TYPE)


def novelty(files: Sequence[File], options: NoveltyStreamOptions) -> Call[StreamReader[Novelty]]:
    """`POST /novelty` as a stream."""
    return Call("POST", "/novelty", partial(_reader, Novelty), options, files, MEDIA_TYPE)


class StreamReader(Generic[T]):
    """Reads the lines of one stream.

    Args:
        result: Type of its results.
        model: The model that answers, `name@version`.
    """

    def __init__(self, result: type[T], model: str) -> None:
        self._result: type[T] = result
        self._model, self._complete = model, False

    def read(self, line: str) -> Streamed[T] | None:
        """The result in a line; None for the last line. Raises `ServiceError` for an error within the stream."""
        event = msgspec.json.decode(line, type=_Event)
        if event.event == "error":
            raise problem_error(event.status, line.encode())
        if event.event == "done":
            self._complete = True
            return None
        result = msgspec.structs.replace(msgspec.json.decode(line, type=self._result), model=self._model)
        return Streamed(event.index, event.event == "score", result)

    def end(self) -> None:
        """Raise `ConnectionFailed` if the stream ended before its last line."""
        if not self._complete:
            raise ConnectionFailed("the stream ended before all results had arrived")


def _reader(result: type[T], response: httpx.Response) -> StreamReader[T]:
    """The reader of a stream whose head has arrived."""
    headers = response.headers
    if not headers.get("content-type", "").startswith(MEDIA_TYPE):
        raise ClientError(f"the service does not stream: its answer is {headers.get('content-type')}")
    return StreamReader(result, f"{headers['x-model']}@{headers['x-model-version']}")


class _Event(msgspec.Struct):
    """Fields that say what a line is; `status` is that of an error."""

    event: Literal["progress", "score", "done", "error"]
    index: int = 0
    status: int = 500
