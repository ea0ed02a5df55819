"""Who may ask, and how often."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping

from starlette.types import Scope

from service.errors import Forbidden, Overloaded, Unauthorized
from service.http.connections import OVER_LIMIT
from service.http.rate_limit import Allowance, LocalWindow, SharedWindow, client_network, create_rate_limit
from service.settings import Settings

__all__ = ["OPEN_PATHS", "AccessControl", "peer_of"]

OPEN_PATHS = re.compile(
    r"/|/(health|v2/health|docs|problems|static|static-offline-docs)/.*|/(docs|openapi\.json|problems|metrics)"
)
"""What anyone may read without a key: probes, metrics, the documentation and static files."""
PROBE_PATHS = re.compile(r"(/v2)?/health/.*|/metrics")
"""What is answered in any case, without a limit and on any connection."""
ADMIN_PATHS = {"/models/reload"}

RateLimit = LocalWindow | SharedWindow


class AccessControl:
    """Lets requests through, or refuses them.

    keys:          one of them must come in `X-API-Key`, else 401; none lets everyone in
    admin_keys:    one of them must come to reload the models, else 403; where keys are set, they count as keys as well
    limit:         requests of a client; past it, 429. A client is its key, or else its address
    failure_limit: requests of an address without a valid key, where one is needed; past it, 429

    On connections beyond the limit of connections, all but health checks and metrics are answered 503.
    """

    def __init__(
        self,
        keys: Iterable[str] = (),
        admin_keys: Iterable[str] = (),
        limit: RateLimit | None = None,
        failure_limit: RateLimit | None = None,
    ) -> None:
        self.keys, self.admin_keys = _hashes(keys), _hashes(admin_keys)
        if self.keys:
            self.keys |= self.admin_keys
        self.limit, self.failure_limit = limit, failure_limit

    @classmethod
    def of(cls, settings: Settings) -> AccessControl:
        """As the settings say."""
        keys, admin_keys = settings.api_key_list(), settings.admin_key_list()

        def limit_of(limit: str, name: str) -> RateLimit | None:
            url, timeout = settings.cache_url, settings.cache_timeout_seconds
            return create_rate_limit(limit, url, timeout, name=name) if limit else None

        failure_limit = limit_of(settings.key_failure_limit, "key-failures") if keys or admin_keys else None
        return cls(keys, admin_keys, limit_of(settings.rate_limit, "requests"), failure_limit)

    async def check(self, scope: Scope, path: str, headers: Mapping[bytes, bytes]) -> Allowance | None:
        """Name the client in the scope's state and count the request; what is left to it, if there is a limit.

        Raises `Overloaded`, `Unauthorized`, `Forbidden` or `RateLimited`.
        """
        state = scope["state"]
        is_open = OPEN_PATHS.fullmatch(path) is not None
        if is_open and PROBE_PATHS.fullmatch(path):
            return None
        if OVER_LIMIT in state:
            raise Overloaded("Too many connections are open; try again shortly.", headers={"Connection": "close"})
        client = address = f"address:{client_network(peer_of(scope))}"
        is_admin = path in ADMIN_PATHS
        if self.keys or is_admin:
            given = headers.get(b"x-api-key", b"")
            key = _known_key(self.admin_keys if is_admin else self.keys, given)
            if key is not None:
                client = f"key:{key}"
            elif not is_open:
                await self._count(self.failure_limit, address, "requests without a valid key")
                await self._count(self.limit, address)
                if is_admin and (not self.keys or _known_key(self.keys, given)):
                    raise Forbidden("Reloading the models needs one of the keys in VAMP_ADMIN_KEYS, in X-API-Key.")
                raise Unauthorized("Send one of the service's keys in the header X-API-Key.")
        state["client"] = client
        return None if is_open or self.limit is None else await self._count(self.limit, client)

    async def close(self) -> None:
        """Disconnect from Redis."""
        for limit in (self.limit, self.failure_limit):
            if limit is not None:
                await limit.close()

    @staticmethod
    async def _count(limit: RateLimit | None, client: str, counted: str = "requests") -> Allowance | None:
        if limit is None:
            return None
        allowance = await limit.hit(client)
        if not allowance.allowed:
            raise allowance.problem(counted)
        return allowance


def peer_of(scope: Scope) -> str:
    """Address of the client, as a trusted proxy tells it."""
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def _hashes(keys: Iterable[str]) -> dict[bytes, str]:
    """A hash for each key, to name it without telling it."""
    return {key.encode(): hashlib.sha256(key.encode()).hexdigest()[:32] for key in keys}


def _known_key(keys: Mapping[bytes, str], given: bytes) -> str | None:
    """Hash of the key, found in a time that does not tell how much of a guess is right."""
    matches = [hash_ for key, hash_ in keys.items() if hmac.compare_digest(key, given)]
    return matches[0] if matches else None
