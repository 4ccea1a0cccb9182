"""When to ask again. Pure: time and randomness are passed in."""

from collections.abc import Callable
from typing import Final

FIRST_BACKOFF_SECONDS: Final = 0.25
LAST_BACKOFF_SECONDS: Final = 30.0


class TokenBucket:
    """Limits a loop that succeeds: `burst` turns at once, then one every `refill_seconds`."""

    def __init__(self, burst: int, refill_seconds: float) -> None:
        self._burst = float(burst)
        self._refill_seconds = refill_seconds
        self._tokens = float(burst)
        self._at: float | None = None

    def delay(self, now: float) -> float:
        """Take a token at `now` (seconds, monotonic); return the seconds to wait until it is there."""
        if self._at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._at) / self._refill_seconds)
        self._at = now
        self._tokens -= 1.0
        return max(0.0, -self._tokens * self._refill_seconds)


class Backoff:
    """Full jitter: a random part of a bound that doubles, so that many sidecars do not return in step."""

    def __init__(self, uniform: Callable[[float, float], float]) -> None:
        self._uniform = uniform
        self._bound = FIRST_BACKOFF_SECONDS

    def reset(self) -> None:
        """Begin again after a success."""
        self._bound = FIRST_BACKOFF_SECONDS

    def delay(self) -> float:
        """Seconds until the next attempt."""
        bound = self._bound
        self._bound = min(2 * bound, LAST_BACKOFF_SECONDS)
        return self._uniform(0.0, bound)


def next_index(last: int, answered: int) -> int:
    """Return the index to ask with next; 0 starts over.

    An index that fell belongs to a server that lost its state or never had it: an index above the server's own is
    not woken by changes, so going on with the old one would miss them.
    """
    return answered if answered >= last and answered > 0 else 0
