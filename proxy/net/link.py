"""What carries one connection's bytes: an asyncio protocol that feeds it, and flushes at the end of a read.

One read of one socket may cause output on many connections. They note themselves in the `Hub` and are flushed
together when that read has been worked off: one write per connection and read cycle.
"""

import asyncio
import time
from typing import Final

from mypy_extensions import i64

from proxy.http2.connection import Connection
from proxy.http2.limits import STALLED_WRITE_SECONDS
from proxy.http2.sender import Carrier
from proxy.relay.counters import Traffic

# Octets in a transport's buffer at which it stops, and starts again, to take DATA.
_HIGH_WATER: Final = 256 * 1024
_LOW_WATER: Final = 64 * 1024
# Seconds that a peer has to close a connection that we have ended.
_LINGER_SECONDS: Final = 2.0
# Seconds that an answer to a PING may wait to ride on other output.
_SOON: Final = 0.005


class Hub:
    """The links of one event loop: which of them have output, and the clock that they share."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.links: dict[int, Link] = {}
        self._dirty: list[Link] = []
        self._lazy: list[Link] = []
        self._busy = False  # inside a read: whoever began it flushes
        self._planned = False

    def begin(self) -> None:
        """A read cycle begins."""
        self._busy = True

    def end(self) -> None:
        """A read cycle ends: flush all that have output."""
        while self._dirty:
            dirty = self._dirty
            self._dirty = []
            for link in dirty:
                link.flush()
        self._busy = False

    def dirty(self, link: "Link") -> None:
        """A link has output. Outside a read, as from a timer, it is flushed in the loop's next turn."""
        self._dirty.append(link)
        if not self._busy and not self._planned:
            self._planned = True
            self.loop.call_soon(self._flush_planned)

    def lazy(self, link: "Link") -> None:
        """A link has output that may wait a little."""
        self._lazy.append(link)
        if len(self._lazy) == 1:
            self.loop.call_later(_SOON, self._flush_lazy)

    def _flush_planned(self) -> None:
        self._planned = False
        self.end()

    def _flush_lazy(self) -> None:
        lazy = self._lazy
        self._lazy = []
        self._dirty.extend(lazy)
        self.end()

    def close(self) -> None:
        """Cut every connection."""
        for link in list(self.links.values()):
            link.abort()

    def tick(self) -> None:
        """Once a second: let every connection look at its clocks."""
        now = time.monotonic()
        self.begin()
        for link in list(self.links.values()):
            link.tick(now)
        self.end()


class Link(Carrier):
    """One socket and its connection. A subclass makes the connection and says what its loss means."""

    def __init__(self, hub: Hub, traffic: Traffic) -> None:
        self.hub = hub
        self.traffic = traffic
        self.conn: Connection | None = None
        self.transport: asyncio.Transport | None = None
        self._finishing = False
        self._closing = False
        self._stalled_since = 0.0
        self._stalled_octets: i64 = 0

    def connect(self) -> Connection | None:
        """The socket is open: make its connection, or None to close it at once."""
        return None

    def lost(self, now: float, reason: str) -> None:
        """The socket is gone."""

    # asyncio.Protocol, by shape: a compiled class need not inherit it.

    def connection_made(self, transport: asyncio.Transport) -> None:
        """The socket is open."""
        self.transport = transport
        transport.set_write_buffer_limits(_HIGH_WATER, _LOW_WATER)
        self.hub.links[id(self)] = self
        conn = self.connect()
        if conn is None:
            self.finish()
            return
        self.conn = conn
        conn.start(time.monotonic())

    def data_received(self, data: bytes) -> None:
        """The socket gave something: feed the connection, then flush everyone who has something to say."""
        conn = self.conn
        if conn is None:
            return
        hub = self.hub
        hub.begin()
        self.traffic.read += len(data)
        conn.receive(data, time.monotonic())
        hub.end()

    def eof_received(self) -> bool:
        """The peer closed; HTTP/2 has no use for half a connection."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The socket is gone."""
        self.hub.links.pop(id(self), None)
        self.transport = None
        self.hub.begin()
        self.lost(time.monotonic(), str(error) if error is not None else "closed by the peer")
        self.conn = None
        self.hub.end()

    def pause_writing(self) -> None:
        """The socket takes nothing more for now: DATA waits in its streams."""
        conn = self.conn
        if conn is not None:
            conn.paused = True
            self._stalled_since = 0.0

    def resume_writing(self) -> None:
        """The socket takes DATA again."""
        conn = self.conn
        if conn is not None:
            conn.paused = False
            self.hub.begin()
            conn.pump()
            self.flush()
            self.hub.end()

    # Carrier.

    def wake(self) -> None:
        """Output appeared."""
        self.hub.dirty(self)

    def wake_soon(self) -> None:
        """Output appeared that may wait a little."""
        self.hub.lazy(self)

    def finish(self) -> None:
        """Nothing follows: flush, then close."""
        self._finishing = True
        self.hub.dirty(self)

    def flush(self) -> None:
        """Write what there is, and go on while waiting DATA fills the output and the socket takes it."""
        conn = self.conn
        transport = self.transport
        if transport is None or self._closing:
            return
        if conn is not None:
            while not conn.paused or self._finishing:
                octets = conn.out_octets
                if octets == 0:
                    break
                self.traffic.written += octets
                chunks = conn.take()
                if len(chunks) == 1:
                    transport.write(chunks[0])
                else:
                    transport.writelines(chunks)
                conn.pump()
        if self._finishing:
            # Half-close and let the peer close: closing with unread input would make the kernel reset the
            # connection, and the peer could lose what was written last.
            self._closing = True
            transport.write_eof()

    def abort(self) -> None:
        """Cut the connection."""
        if self.transport is not None:
            self.transport.abort()

    def tick(self, now: float) -> None:
        """Look at the clocks: the connection's, and that of a write that does not move."""
        conn = self.conn
        transport = self.transport
        if transport is None:
            return
        if conn is not None:
            conn.tick(now)
        if not self._closing and (conn is None or not conn.paused):
            return
        octets: i64 = transport.get_write_buffer_size()
        if self._stalled_since == 0.0 or octets != self._stalled_octets:
            self._stalled_since = now
            self._stalled_octets = octets
        elif now - self._stalled_since > (_LINGER_SECONDS if octets == 0 else STALLED_WRITE_SECONDS):
            transport.abort()
