"""When a request that failed is sent again."""

from __future__ import annotations

from dataclasses import dataclass

from vampprior_client.errors import ClientError, ConnectionFailed, RateLimited, TimedOut, Unavailable

__all__ = ["Retries"]

FIRST_WAIT = 0.5


@dataclass(frozen=True)
class Retries:
    """A bound on retries of answers 429 and 503 and of broken connections. No call of the client changes anything.

    Args:
        attempts: Attempts in all, 1 for no retry.
        max_wait: Longest wait before an attempt, in seconds. If the service asks for a longer one in `Retry-After`,
            its error is raised at once.

    Example:
        >>> from vampprior_client import ConnectionFailed
        >>> [Retries(attempts=4).wait(attempt, ConnectionFailed()) for attempt in (1, 2, 3, 4)]
        [0.5, 1.0, 2.0, None]
    """

    attempts: int = 6
    max_wait: float = 60.0

    def wait(self, attempt: int, error: ClientError) -> float | None:
        """Seconds to wait after attempt number `attempt` (from 1) has failed; None if its error is to be raised.

        It is the time in `Retry-After`, or without one 0.5 seconds that double with each attempt.
        """
        retried = isinstance(error, (RateLimited, Unavailable, ConnectionFailed)) and not isinstance(error, TimedOut)
        if not retried or attempt >= self.attempts:
            return None
        retry_after: float | None = getattr(error, "retry_after", None)
        if retry_after is None:
            return min(FIRST_WAIT * 2.0 ** (attempt - 1), self.max_wait)
        return retry_after if retry_after <= self.max_wait else None
