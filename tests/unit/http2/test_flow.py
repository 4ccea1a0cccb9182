"""Flow control between two hops: RFC 9113 section 5.2, and back-pressure stream by stream."""

from collections.abc import Callable

from proxy.http2 import constants as c
from proxy.http2 import limits
from tests.wire import (
    END,
    PADDED,
    Peer,
    Relay,
    data,
    frame,
    headers,
    request,
    reset,
    response,
    settings,
    trailers,
    unary,
    window_update,
)

Make = Callable[..., Relay]
INITIAL_WINDOW = int(c.INITIAL_WINDOW_SIZE)
WIDE = settings((INITIAL_WINDOW, 1 << 24)) + window_update(0, 1 << 24)


def credit(peer: Peer, stream_id: int) -> int:
    """What a stream (0: the connection) was given since the last look."""
    lines = [line.split() for line in peer.sees("WINDOW_UPDATE")]
    return sum(int(octets) for _, number, octets in lines if int(number) == stream_id)


def test_data_stops_at_the_streams_window(relay: Relay) -> None:
    client = relay.client(settings((INITIAL_WINDOW, 10)))
    client.sends(request(1))
    server = relay.instance("a").sends(response(1), data(1, b"0123456789abc"))
    assert client.sees("DATA") == ["DATA 1 0123456789"]
    assert relay.budget.held == 3
    client.sends(window_update(1, 2))
    assert client.sees("DATA") == ["DATA 1 ab"]
    client.sends(window_update(1, 5))
    assert client.sees("DATA") == ["DATA 1 c"]
    server.sends(trailers(1))
    assert client.sees() == ["HEADERS 1 grpc-status=0 END_STREAM"]


def test_data_stops_at_the_connections_window(relay: Relay) -> None:
    client = relay.client(settings((INITIAL_WINDOW, 1 << 20)))
    client.sends(request(1))
    relay.instance("a").sends(response(1), data(1, bytes(65_000)), data(1, bytes(1000)))
    client.sees()
    assert client.bodies[1] == 65_535
    client.sends(window_update(0, 400))
    assert client.sees() == ["DATA 1 400 octets"]
    client.sends(window_update(0, 400))
    assert client.sees() == ["DATA 1 65 octets"]


def test_a_window_may_go_negative(relay: Relay) -> None:
    client = relay.client().sends(request(1))
    server = relay.instance("a").sends(response(1), data(1, bytes(60)))
    client.sees()
    client.sends(settings((INITIAL_WINDOW, 50)))
    server.sends(data(1, bytes(40)))
    assert client.sees("DATA") == []
    client.sends(window_update(1, 10))
    assert client.sees("DATA") == []
    client.sends(window_update(1, 7))
    assert client.sees("DATA") == ["DATA 1 7 octets".replace("7 octets", "\0" * 7)]
    client.sends(settings((INITIAL_WINDOW, 100)))
    assert client.sees("DATA") == ["DATA 1 33 octets"]


def test_an_empty_end_needs_no_window(relay: Relay) -> None:
    client = relay.client(settings((INITIAL_WINDOW, 0))).sends(request(1))
    relay.instance("a").sends(response(1), data(1, b"", END))
    assert client.sees() == ["HEADERS 1 200", "DATA 1 END_STREAM"]


def test_end_stream_waits_behind_its_data(relay: Relay) -> None:
    server = relay.instance("a").sends(settings((INITIAL_WINDOW, 2)))
    relay.client().sends(request(1), data(1, b"abc"), data(1, b"de"), data(1, b"", END))
    assert server.sees("DATA") == ["DATA 1 ab"]
    server.sends(window_update(1, 100))
    assert server.sees("DATA") == ["DATA 1 cde END_STREAM"]


