"""Structured logs: one JSON object a line on standard error, with the id of the request that it is about."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import queue
import sys
import threading
import time
from functools import lru_cache
from typing import TextIO

import msgspec

__all__ = ["JsonFormatter", "configure_logging", "request_id", "trace_id"]

BATCH_SECONDS = 0.02
FLUSH_SECONDS = 5.0

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)
trace_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("trace_id", default=None)
"""The OpenTelemetry trace that the request is part of, 32 hexadecimal digits."""


def configure_logging(level: str, *, threads: bool = True) -> None:
    """Print one JSON object a line on standard error, for uvicorn's loggers as well.

    Without `threads` each line is written at once, as a process needs that will fork.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler.formatter, JsonFormatter):
            root.removeHandler(handler)
    handler = BatchingHandler(sys.stderr) if threads else logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)  # `Gateway` writes that line
    logging.captureWarnings(True)
    # what no line tells need not be found out: https://docs.python.org/3/howto/logging.html#optimization
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    vars(logging)["_srcfile"] = None


class BatchingHandler(logging.Handler):
    """Writes lines from a thread of its own, all that came within a moment at once: no request waits for a write."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: queue.SimpleQueue[str | threading.Event] = queue.SimpleQueue()
        threading.Thread(target=self._write, name="logs", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Leave a line to be written."""
        try:
            self._lines.put(self.format(record))
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Wait until every line so far is written."""
        written = threading.Event()
        self._lines.put(written)
        written.wait(FLUSH_SECONDS)

    def _write(self) -> None:
        while True:
            batch = [self._lines.get()]
            if isinstance(batch[0], str):
                time.sleep(BATCH_SECONDS)  # for others to come
            while not self._lines.empty():
                batch.append(self._lines.get())
            with contextlib.suppress(OSError, ValueError):  # the reader of the logs has gone
                self._stream.write("".join(f"{line}\n" for line in batch if isinstance(line, str)))
                self._stream.flush()
            for written in batch:
                if isinstance(written, threading.Event):
                    written.set()


_encode = msgspec.json.Encoder(enc_hook=str).encode


@lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class JsonFormatter(logging.Formatter):
    """A log record as one line of JSON.

    It has time, level, logger and message, the ids of the request and of its trace, and the record's `fields`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, object] = {
            "time": f"{_second(int(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (id_ := request_id.get()) is not None:
            line["request_id"] = id_
        if (trace := trace_id.get()) is not None:
            line["trace_id"] = trace
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encode(line).decode()
