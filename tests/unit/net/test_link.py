"""What moves octets between a socket and its connection: flush, pause, resume, stall, linger. Sockets are scripted."""

from collections.abc import Callable
from typing import Any, cast

import pytest

from proxy.balance.policy import RoundRobin
from proxy.http2 import constants as c
from proxy.http2.limits import Budget
from proxy.net.link import Hub
from proxy.net.links import ClientLink, ClientLinks, InstanceLink
from proxy.relay.cluster import Cluster
from proxy.relay.counters import Counters
from proxy.relay.pool import Dialer, Pool
from tests.wire import answer, data, instance, ping, request, response, settings, settings_ack, trailers, unary

SETUP = c.PREFACE + settings() + settings_ack()


class Loop:
    """An event loop as far as a hub goes."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self.later: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        assert 0 < seconds <= 0.01
        self.later.append(callback)

    def turns(self) -> None:
        """Run what was to be run soon, not what is to be run later."""
        while self.soon:
            self.soon.pop(0)()

    def waits(self) -> None:
        """Run what was to be run later, too."""
        while self.later:
            self.later.pop(0)()
        self.turns()


class Transport:
    """A socket that takes `room` octets; what is above stays in its buffer."""

    def __init__(self) -> None:
        self.link: ClientLink | InstanceLink | None = None
        self.writes: list[bytes] = []
        self.room = 1 << 30
        self.buffered = 0
        self.ended = False
        self.aborted = False

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        assert low < high

    def get_extra_info(self, name: str) -> object:
        return ("127.0.0.1", 1) if name == "peername" else None

    def write(self, octets: bytes) -> None:
        self.writelines([octets])

    def writelines(self, chunks: list[Any]) -> None:
        assert not self.ended, "written behind the end"
        octets = b"".join(chunks)
        self.writes.append(octets)
        self.buffered += max(0, len(octets) - self.room)
        self.room = max(0, self.room - len(octets))
        if self.buffered and self.link is not None:
            self.link.pause_writing()

    def write_eof(self) -> None:
        self.ended = True

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def abort(self) -> None:
        self.aborted = True

    def drains(self) -> None:
        self.buffered = 0
        self.room = 1 << 30
        assert self.link is not None
        self.link.resume_writing()


class Sidecar:
    """A hub with client links, one instance, and scripted sockets."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.hub = Hub(cast(Any, self.loop))
        self.counters = Counters()
        self.dialer = Dials()
        self.cluster = Cluster("x", RoundRobin(), self.dialer, Budget(), self.counters, 5.0)
        self.links = ClientLinks(self.hub, self.cluster, Budget(), self.counters, True)
        self.cluster.apply([instance("a")])
        (pool,) = self.dialer.pools
        self.server, self.server_socket = self.open(InstanceLink(self.hub, self.counters, pool))
        self.server.data_received(settings() + settings_ack())
        self.client, self.client_socket = self.open(self.links.link())
        self.client.data_received(SETUP)
        self.server_socket.writes.clear()
        self.client_socket.writes.clear()

    def open(self, link: Any) -> tuple[Any, Transport]:
        socket = Transport()
        socket.link = link
        link.connection_made(socket)
        self.loop.turns()
        return link, socket


class Dials(Dialer):
    def __init__(self) -> None:
        self.pools: list[Pool] = []

    def dial(self, pool: Pool, delay: float) -> None:
        self.pools.append(pool)


@pytest.fixture
def sidecar() -> Sidecar:
    return Sidecar()


def test_one_write_for_each_connection_and_read(sidecar: Sidecar) -> None:
    sidecar.client.data_received(unary(1) + unary(3) + unary(5))
    assert len(sidecar.server_socket.writes) == 1
    sidecar.server.data_received(answer(1) + answer(3) + answer(5))
    assert len(sidecar.client_socket.writes) == 1
    assert sidecar.client_socket.writes[0].endswith(answer(5))


def test_octets_are_counted(sidecar: Sidecar) -> None:
    before = sidecar.counters.downstream.read, sidecar.counters.upstream.written
    sidecar.client.data_received(unary(1))
    written = sum(map(len, sidecar.server_socket.writes))
    assert sidecar.counters.downstream.read - before[0] == len(unary(1))
    assert sidecar.counters.upstream.written - before[1] == written > 0


def test_the_answer_to_a_ping_rides_on_other_output(sidecar: Sidecar) -> None:
    sidecar.client.data_received(ping())
    assert sidecar.client_socket.writes == []
    sidecar.client.data_received(request(1))
    sidecar.server.data_received(response(1))
    (written,) = sidecar.client_socket.writes
    assert written.startswith(ping(flags=1))
    sidecar.loop.waits()
    assert len(sidecar.client_socket.writes) == 1


def test_or_goes_out_after_a_moment(sidecar: Sidecar) -> None:
    sidecar.client.data_received(ping() + ping())
    sidecar.loop.waits()
    assert sidecar.client_socket.writes == [ping(flags=1) * 2]


