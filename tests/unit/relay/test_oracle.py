"""Random lives of calls between peers that keep to HTTP/2: python-hyper's h2 on both ends judges each frame.

h2 raises at any frame that its state does not allow or its windows have no room for. Each call's octets are a
pattern of their own, so what arrives has to be the beginning of what was sent, replayed or not.
"""

import contextlib
import random
from collections.abc import Callable

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import pytest

from proxy.http2 import constants as c
from tests.wire import Peer, Relay, goaway

HEAD = [(":status", "200"), ("content-type", "application/grpc")]
CODES = [int(c.REFUSED_STREAM), int(c.CANCEL), int(c.INTERNAL_ERROR), int(c.NO_ERROR)]


def pattern(number: int, start: int, size: int) -> bytes:
    """Octets of a call's body; every call has another one."""
    return bytes([(number * 31 + at // 7) & 0xFF for at in range(start, start + size)])


class End:
    """One end that speaks through h2."""

    def __init__(self, peer: Peer, client: bool) -> None:
        self.peer = peer
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=client, header_encoding="utf-8", validate_outbound_headers=False)
        )
        self.h2.initiate_connection()
        self.numbers: dict[int, int] = {}  # open stream -> which call it is
        self.sent: dict[int, int] = {}
        self.got: dict[int, bytes] = {}
        self.unread: dict[int, int] = {}
        self.eager = True
        self.writable: set[int] = set()  # streams this end may still write
        self.readable: set[int] = set()
        self.whole: set[int] = set()  # streams that the other end completed
        self.lost: set[int] = set()  # streams that the relay answered, as their instance was lost
        if not client:
            self.h2.receive_data(c.PREFACE)

    def flush(self) -> None:
        octets = self.h2.data_to_send()
        if octets and not self.peer.gone:
            self.peer.sends(octets)

    def reads(self) -> None:
        """Take what came; an error here is the relay's."""
        for event in self.h2.receive_data(self.peer.raw()):
            self.note(event)

    def note(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            path = next(str(value) for name, value in event.headers if str(name) == ":path")
            self.opens(event.stream_id, int(path.rsplit("/m", 1)[1]))
        elif isinstance(event, h2.events.DataReceived):
            stream_id, size = event.stream_id, event.flow_controlled_length
            self.got[stream_id] = self.got.get(stream_id, b"") + event.data
            self.unread[stream_id] = self.unread.get(stream_id, 0) + size
            if self.eager:
                self.acknowledges(stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self.writable.discard(event.stream_id)
            self.readable.discard(event.stream_id)
        elif isinstance(event, (h2.events.TrailersReceived, h2.events.ResponseReceived)):
            if ("grpc-status", "14") in [(str(name), str(value)) for name, value in event.headers]:
                self.lost.add(event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.whole.add(event.stream_id)
            self.readable.discard(event.stream_id)

    def acknowledges(self, stream_id: int) -> None:
        size = self.unread.pop(stream_id, 0)
        if size:
            with contextlib.suppress(h2.exceptions.StreamClosedError):
                self.h2.acknowledge_received_data(size, stream_id)

    def opens(self, stream_id: int, number: int) -> None:
        self.numbers[stream_id] = number
        self.writable.add(stream_id)
        self.readable.add(stream_id)

    def open(self, pick: int) -> int:
        """One of the newest streams that this end may write, 0 if there is none."""
        ids = sorted(self.writable)[-4:]
        return ids[pick % len(ids)] if ids else 0

    def resets(self, stream_id: int, code: int) -> None:
        self.h2.reset_stream(stream_id, code)
        self.writable.discard(stream_id)
        self.readable.discard(stream_id)

    def sends_body(self, stream_id: int, number: int, size: int, end: bool) -> None:
        at = self.sent.get(stream_id, 0)
        size = max(0, min(size, self.h2.local_flow_control_window(stream_id)))
        octets = pattern(number, at, size)
        for cut in range(0, size, 16_384):
            self.h2.send_data(stream_id, octets[cut : cut + 16_384])
        if end:
            self.h2.end_stream(stream_id)
            self.writable.discard(stream_id)
        self.sent[stream_id] = at + size


class Life:
    """A relay with two clients and two instances."""

    def __init__(self, streams: int) -> None:
        self.relay = Relay("", streams=streams)
        self.calls = 0
        self.instances: list[End] = []
        self.asked: dict[int, int] = {}  # octets of each request that was completed, and of each response
        self.answered: dict[int, int] = {}
        self.relay.on_connect = self.connected
        self.streams = streams
        self.relay.applies("ab")
        self.clients = [End(self.relay.raw_client(), True) for _ in range(2)]
        self.settles()

    def connected(self, peer: Peer) -> None:
        end = End(peer, False)
        if self.streams:
            end.h2.update_settings({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: self.streams})
        # The harness has taken the relay's SETTINGS off; h2 needs to see the peer's before anything else.
        end.h2.receive_data(b"\0\0\6\4\0\0\0\0\0\0\1\0\0\0\0")
        self.instances.append(end)
        end.flush()

    def settles(self) -> None:
        """Let everyone read and answer until all is quiet."""
        for _ in range(20):
            before = [len(end.peer.wire.octets) for end in self.ends()]
            for end in self.ends():
                end.reads()
                if end.peer.is_finished():
                    end.peer.breaks()
                end.flush()
            if not any(before) and not any(end.peer.wire.octets for end in self.ends()):
                break
        self.relay.accounts()

    def ends(self) -> list[End]:
        return [*self.clients, *self.instances]

    def step(self, action: int, pick: int, size: int) -> None:
        client = self.clients[pick % 2]
        servers = [end for end in self.instances if not end.peer.gone]
        server = servers[size % len(servers)] if servers else None
        ACTIONS[action](self, client, server, pick, size)
        self.settles()

    def begins(self, client: End, server: End | None, pick: int, size: int) -> None:
        self.calls += 1
        stream_id = client.h2.get_next_available_stream_id()
        fields = [(":method", "POST"), (":scheme", "http"), (":path", f"/s/m{self.calls}"), (":authority", "x")]
        more = [("te", "trailers"), ("content-type", "application/grpc")]
        client.h2.send_headers(stream_id, [*fields, *more], end_stream=size % 5 == 0)
        client.opens(stream_id, self.calls)
        if size % 5 == 0:
            self.asked[self.calls] = 0
            client.writable.discard(stream_id)
        client.flush()

    def asks(self, client: End, server: End | None, pick: int, size: int) -> None:
        stream_id = client.open(pick)
        if stream_id:
            number = client.numbers[stream_id]
            client.sends_body(stream_id, number, size, pick % 3 == 0)
            if pick % 3 == 0:
                self.asked[number] = client.sent[stream_id]
            client.flush()

    def cancels(self, client: End, server: End | None, pick: int, size: int) -> None:
        ids = sorted(client.writable | client.readable)[-4:]
        if ids:
            client.resets(ids[pick % len(ids)], int(c.CANCEL))
            client.flush()

    def responds(self, client: End, server: End | None, pick: int, size: int) -> None:
        if server and (stream_id := server.open(pick)):
            number = server.numbers[stream_id]
            if stream_id not in server.sent:
                server.h2.send_headers(stream_id, HEAD)
            server.sends_body(stream_id, number, size, False)
            server.flush()

    def finishes(self, client: End, server: End | None, pick: int, size: int) -> None:
        if server and (stream_id := server.open(pick)):
            begun = stream_id in server.sent
            server.h2.send_headers(stream_id, [*([] if begun else HEAD), ("grpc-status", "0")], end_stream=True)
            server.writable.discard(stream_id)
            self.answered[server.numbers[stream_id]] = server.sent.get(stream_id, 0)
            server.flush()

    def refuses(self, client: End, server: End | None, pick: int, size: int) -> None:
        if server and (stream_id := server.open(pick)):
            server.resets(stream_id, CODES[size % len(CODES)])
            server.flush()

    def goes_away(self, client: End, server: End | None, pick: int, size: int) -> None:
        if server:
            last = sorted(server.numbers)[-2] if len(server.numbers) > 1 and pick % 2 else 1 << 30
            server.writable = {stream_id for stream_id in server.writable if stream_id <= last}
            server.peer.sends(goaway(last))

    def dawdles(self, client: End, server: End | None, pick: int, size: int) -> None:
        client.eager = not client.eager
        for end in self.ends():
            if end.eager:
                for stream_id in list(end.unread):
                    end.acknowledges(stream_id)

    def dawdles_too(self, client: End, server: End | None, pick: int, size: int) -> None:
        if server:
            self.dawdles(server, None, pick, size)

    def resizes(self, client: End, server: End | None, pick: int, size: int) -> None:
        end = server if server and pick % 3 else client
        end.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: (0, 10, 65_535, 200_000)[size % 4]})
        end.flush()

    def pauses(self, client: End, server: End | None, pick: int, size: int) -> None:
        end = server if server and pick % 2 else client
        if end.peer.conn.paused:
            end.peer.reads_on()
        else:
            end.peer.reads_nothing()

    def changes(self, client: End, server: End | None, pick: int, size: int) -> None:
        self.relay.applies(("ab", "a", "b", "ab")[size % 4])

    def breaks(self, client: End, server: End | None, pick: int, size: int) -> None:
        if server and pick % 2:
            server.peer.breaks()
        self.relay.passes(1 + size % 2)


ACTIONS: list[Callable[[Life, End, End | None, int, int], None]] = [
    Life.begins, Life.begins, Life.begins, Life.asks, Life.asks, Life.responds, Life.responds, Life.finishes,
    Life.finishes, Life.cancels, Life.refuses, Life.goes_away, Life.dawdles, Life.dawdles_too, Life.resizes,
    Life.pauses, Life.changes, Life.breaks,
]  # fmt: skip


def judged(life: Life) -> None:
    """What arrived is the beginning of what was sent, and all calls come to an end."""
    for end in life.ends():
        for stream_id, octets in end.got.items():
            if stream_id in end.numbers:
                assert octets == pattern(end.numbers[stream_id], 0, len(octets))
        sizes = life.asked if end in life.instances else life.answered
        for stream_id in end.whole - end.lost:
            assert len(end.got.get(stream_id, b"")) == sizes[end.numbers[stream_id]]
    for end in life.clients:
        assert not end.peer.is_finished(), end.peer.conn.fault
    for end in life.instances:
        assert end.peer.conn.fault == ""


@pytest.mark.parametrize("seed", range(24))
def test_any_life_of_calls_is_sound_http_2_on_both_sides(seed: int) -> None:
    dice = random.Random(seed)
    life = Life(streams=(0, 1, 3)[seed % 3])
    for _ in range(60):
        life.step(dice.randrange(len(ACTIONS)), dice.randrange(12), dice.randrange(40_000))
    judged(life)
    assert life.calls > 3
    life.relay.settle()
