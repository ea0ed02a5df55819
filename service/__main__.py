"""`python -m service`: serve the model store over HTTP. `python -m service score`: score many images."""

from __future__ import annotations

import gc
import os
import signal
import sys

if __name__ == "__main__" and len(sys.argv) > 1:
    from service.bulk.command import app

    app()  # ends the process

if __name__ == "__main__":
    for _number in (signal.SIGINT, signal.SIGTERM):
        # the imports below take seconds, in which a signal would end the process as a failure
        signal.signal(_number, lambda *_: os._exit(0))
    gc.disable()  # until `collect_rarely`: the imports make half a million objects that stay, and looking takes 0.4 s

import contextlib
import logging

from hardware import keep_freed_memory
from service.http.app import create_app
from service.http.server import Server
from service.logs import configure_logging
from service.settings import SettingsError, load_settings


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
    server = Server(create_app(settings), settings)
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
    os._exit(status)  # an orderly exit would wait for a thread that decodes