def test_a_full_socket_makes_data_wait(sidecar: Sidecar) -> None:
    sidecar.client.data_received(request(1))
    sidecar.client_socket.room = 0
    sidecar.server.data_received(response(1))
    assert len(sidecar.client_socket.writes) == 1
    sidecar.server.data_received(data(1, b"one"))
    sidecar.server.data_received(trailers(1))
    assert len(sidecar.client_socket.writes) == 1
    sidecar.client_socket.drains()
    assert sidecar.client_socket.writes[1:] == [data(1, b"one") + trailers(1)]


def test_much_output_goes_in_several_writes_while_the_socket_takes_it(sidecar: Sidecar) -> None:
    sidecar.client.data_received(
        settings((int(c.INITIAL_WINDOW_SIZE), 1 << 24)) + b"\0\0\4\x08\0\0\0\0\0\1\0\0\0" + request(1)
    )
    sidecar.client_socket.writes.clear()
    sidecar.server.conn.streams.get(1).receive_left = 1 << 22
    sidecar.server.data_received(response(1) + data(1, bytes(1 << 20)) + trailers(1))
    assert len(sidecar.client_socket.writes) > 1
    assert b"".join(sidecar.client_socket.writes).endswith(trailers(1))


def test_a_stalled_write_is_cut_after_20_seconds(sidecar: Sidecar) -> None:
    sidecar.client.data_received(request(1))
    sidecar.client_socket.room = 0
    sidecar.server.data_received(response(1))
    sidecar.client.tick(100.0)
    sidecar.client.tick(120.0)
    assert not sidecar.client_socket.aborted
    sidecar.client.tick(120.1)
    assert sidecar.client_socket.aborted


def test_a_slow_write_is_not(sidecar: Sidecar) -> None:
    sidecar.client.data_received(request(1))
    sidecar.client_socket.room = 0
    sidecar.server.data_received(response(1))
    for second in range(100):
        sidecar.client.tick(100.0 + second)
        sidecar.client_socket.buffered -= second % 10 == 0
    assert not sidecar.client_socket.aborted


def test_the_end_is_half_a_close_and_the_peer_has_2_seconds(sidecar: Sidecar) -> None:
    sidecar.client.data_received(b"\0\0\0\x09\0\0\0\0\1")
    assert sidecar.client_socket.ended
    assert b"CONTINUATION without HEADERS" in sidecar.client_socket.writes[-1]
    sidecar.client.data_received(unary(1))
    sidecar.client.tick(100.0)
    sidecar.client.tick(102.0)
    assert not sidecar.client_socket.aborted
    sidecar.client.tick(102.1)
    assert sidecar.client_socket.aborted


def test_a_connection_that_nobody_wants_any_more_is_closed_and_cut(sidecar: Sidecar) -> None:
    sidecar.cluster.apply([instance("b")])
    pool = sidecar.dialer.pools[-1]
    sidecar.cluster.apply([])
    link, socket = sidecar.open(InstanceLink(sidecar.hub, sidecar.counters, pool))
    assert socket.ended
    assert socket.writes == []
    link.tick(100.0)
    link.tick(103.0)
    assert socket.aborted


def test_what_is_left_is_written_even_into_a_full_socket_when_it_ends(sidecar: Sidecar) -> None:
    sidecar.client.data_received(request(1))
    sidecar.client_socket.room = 0
    sidecar.server.data_received(response(1))
    sidecar.client.data_received(b"\0\0\0\x09\0\0\0\0\1")
    assert b"CONTINUATION" in sidecar.client_socket.writes[-1]
    assert sidecar.client_socket.ended


def test_a_lost_client_is_forgotten(sidecar: Sidecar) -> None:
    emptied: list[bool] = []
    sidecar.links.on_empty = lambda: emptied.append(True)
    sidecar.client.data_received(unary(1))
    assert sidecar.client.open_calls == 1
    sidecar.client.connection_lost(None)
    assert emptied == [True]
    assert len(sidecar.hub.links) == 1
    sidecar.server.data_received(answer(1))
    sidecar.client.flush()
    assert sidecar.client_socket.writes == []


def test_a_client_accepted_as_the_drain_begins_is_drained_too(sidecar: Sidecar) -> None:
    """The kernel's word of it can come a turn later than the signal; nobody else would tell it to go."""
    sidecar.links.drain(1000.0)
    late, socket = sidecar.open(sidecar.links.link())
    assert b"draining" in b"".join(socket.writes)
    late.data_received(SETUP + ping(b"draining", flags=1))
    assert socket.ended


def test_the_hub_cuts_all(sidecar: Sidecar) -> None:
    sidecar.hub.close()
    assert sidecar.client_socket.aborted
    assert sidecar.server_socket.aborted


def test_a_tick_reaches_every_link(sidecar: Sidecar) -> None:
    sidecar.links.drain(0.0)
    sidecar.loop.turns()
    sidecar.hub.tick()
    assert b"draining" in sidecar.client_socket.writes[-1]