def test_connection_credit_comes_on_receipt_and_stream_credit_when_passed(relay: Relay) -> None:
    relay.instance("a").sends(settings((INITIAL_WINDOW, 0)))
    client = relay.client()
    half = int(limits.CONNECTION_WINDOW) // 2
    streams = half // 65_535 + 1
    client.sends(*[request(2 * number + 1) + data(2 * number + 1, bytes(65_535)) for number in range(streams)])
    updates = client.sees("WINDOW_UPDATE")
    assert len(updates) == 1
    assert updates[0].startswith("WINDOW_UPDATE 0 ")
    # Those that are read now get their credit back, and no other.
    relay.instance("a").sends(window_update(3, 65_535))
    assert client.sees("WINDOW_UPDATE") == ["WINDOW_UPDATE 3 65535"]


def test_a_slow_receiver_stalls_its_stream_alone(relay: Relay) -> None:
    client = relay.client(settings((INITIAL_WINDOW, 100)), window_update(0, 1 << 24))
    client.sends(request(1), request(3), window_update(3, 1 << 24))
    server = relay.instance("a").sends(response(1), response(3))
    sent = {1: 0, 3: 0}
    windows = {1: 65_535, 3: 65_535}
    for _ in range(200):
        for stream_id in (1, 3):
            piece = min(16_384, windows[stream_id])
            if piece:
                server.sends(data(stream_id, bytes(piece)))
                sent[stream_id] += piece
                windows[stream_id] -= piece
        for line in server.sees("WINDOW_UPDATE"):
            _, number, octets = line.split()
            if number != "0":
                windows[int(number)] += int(octets)
    client.sees()
    assert client.bodies == {1: 100, 3: 200 * 16_384}
    assert sent[1] == 65_535 + 100 or sent[1] == 65_535
    assert relay.budget.held == sent[1] - 100


def test_a_window_grows_to_4_mib_while_its_stream_drains(relay: Relay) -> None:
    client = relay.client(WIDE).sends(request(1))
    server = relay.instance("a").sends(response(1))
    room = 65_535
    rooms: list[int] = []
    while sum(rooms) < 12 << 20:
        for at in range(0, room, 131_072):  # a read at a time
            server.sends(data(1, bytes(min(131_072, room - at))))
            client.raw()
        room = credit(server, 1)
        rooms.append(room)
    assert rooms[0] == 2 * 65_535
    stream = server.conn.streams.get(1)
    assert stream is not None
    assert stream.window == limits.MAX_STREAM_WINDOW


def test_a_grown_window_is_not_refilled_past_its_start_while_octets_wait(relay: Relay) -> None:
    client = relay.client(settings((INITIAL_WINDOW, 200_000)), window_update(0, 1 << 24)).sends(request(1))
    server = relay.instance("a").sends(response(1), data(1, bytes(65_535)))
    room = credit(server, 1)
    assert room == 2 * 65_535
    server.sends(data(1, bytes(room)))
    more = credit(server, 1)
    server.sends(data(1, bytes(more)))
    assert relay.budget.held > 0
    client.sends(window_update(1, 150_000))
    assert relay.budget.held > 65_535
    assert credit(server, 1) == 0
    client.sends(window_update(1, 1 << 24))
    assert relay.budget.held == 0
    assert credit(server, 1) > 0


def test_padding_is_credited(relay: Relay) -> None:
    client = relay.client().sends(request(1))
    server = relay.instance("a").sends(WIDE)
    given = 0
    for _ in range(400):
        client.sends(frame(0, PADDED, 1, b"\xfex" + bytes(254)))
        given += credit(client, 1)
    server.sees()
    assert server.bodies[1] == 400
    assert 400 * 256 - 40_000 < given <= 400 * 256


def test_discarded_data_is_credited_to_the_connection(relay: Relay) -> None:
    client = relay.client().sends(request(1), reset(1), request(3))
    server = relay.instance("a").sends(reset(3))
    server.sees()
    client.sees()
    sent = given = 0
    while sent < limits.CONNECTION_WINDOW:
        client.sends(data(3, bytes(16_384)))
        sent += 16_384
        given += credit(client, 0)
    assert given >= sent // 2
    assert not client.is_finished()


