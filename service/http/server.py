"""The HTTP server: uvicorn with bounded connections, trusted proxies, and time to drain before it stops."""

from __future__ import annotations

import asyncio
import logging
import socket
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.http.connections import BoundedConnection, ConnectionBounds
from service.http.routes.parameters import Service
from service.settings import Settings

__all__ = ["Server"]

POLL_SECONDS = 0.05

logger = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """Serves `app` until told to stop by SIGTERM or SIGINT.

    Then it is unready at once, still accepts requests for `drain_seconds`, closes its sockets, and gives requests under
    way `shutdown_seconds` to finish. A second signal ends the draining.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        service: Service = app.state.service
        self._service = service
        self._bounds = ConnectionBounds.of(settings, service.metrics)
        self._drain_seconds = settings.drain_seconds
        self._signals = 0
        service.metrics.http_connections.set_function(lambda: len(self.server_state.connections))
        proxies = settings.trusted_proxy_list()
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                root_path=settings.root_path,
                http=partial(BoundedConnection, self._bounds),  # type: ignore[arg-type]
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=bool(proxies),
                forwarded_allow_ips=proxies,
                timeout_graceful_shutdown=max(1, round(settings.shutdown_seconds)),
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note a signal; uvicorn looks for it ten times a second."""
        self._signals += 1
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then stop as uvicorn does."""
        self._service.store.stopping = True
        self._bounds.draining = True
        if self._drain_seconds:
            logger.info("draining for %g seconds", self._drain_seconds)
            await self._drain(signals=self._signals)
        await super().shutdown(sockets)

    async def _drain(self, signals: int) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._drain_seconds
        while loop.time() < end and self._signals == signals:
            await asyncio.sleep(POLL_SECONDS)
