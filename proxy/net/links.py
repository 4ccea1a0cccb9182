"""The two kinds of links: from clients, and to instances."""

import logging
from collections.abc import Callable
from typing import Final

from proxy.http2.connection import Connection
from proxy.http2.limits import Budget
from proxy.http2.sender import Carrier
from proxy.net.link import Hub, Link
from proxy.relay.counters import Counters
from proxy.relay.dispatch import Dispatcher
from proxy.relay.downstream import Downstream
from proxy.relay.pool import Pool
from proxy.relay.upstream import Upstream

log: Final = logging.getLogger(__name__)

# Seconds between two complaints about the same fault.
_COMPLAINT_SECONDS: Final = 60.0


class ClientLinks:
    """Makes the links of accepted clients, and knows which are open."""

    def __init__(self, hub: Hub, dispatcher: Dispatcher, budget: Budget, counters: Counters, grpc: bool) -> None:
        self.hub = hub
        self.open: set[ClientLink] = set()
        self.on_empty: Callable[[], None] | None = None
        self._draining_since = -1.0
        self._dispatcher = dispatcher
        self._budget = budget
        self._counters = counters
        self._grpc = grpc
        self._complained: dict[str, float] = {}

    def link(self) -> "ClientLink":
        """A link for one accepted socket; the protocol factory of the listener."""
        return ClientLink(self, self.hub, self._counters)

    def connection(self, carrier: Carrier) -> Downstream:
        """The connection behind a link; one accepted as the drain began is asked to go as well."""
        conn = Downstream(carrier, self._budget, self._dispatcher, self._counters, self._grpc)
        if self._draining_since >= 0:
            conn.drain(self._draining_since)
        return conn

    def closed(self, link: "ClientLink") -> None:
        """A client is gone."""
        self.open.discard(link)
        if not self.open and self.on_empty is not None:
            self.on_empty()

    def complain(self, peer: str, fault: str, now: float) -> None:
        """Log how a client broke the protocol: each way once a minute, as one that is set up wrongly comes often."""
        if now - self._complained.get(fault, -_COMPLAINT_SECONDS) >= _COMPLAINT_SECONDS:
            self._complained[fault] = now
            log.warning("a client%s is cut off: %s", peer, fault)

    def drain(self, now: float) -> None:
        """Ask all clients to finish and go."""
        self._draining_since = now
        for link in self.open:
            if link.downstream is not None:
                link.downstream.drain(now)


class ClientLink(Link):
    """A client's socket."""

    def __init__(self, links: ClientLinks, hub: Hub, counters: Counters) -> None:
        super().__init__(hub, counters.downstream)
        self.links = links
        self.downstream: Downstream | None = None
        self._peer = ""

    @property
    def open_calls(self) -> int:
        """Calls this client has open."""
        return self.downstream.streams.count if self.downstream is not None else 0

    def connect(self) -> Connection | None:
        """A client came."""
        self.links.open.add(self)
        name = self.transport.get_extra_info("peername") if self.transport is not None else None
        if isinstance(name, tuple):  # those on a unix socket have no name
            self._peer = f" at {name[0]}:{name[1]}"
        self.downstream = self.links.connection(self)
        return self.downstream

    def lost(self, now: float, reason: str) -> None:
        """A client is gone: its calls are cancelled."""
        if self.downstream is not None:
            self.downstream.lost(now)
            if self.downstream.fault:
                self.links.complain(self._peer, self.downstream.fault, now)
        self.links.closed(self)


class InstanceLink(Link):
    """A socket to an instance."""

    def __init__(self, hub: Hub, counters: Counters, pool: Pool) -> None:
        super().__init__(hub, counters.upstream)
        self.pool = pool
        self.upstream: Upstream | None = None
        self.reached = False

    def connect(self) -> Connection | None:
        """The instance accepted; its pool may no longer want the connection."""
        self.reached = True
        self.upstream = self.pool.attach(self)
        return self.upstream

    def lost(self, now: float, reason: str) -> None:
        """The instance is gone, or this connection of it."""
        upstream = self.upstream
        if upstream is not None:
            # An instance that expects TLS, for one, ends a connection so.
            upstream.lost(now, reason if upstream.settings_seen else f"{reason} before it spoke HTTP/2")
