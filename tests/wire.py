"""The relay between scripted peers: a test reads like a wire trace, and time is what the test says.

`Relay` joins the real cluster, client connections and instance connections; sockets are lists of octets and the
dialer does as it is told. A `Peer` is the far end of one connection: it `sends` frames and says what it `sees`.
`Relay.settle` is the law every test ends with: nothing held, nothing open, every call handled once.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import hpack
from hpack.struct import HeaderTuple

from proxy.balance.instance import PASSING, Instance
from proxy.balance.policy import RoundRobin
from proxy.http2 import constants as c
from proxy.http2.connection import Connection
from proxy.http2.fields import literal
from proxy.http2.limits import Budget
from proxy.http2.sender import Carrier
from proxy.relay.cluster import Cluster
from proxy.relay.counters import Counters
from proxy.relay.downstream import Downstream
from proxy.relay.pool import Dialer, Pool
from proxy.relay.streams import Call, Leg
from proxy.relay.upstream import Upstream

Fields = Sequence[tuple[str, str]]

END: Final = int(c.FLAG_END_STREAM)
END_HEADERS: Final = int(c.FLAG_END_HEADERS)
PADDED: Final = int(c.FLAG_PADDED)
PRIORITIZED: Final = int(c.FLAG_PRIORITY)
ACK: Final = int(c.FLAG_ACK)
KINDS: Final = (
    "DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY", "WINDOW_UPDATE",
    "CONTINUATION",
)  # fmt: skip

# What a trace leaves out, as nearly every block has it.
_USUAL: Final = {
    (":scheme", "http"),
    (":authority", "relay"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
}
PATH: Final = "/helloworld.Greeter/SayHello"


def request_fields(path: str = PATH, *more: tuple[str, str]) -> Fields:
    """A gRPC request's fields."""
    usual = ((":scheme", "http"), (":authority", "relay"), ("te", "trailers"), ("content-type", "application/grpc"))
    return ((":method", "POST"), (":path", path), *usual, *more)


def block(fields: Iterable[tuple[str, str]]) -> bytes:
    """A header block of literals without indexing and without Huffman coding."""
    return b"".join(literal(name.encode(), value.encode()) for name, value in fields)


# Frames.


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Any frame, section 4.1."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream_id) + payload


def headers(stream_id: int, fields: Fields | bytes, flags: int = 0) -> bytes:
    """HEADERS with a whole block, of fields or of octets."""
    octets = fields if isinstance(fields, bytes) else block(fields)
    return frame(int(c.HEADERS), flags | END_HEADERS, stream_id, octets)


def request(stream_id: int, *more: tuple[str, str], flags: int = 0, path: str = PATH) -> bytes:
    """HEADERS with a gRPC request."""
    return headers(stream_id, request_fields(path, *more), flags)


def unary(stream_id: int, body: bytes = b"hello", path: str = PATH) -> bytes:
    """A whole request with one message."""
    return request(stream_id, path=path) + data(stream_id, body, END)


def response(stream_id: int, *more: tuple[str, str], flags: int = 0) -> bytes:
    """HEADERS that begin a response, or are all of it with END."""
    return headers(stream_id, ((":status", "200"), ("content-type", "application/grpc"), *more), flags)


def trailers(stream_id: int, code: int = 0, *more: tuple[str, str]) -> bytes:
    """HEADERS that end a response."""
    return headers(stream_id, (("grpc-status", str(code)), *more), END)


def trailers_only(stream_id: int, code: int, *more: tuple[str, str]) -> bytes:
    """A response that is one HEADERS."""
    return response(stream_id, ("grpc-status", str(code)), *more, flags=END)


def answer(stream_id: int, body: bytes = b"hi") -> bytes:
    """A whole response with one message."""
    return response(stream_id) + data(stream_id, body) + trailers(stream_id)


def data(stream_id: int, payload: bytes, flags: int = 0) -> bytes:
    """DATA frames of 16,384 octets at most; `flags` go on the last."""
    pieces = [payload[at : at + 16_384] for at in range(0, len(payload), 16_384)] or [b""]
    last = pieces.pop()
    return b"".join(frame(0, 0, stream_id, piece) for piece in pieces) + frame(0, flags, stream_id, last)


def continuation(stream_id: int, octets: bytes, flags: int = 0) -> bytes:
    return frame(int(c.CONTINUATION), flags, stream_id, octets)


