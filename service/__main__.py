"""`python -m service`: serve the model store over HTTP."""

# ruff: noqa: E402
from __future__ import annotations

import gc

gc.disable()  # until `collect_rarely`: imports make half a million objects that stay, and looking takes 0.4 s

import contextlib
import logging
import os
import signal
import sys

import uvicorn

from service.app import create_app
from service.middleware import configure_logging
from service.settings import SettingsError, load_settings
from vampprior.machine import keep_freed_memory


def main() -> int:
    """Run until told to stop; the exit status."""
    try:
        settings = load_settings()
    except SettingsError as error:
        print(f"service: {error}", file=sys.stderr)
        return 2
    configure_logging(settings.log_level)
    keep_freed_memory()
    collect_rarely()
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_seconds)),
        server_header=False,
    )
    server = uvicorn.Server(config)
    for number in (signal.SIGINT, signal.SIGTERM):  # which uvicorn raises once more when all is done
        signal.signal(number, server.handle_exit)
    with contextlib.suppress(SystemExit):  # by which uvicorn says that it did not start; it has logged why
        server.run()
    return 0 if server.started else 1


def collect_rarely() -> None:
    """Spare requests the garbage collector.

    What the imports made stays for good; walking through it again and again took a third of a sample's time. What
    requests leave behind is freed by its reference counts, but for a few cycles.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


if __name__ == "__main__":
    status = main()
    logging.shutdown()
    os._exit(status)  # an orderly exit aborts if a compute thread is still inside torch
