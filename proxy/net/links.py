"""The two kinds of links: from clients, and to instances."""

from collections.abc import Callable

from proxy.http2.connection import Connection
from proxy.http2.limits import Budget
from proxy.http2.sender import Carrier
from proxy.net.link import Hub, Link
from proxy.relay.counters import Counters
from proxy.relay.dispatch import Dispatcher
from proxy.relay.downstream import Downstream
from proxy.relay.pool import Pool
from proxy.relay.upstream import Upstream


class ClientLinks:
    """Makes the links of accepted clients, and knows which are open."""

    def __init__(self, hub: Hub, dispatcher: Dispatcher, budget: Budget, counters: Counters, grpc: bool) -> None:
        self.hub = hub
        self.open: set[ClientLink] = set()
        self.on_empty: Callable[[], None] | None = None
        self._dispatcher = dispatcher
        self._budget = budget
        self._counters = counters
        self._grpc = grpc

    def link(self) -> "ClientLink":
        """A link for one accepted socket; the protocol factory of the listener."""
        return ClientLink(self, self.hub, self._counters)

    def connection(self, carrier: Carrier) -> Downstream:
        """The connection behind a link."""
        return Downstream(carrier, self._budget, self._dispatcher, self._counters, self._grpc)

    def closed(self, link: "ClientLink") -> None:
        """A client is gone."""
        self.open.discard(link)
        if not self.open and self.on_empty is not None:
            self.on_empty()

    def drain(self, now: float) -> None:
        """Ask all clients to finish and go."""
        for link in self.open:
            if link.downstream is not None:
                link.downstream.drain(now)


class ClientLink(Link):
    """A client's socket."""

    def __init__(self, links: ClientLinks, hub: Hub, counters: Counters) -> None:
        super().__init__(hub, counters.downstream)
        self.links = links
        self.downstream: Downstream | None = None

    @property
    def open_calls(self) -> int:
        """Calls this client has open."""
        return self.downstream.streams.count if self.downstream is not None else 0

    def connect(self) -> Connection | None:
        """A client came."""
        self.links.open.add(self)
        self.downstream = self.links.connection(self)
        return self.downstream

    def lost(self, now: float, reason: str) -> None:
        """A client is gone: its calls are cancelled."""
        if self.downstream is not None:
            self.downstream.lost(now)
        self.links.closed(self)


class InstanceLink(Link):
    """A socket to an instance."""

    def __init__(self, hub: Hub, counters: Counters, pool: Pool) -> None:
        super().__init__(hub, counters.upstream)
        self.pool = pool
        self.upstream: Upstream | None = None

    def connect(self) -> Connection | None:
        """The instance accepted; its pool may no longer want the connection."""
        self.upstream = self.pool.attach(self)
        return self.upstream

    def lost(self, now: float, reason: str) -> None:
        """The instance is gone, or this connection of it."""
        upstream = self.upstream
        if upstream is not None:
            # An instance that expects TLS, for one, ends a connection so.
            upstream.lost(now, reason if upstream.settings_seen else f"{reason} before it spoke HTTP/2")