def reset(stream_id: int, code: int = int(c.CANCEL)) -> bytes:
    return frame(int(c.RST_STREAM), 0, stream_id, struct.pack(">I", code))


def settings(*entries: tuple[int, int]) -> bytes:
    return frame(int(c.SETTINGS), 0, 0, b"".join(struct.pack(">HI", int(key), value) for key, value in entries))


def settings_ack() -> bytes:
    return frame(int(c.SETTINGS), ACK, 0)


def ping(payload: bytes = b"12345678", flags: int = 0) -> bytes:
    return frame(int(c.PING), flags, 0, payload)


def window_update(stream_id: int, octets: int) -> bytes:
    return frame(int(c.WINDOW_UPDATE), 0, stream_id, struct.pack(">I", octets))


def goaway(last_id: int, code: int = 0, debug: bytes = b"") -> bytes:
    return frame(int(c.GOAWAY), 0, 0, struct.pack(">II", last_id, code) + debug)


def priority(stream_id: int, depends_on: int = 0) -> bytes:
    return frame(int(c.PRIORITY), 0, stream_id, struct.pack(">IB", depends_on, 15))


def frames(octets: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, stream id, payload) of every frame; all of them have to be whole."""
    at = 0
    while at < len(octets):
        length = int.from_bytes(octets[at : at + 3], "big")
        stream_id = int.from_bytes(octets[at + 5 : at + 9], "big")
        payload = octets[at + 9 : at + 9 + length]
        assert len(payload) == length, "a frame is cut"
        yield octets[at + 3], octets[at + 4], stream_id, payload
        at += 9 + length


class Wire(Carrier):
    """A socket that keeps what is written to it."""

    def __init__(self) -> None:
        self.octets = b""
        self.finished = False

    def finish(self) -> None:
        self.finished = True


class Peer:
    """The far end of one connection: a client, or an instance."""

    def __init__(self, relay: "Relay", conn: Connection, wire: Wire) -> None:
        self.relay = relay
        self.conn = conn
        self.wire = wire
        self.gone = False
        self.blocks: list[bytes] = []  # header blocks as they came
        self.bodies: dict[int, int] = {}  # octets of DATA seen, by stream
        self._decoder = hpack.Decoder()
        self._partial = b""

    def is_finished(self) -> bool:
        """Whether the relay has ended the connection."""
        return self.wire.finished

    def sends(self, *octets: bytes) -> "Peer":
        """Send octets in one read."""
        self.conn.receive(b"".join(octets), self.relay.now)
        self.relay.flush()
        return self

    def reads_nothing(self) -> None:
        """The socket towards this peer is full."""
        self.conn.paused = True

    def reads_on(self) -> None:
        """The socket takes octets again."""
        self.conn.paused = False
        self.conn.pump()
        self.relay.flush()

    def breaks(self, reason: str = "closed by the peer") -> None:
        """The socket is gone."""
        if not self.gone:
            self.gone = True
            if isinstance(self.conn, Upstream):
                self.conn.lost(self.relay.now, reason)
            elif isinstance(self.conn, Downstream):
                self.conn.lost(self.relay.now)
            self.relay.flush()

    def raw(self) -> bytes:
        """The octets that came since the last look."""
        octets = self.wire.octets
        self.wire.octets = b""
        return octets

    def sees(self, *kinds: str) -> list[str]:
        """The frames that came since the last look, one line each; of these kinds only, if any are named."""
        self.relay.accounts()
        lines = [(KINDS[kind], self._line(kind, flags, at, body)) for kind, flags, at, body in frames(self.raw())]
        return [line for kind, line in lines if line and (not kinds or kind in kinds)]

    def _line(self, kind: int, flags: int, stream_id: int, payload: bytes) -> str:
        name = KINDS[kind]
        if kind in (c.HEADERS, c.CONTINUATION):
            return self._header_line(name, flags, stream_id, payload)
        end = " END_STREAM" if kind == c.DATA and flags & END else ""
        if kind == c.DATA:
            self.bodies[stream_id] = self.bodies.get(stream_id, 0) + len(payload)
            text = payload.decode() if len(payload) <= 32 else f"{len(payload)} octets"
            return f"DATA {stream_id} {text}".rstrip() + end
        if kind == c.RST_STREAM:
            return f"RST_STREAM {stream_id} {c.error_name(int.from_bytes(payload, 'big'))}"
        if kind == c.GOAWAY:
            last, code = struct.unpack(">II", payload[:8])
            return f"GOAWAY {last} {c.error_name(code)} {payload[8:].decode()}".rstrip()
        if kind == c.WINDOW_UPDATE:
            return f"WINDOW_UPDATE {stream_id} {int.from_bytes(payload, 'big')}"
        if kind in (c.SETTINGS, c.PING) and flags & ACK:
            return f"{name} ACK"
        if kind == c.SETTINGS:
            entries = [f"{key}={value}" for key, value in struct.iter_unpack(">HI", payload)]
            return " ".join([name, *entries])
        return f"{name} {stream_id} {payload!r}"

    def _header_line(self, name: str, flags: int, stream_id: int, payload: bytes) -> str:
        if not flags & END_HEADERS:
            self._partial += payload
            return f"{name} {stream_id} ..."
        octets = self._partial + payload
        self._partial = b""
        self.blocks.append(octets)
        end = " END_STREAM" if name == "HEADERS" and flags & END else ""
        return " ".join([name, str(stream_id), *told(self._decoder.decode(octets))]) + end


def told(fields: Iterable[HeaderTuple]) -> list[str]:
    """Fields as a trace shows them: what nearly every block has is left out."""
    words: list[str] = []
    for field in fields:
        name, value = str(field[0]), str(field[1])
        if (name, value) in _USUAL:
            continue
        words.append(value if name in (":method", ":path", ":status") else f"{name}={value}")
    return words


class ScriptedDialer(Dialer):
    """Connects at once; or, if `refuses`, fails; or, if `hangs`, keeps the dials for later."""

    def __init__(self, relay: "Relay") -> None:
        self.relay = relay
        self.refuses: set[str] = set()
        self.hangs = False
        self.asked: list[tuple[Pool, float]] = []
        self.delays: list[float] = []
        self.crowded: list[Pool] = []
        self.hurried: list[Pool] = []

    def dial(self, pool: Pool, delay: float) -> None:
        self.asked.append((pool, delay))
        self.delays.append(delay)

    def hurry(self, pool: Pool) -> None:
        self.hurried.append(pool)

    def soon(self, pool: Pool) -> None:
        self.crowded.append(pool)


def instance(name: str, *, routable: bool = True, state: str = PASSING) -> Instance:
    return Instance(name, "127.0.0.1", 1000 + ord(name[0]), state, routable)


class Relay:
    """A cluster with its instances and clients, their sockets scripted."""

    def __init__(
        self, names: str = "a", *, grpc: bool = True, wait: float = 5.0, budget: int | None = None, streams: int = 0
    ) -> None:
        self.now = 1000.0
        self.budget = Budget() if budget is None else Budget(budget)
        self.counters = Counters()
        self.dialer = ScriptedDialer(self)
        self.grpc = grpc
        self.peers: list[Peer] = []
        self.connections: dict[str, list[Peer]] = {}
        self.on_connect: Callable[[Peer], object] = lambda peer: peer.sends(self.first_settings)
        self.first_settings = settings((int(c.MAX_CONCURRENT_STREAMS), streams)) if streams else settings()
        self.first_settings += settings_ack()
        self.cluster = Cluster("greeter", RoundRobin(), self.dialer, self.budget, self.counters, wait)
        self.applies(names)

    # Discovery.

    def applies(self, names: str, *, unroutable: str = "") -> None:
        """Discovery's list of instances, one letter each."""
        gone = [instance(name, routable=False, state="critical") for name in unroutable]
        self.cluster.apply([*(instance(name) for name in names), *gone])
        self.flush()

    def instance(self, name: str, number: int = 0) -> Peer:
        """The far end of an instance's connection, in the order they were made."""
        return self.connections[name][number]

    def instances(self) -> list[Peer]:
        """The far ends of the first connection of each instance."""
        return [peers[0] for _, peers in sorted(self.connections.items())]

    def pool(self, name: str) -> Pool:
        return next(pool for pool in self.cluster.endpoints if pool.instance.key == name)

    # Clients.

    def client(self, *first: bytes) -> Peer:
        """A client whose connection is set up; its SETTINGS may be given."""
        peer = self.raw_client()
        peer.sends(c.PREFACE, *(first or (settings(),)), settings_ack())
        peer.sees()
        return peer

    def raw_client(self) -> Peer:
        """A client that has connected and said nothing."""
        wire = Wire()
        conn = Downstream(wire, self.budget, self.cluster, self.counters, self.grpc)
        peer = Peer(self, conn, wire)
        self.peers.append(peer)
        conn.start(self.now)
        self.flush()
        return peer

    # Time and sockets.

    def passes(self, seconds: float) -> None:
        """Let time pass, with a tick each second as in the real program."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + 1.0, end)
            for peer in self.peers:
                if not peer.gone:
                    peer.conn.tick(self.now)
            self.cluster.tick(self.now)
            self.flush()

    def flush(self) -> None:
        """Carry out what was asked of sockets and dialer, until all is quiet."""
        busy = True
        while busy:
            busy = self._dials()
            for peer in self.peers:
                conn = peer.conn
                while conn.out_octets > 0 and (not conn.paused or peer.is_finished()) and not peer.gone:
                    peer.wire.octets += b"".join(conn.take())
                    conn.pump()
                    busy = True

    def _dials(self) -> bool:
        if self.dialer.hangs or not self.dialer.asked:
            return False
        asked = self.dialer.asked
        self.dialer.asked = []
        for pool, _ in asked:
            if pool.instance.key in self.dialer.refuses:
                # A refused instance is asked again later, which is now for a script: so stop at the next.
                self.dialer.hangs = True
                pool.dial_failed("Connection refused")
            else:
                self._connect(pool)
        return True

    def _connect(self, pool: Pool) -> None:
        wire = Wire()
        conn = pool.attach(wire)
        if conn is None:
            return
        peer = Peer(self, conn, wire)
        self.peers.append(peer)
        self.connections.setdefault(pool.instance.key, []).append(peer)
        conn.start(self.now)
        wire.octets = b"".join(conn.take())
        assert wire.octets.startswith(c.PREFACE)
        wire.octets = wire.octets[len(c.PREFACE) :]
        peer.sees()
        self.on_connect(peer)
        wire.octets = wire.octets.removeprefix(settings_ack())

    # The law.

    def accounts(self) -> None:
        """What is counted is what is there."""
        streams = [stream for peer in self.peers for stream in peer.conn.streams.all()]
        assert len(streams) == sum(peer.conn.streams.count for peer in self.peers)
        calls = [stream for stream in streams if isinstance(stream, Call)]
        legs = [stream for stream in streams if isinstance(stream, Leg)]
        kept = sum(call.kept_octets for call in calls if call.replayable)
        assert self.budget.held == kept + sum(stream.pending_octets for stream in streams)
        assert self.in_flight == sum(not call.done for call in calls if call.row is not None)
        assert self.cluster.waiting == sum(call.waiting for call in calls)
        for call in calls:
            leg = call.leg
            waits = leg.pending_octets if leg is not None and not leg.gone else 0
            assert call.held == (call.kept_octets if call.waiting else waits)
            assert call.waiting or leg is not None or call.local_closed or call.pending is not None
        for leg in legs:
            assert leg.call is None or leg.call.gone or leg.held == leg.call.pending_octets

    @property
    def in_flight(self) -> int:
        return sum(row.started - row.handled for row in self.counters.rows)

    @property
    def codes(self) -> dict[str, int]:
        """Calls handled, by the name of their code."""
        from proxy.relay.counters import GRPC_CODES

        counts = {name: sum(row.codes[at] for row in self.counters.rows) for at, name in enumerate(GRPC_CODES)}
        return {name: count for name, count in counts.items() if count}

    def settle(self) -> None:
        """All sockets go: nothing may be held or open behind them, and each call was handled once."""
        self.dialer.hangs = True
        for peer in self.peers:
            peer.breaks()
        assert self.budget.held == 0, "octets are still counted as held"
        assert [peer.conn.streams.count for peer in self.peers if peer.conn.streams.count] == []
        assert self.in_flight == 0, "calls began and were never handled"
        assert all(sum(row.codes) == row.handled == sum(row.buckets) for row in self.counters.rows)
        assert self.cluster.waiting == 0
        assert all(pool.open_calls == 0 for pool in self.cluster.endpoints)
