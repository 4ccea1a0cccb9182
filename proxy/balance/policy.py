"""How the next instance is chosen. A further policy is one more small class here."""

from mypy_extensions import i64

from proxy.balance.endpoint import Endpoint


class Policy:
    """Chooses among the routable endpoints of one service."""

    def changed(self, endpoints: list[Endpoint]) -> None:
        """The set changed; those that stay keep their order, new ones come last."""

    def pick(self, avoid: Endpoint | None) -> Endpoint | None:
        """The endpoint for the next call, None if none is available; `avoid` only if there is no other."""
        return None


class RoundRobin(Policy):
    """Strict turns over all client connections: after any number of calls, counts differ by at most one."""

    def __init__(self) -> None:
        self._endpoints: list[Endpoint] = []
        self._next: i64 = 0

    def changed(self, endpoints: list[Endpoint]) -> None:
        """Go on with the endpoint whose turn it was, or the first behind it that stays."""
        before = self._endpoints
        count: i64 = len(before)
        turn: i64 = 0
        for step in range(count):
            candidate = before[(self._next + step) % count]
            if candidate in endpoints:
                turn = endpoints.index(candidate)
                break
        self._endpoints = endpoints
        self._next = turn

    def pick(self, avoid: Endpoint | None) -> Endpoint | None:
        """The next available endpoint in turn."""
        endpoints = self._endpoints
        count: i64 = len(endpoints)
        at = self._next
        spare: Endpoint | None = None
        tried: i64 = 0
        while tried < count:
            endpoint = endpoints[at]
            at += 1
            if at >= count:
                at = 0
            tried += 1
            if endpoint.available():
                if endpoint is not avoid:
                    self._next = at
                    return endpoint
                spare = endpoint
        return spare