def test_waiting_streams_take_turns_at_the_connections_window(relay: Relay) -> None:
    """One busy stream must not take each new window whole."""
    client = relay.client(settings((INITIAL_WINDOW, 1 << 24))).sends(request(1), request(3))
    server = relay.instance("a").sends(response(1), response(3))
    server.sends(data(1, bytes(65_535)))
    server.sends(data(1, bytes(credit(server, 1))), data(3, bytes(30_000)))
    client.sees()
    for _ in range(4):
        client.sends(window_update(0, 16_384))
        client.sees()
        server.sends(data(1, bytes(min(16_384, credit(server, 1)))))  # refilled as fast as it drains
    assert client.bodies[3] == 30_000


def test_nobody_gets_credit_while_too_much_is_held(make: Make) -> None:
    relay = make(budget=100_000)
    client = relay.client(WIDE, settings((INITIAL_WINDOW, 0))).sends(request(1), request(3), request(5))
    server = relay.instance("a").sends(response(1), response(3), response(5))
    server.sends(data(1, bytes(65_535)), data(3, bytes(65_535)))
    assert relay.budget.held == 2 * 65_535
    server.sees()
    client.sends(window_update(5, 1 << 20))
    server.sends(data(5, bytes(65_535)))
    assert credit(server, 5) == 0
    client.sends(window_update(1, 1 << 20), window_update(3, 1 << 20))
    server.sees()
    relay.passes(1)
    assert credit(server, 5) > 0


def test_a_paused_socket_holds_data_and_no_control_frames_are_lost(relay: Relay) -> None:
    client = relay.client().sends(request(1))
    client.reads_nothing()
    server = relay.instance("a").sends(response(1), data(1, b"one"), data(1, b"two"), trailers(1))
    assert relay.budget.held == 6
    assert client.sees() == []
    client.reads_on()
    assert client.sees() == ["HEADERS 1 200", "DATA 1 onetwo", "HEADERS 1 grpc-status=0 END_STREAM"]
    assert server.sees("RST_STREAM") == []


def test_one_flush_puts_out_no_more_than_its_share(relay: Relay) -> None:
    """What is past the output's mark waits in its stream and follows when the carrier has flushed."""
    wide = settings((INITIAL_WINDOW, 1 << 24)), window_update(0, 1 << 24)
    client = relay.client(*wide).sends(request(1))
    server = relay.instance("a").sends(response(1))
    server.conn.streams.get(1).receive_left = 1 << 22  # type: ignore[union-attr]
    server.sends(data(1, bytes(1 << 20)), trailers(1))
    lines = client.sees()
    assert client.bodies[1] == 1 << 20
    assert lines[-1] == "HEADERS 1 grpc-status=0 END_STREAM"


def test_frames_are_cut_for_a_window_and_joined_while_they_wait(relay: Relay) -> None:
    client = relay.client(settings((INITIAL_WINDOW, 3))).sends(request(1))
    relay.instance("a").sends(response(1), *[data(1, b"ab")] * 10)
    client.sends(window_update(1, 100))
    assert client.sees("DATA") == ["DATA 1 ab", "DATA 1 a", "DATA 1 b" + "ab" * 8]


def test_headers_too_long_for_a_frame_are_continued(relay: Relay) -> None:
    client = relay.client()
    long = headers(1, b"")  # a block of three frames
    fields = [(":status", "200"), *[(f"x-{number}", "v" * 1000) for number in range(40)]]
    client.sends(unary(1))
    from tests.wire import block, continuation

    octets = block(fields)
    parts = [octets[at : at + 16_384] for at in range(0, len(octets), 16_384)]
    assert long
    relay.instance("a").sends(
        frame(1, 0, 1, parts[0]), continuation(1, parts[1]), continuation(1, parts[2], int(c.FLAG_END_HEADERS))
    )
    lines = client.sees()
    assert lines[:2] == ["HEADERS 1 ...", "CONTINUATION 1 ..."]
    assert lines[2].startswith("CONTINUATION 1 200 x-0=v")
    assert client.blocks[-1][1:] == octets  # behind the one size update
