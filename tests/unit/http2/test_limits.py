"""Every limit that keeps the relay alive: what is still allowed, and what happens one step further.

A hostile peer's connection ends; the instance's connection that others share does not.
"""

from collections.abc import Callable

import pytest

from proxy.http2 import constants as c
from proxy.http2 import limits
from proxy.http2.guard import Guard
from proxy.http2.limits import Bucket
from tests.wire import (
    END,
    END_HEADERS,
    PADDED,
    PATH,
    PRIORITIZED,
    Peer,
    Relay,
    answer,
    block,
    continuation,
    data,
    frame,
    goaway,
    headers,
    ping,
    priority,
    request,
    request_fields,
    reset,
    response,
    settings,
    settings_ack,
    unary,
    window_update,
)

Make = Callable[..., Relay]
CALM = "ENHANCE_YOUR_CALM"


def ended(peer: Peer) -> str:
    """The GOAWAY that ended the connection: its code and reason."""
    assert peer.is_finished(), "the connection is still open"
    (line,) = peer.sees("GOAWAY")
    return " ".join(line.split()[2:])


# Streams.


def test_more_streams_than_offered_are_refused(relay: Relay) -> None:
    client = relay.client()
    for number in range(limits.OFFERED_STREAMS):
        client.sends(request(2 * number + 1))
    assert client.sees() == []
    client.sends(request(2049))
    assert client.sees() == ["RST_STREAM 2049 REFUSED_STREAM"]
    client.sends(reset(1), request(2051))
    assert client.sees() == []


def test_new_streams_in_one_read_are_bounded(relay: Relay) -> None:
    """Even if each of them is reset at once: CVE-2023-44487."""
    client = relay.client()
    wave = [request(2 * number + 1) + reset(2 * number + 1) for number in range(limits.RESET_BURST)]
    client.sends(*wave)
    assert client.sees() == []
    client.sends(request(2001), reset(2001))
    assert ended(client) == f"{CALM} too many resets"


def test_resets_are_allowed_at_a_rate(relay: Relay) -> None:
    client = relay.client()
    stream_id = 1
    for _ in range(120):
        for _ in range(33):
            client.sends(request(stream_id), reset(stream_id))
            stream_id += 2
        relay.passes(1)
    assert not client.is_finished()


def test_an_instance_may_reset_as_often_as_it_likes(relay: Relay) -> None:
    client = relay.client()
    server = relay.instance("a")
    for number in range(1200):
        client.sends(unary(2 * number + 1))
        server.sends(reset(2 * number + 1, int(c.INTERNAL_ERROR)))
    assert not server.is_finished()


def test_malformed_messages_are_bounded(relay: Relay) -> None:
    """MadeYouReset: the relay's own resets count against the peer. CVE-2025-8671."""
    client = relay.client()
    for number in range(limits.FAULT_BURST):
        client.sends(headers(2 * number + 1, (("x", "no pseudo-header fields"),)))
    assert len(client.sees("RST_STREAM")) == limits.FAULT_BURST
    client.sends(headers(401, (("x", ""),)))
    assert ended(client) == f"{CALM} too many malformed messages"


@pytest.mark.parametrize(
    ("octets", "verdict"),
    [
        (window_update(1, 0), "PROTOCOL_ERROR WINDOW_UPDATE of 0"),
        (window_update(0, 0), "PROTOCOL_ERROR WINDOW_UPDATE of 0"),
        (window_update(1, 0x7FFF_FFFF), "FLOW_CONTROL_ERROR WINDOW_UPDATE overflows a stream's window"),
        (window_update(0, 0x7FFF_FFFF), "FLOW_CONTROL_ERROR WINDOW_UPDATE overflows the connection window"),
        (frame(2, 0, 1, b"1234"), "FRAME_SIZE_ERROR PRIORITY of a length other than 5"),
        (priority(1, 1), "PROTOCOL_ERROR a stream that depends on itself"),
        (priority(0), "PROTOCOL_ERROR PRIORITY on stream 0"),
        (data(1, b"", END) + data(1, b"x"), "STREAM_CLOSED DATA behind END_STREAM"),
        (data(1, b"", END) + headers(1, (("x", ""),), END), "STREAM_CLOSED HEADERS behind END_STREAM"),
        (frame(1, END_HEADERS | PRIORITIZED, 3, b"\0\0\0\3\0"), "PROTOCOL_ERROR a stream that depends on itself"),
    ],
)
def test_what_would_make_the_relay_reset_ends_the_connection(relay: Relay, octets: bytes, verdict: str) -> None:
    client = relay.client().sends(request(1))
    client.sends(octets)
    assert ended(client) == verdict


# Header blocks.


def test_continuations_are_bounded(relay: Relay) -> None:
    client = relay.client()
    octets = block(request_fields())
    client.sends(frame(1, END, 1, octets[:10]), *[continuation(1, b"")] * 7, continuation(1, octets[10:], END_HEADERS))
    assert client.sees() == []
    assert relay.instance("a").sees() == [f"HEADERS 1 POST {PATH} END_STREAM"]
    client.sends(frame(1, END, 3, octets), *[continuation(3, b"")] * 9)
    assert ended(client) == f"{CALM} too many CONTINUATION frames"


def test_a_header_list_that_is_too_long_is_a_stream_error(relay: Relay) -> None:
    client = relay.client()
    many = [(f"x-{number}", "v" * 10_000) for number in range(7)]
    octets = block(request_fields(PATH, *many))
    client.sends(
        frame(1, 0, 1, octets[:16_384]),
        *[continuation(1, octets[at : at + 16_384]) for at in range(16_384, 65_536, 16_384)],
        continuation(1, octets[65_536:], END_HEADERS),
    )
    assert client.sees() == ["RST_STREAM 1 PROTOCOL_ERROR"]
    assert relay.instance("a").sees() == []
    client.sends(unary(3))
    assert relay.instance("a").sees("DATA") == ["DATA 1 hello END_STREAM"]


def test_many_tiny_fields_count_with_their_overhead(relay: Relay) -> None:
    client = relay.client().sends(headers(1, block(request_fields()) + b"\x00\x01a\x00" * 1800))
    assert client.sees() == []
    client.sends(headers(3, block(request_fields()) + b"\x00\x01a\x00" * 1900))
    assert client.sees() == ["RST_STREAM 3 PROTOCOL_ERROR"]


def test_a_header_block_has_10_seconds(relay: Relay) -> None:
    client = relay.client().sends(frame(1, 0, 1, block(request_fields())))
    relay.passes(10)
    assert not client.is_finished()
    relay.passes(1)
    assert ended(client) == f"{CALM} a header block, SETTINGS or their acknowledgement took too long"


@pytest.mark.parametrize(
    "interruption", [data(3, b""), ping(), settings(), request(3), continuation(3, b""), frame(0x42, 0, 0)]
)
def test_a_header_block_is_contiguous(relay: Relay, interruption: bytes) -> None:
    client = relay.client().sends(request(3), frame(1, 0, 5, block(request_fields())), interruption)
    assert ended(client) == "PROTOCOL_ERROR a header block was interrupted by another frame"


# Frames that do nothing.


def test_empty_data_is_bounded(relay: Relay) -> None:
    client = relay.client().sends(request(1), *[data(1, b"")] * limits.EMPTY_FRAMES)
    client.sends(data(1, b"x"), *[data(1, b"")] * limits.EMPTY_FRAMES)
    assert not client.is_finished()
    client.sends(data(1, b""))
    assert ended(client) == f"{CALM} too many empty DATA frames"


def test_settings_entries_are_bounded(relay: Relay) -> None:
    client = relay.client().sends(settings(*[(0x99, 0)] * limits.SETTINGS_ENTRIES))
    assert client.sees() == ["SETTINGS ACK"]
    client.sends(settings(*[(0x99, 0)] * (limits.SETTINGS_ENTRIES + 1)))
    assert ended(client) == f"{CALM} too many settings"


@pytest.mark.parametrize("told", [ping(flags=1), settings_ack()])
def test_answers_to_nothing_are_bounded(relay: Relay, told: bytes) -> None:
    client = relay.client().sends(*[told] * (limits.GLITCH_BURST - 1))
    assert not client.is_finished()
    client.sends(told, told)
    assert ended(client) == f"{CALM} too many frames that do nothing"


@pytest.mark.parametrize(("asked", "verdict"), [(ping(), "too many PINGs"), (settings(), "too many settings")])
def test_replies_that_nobody_reads_are_bounded(relay: Relay, asked: bytes, verdict: str) -> None:
    """CVE-2019-9512, CVE-2019-9515."""
    client = relay.client()
    client.reads_nothing()
    client.sends(*[asked] * limits.QUEUED_REPLIES)
    assert not client.is_finished()
    client.sends(asked)
    assert ended(client) == f"{CALM} {verdict}"


def test_pings_are_answered_however_many_as_long_as_that_is_read(relay: Relay) -> None:
    """grpc-go measures the path with one for nearly every message, so thousands a second are no attack."""
    client, server = relay.client(), relay.instance("a")
    for _ in range(2 * limits.GLITCH_BURST // 500):
        client.sends(*[ping()] * 500)
        server.sends(*[ping()] * 500)
        assert client.raw() == server.raw() == ping(flags=1) * 500


def test_late_frames_of_an_instance_are_no_fault_of_its(relay: Relay) -> None:
    """Its clients reset those streams; the other calls there must not suffer."""
    client = relay.client()
    server = relay.instance("a")
    client.sends(request(1)).sends(reset(1), unary(3))
    server.sends(response(1), *[data(1, b"late")] * limits.GLITCH_BURST, *[reset(1)] * limits.GLITCH_BURST)
    assert not server.is_finished()
    server.sends(answer(3))
    assert client.sees("DATA") == ["DATA 3 hi"]


@pytest.mark.parametrize("notices", ["tick", "read"])
def test_control_output_that_nobody_reads_is_bounded(relay: Relay, notices: str) -> None:
    """Looked at each second, and ahead of all that the client asks for in the meantime."""
    client = relay.client(settings((int(c.INITIAL_WINDOW_SIZE), 0)))
    client.reads_nothing()
    server = relay.instance("a")
    long = [(f"x-{number}", "v" * 1000) for number in range(15)]
    stream_id = 1
    while client.conn.out_octets <= limits.QUEUED_CONTROL:
        client.sends(request(stream_id))
        server.sends(response(stream_id, *long))
        stream_id += 2
    assert not client.is_finished()
    if notices == "tick":
        relay.passes(1)
    else:
        client.sends(request(stream_id))
    assert "the peer does not read what it asks for" in ended(client)
    assert f"HEADERS {stream_id} " not in str(server.sees("HEADERS"))


def test_of_several_window_sizes_the_last_counts(relay: Relay) -> None:
    """Each would be a walk over all streams, 32 of them for 200 octets; those between are seen by nobody."""
    client = relay.client().sends(request(1), request(3), window_update(1, 0x7FFF_0000))
    key = int(c.INITIAL_WINDOW_SIZE)
    client.sends(settings((key, 0x7FFF_FFFF), (key, 7)))
    assert {stream.send_window for stream in client.conn.streams.all()} == {7, 0x7FFF_0007}
    client.sends(settings((key, 0x8000_0000), (key, 7)))
    assert ended(client) == "FLOW_CONTROL_ERROR INITIAL_WINDOW_SIZE above 2^31-1"


def test_priority_is_bounded_by_streams(relay: Relay) -> None:
    client = relay.client().sends(request(1))
    client.sends(*[priority(3)] * (2 * limits.PRIORITY_PER_STREAM))
    assert not client.is_finished()
    client.sends(priority(3))
    assert ended(client) == f"{CALM} too many PRIORITY frames"


def test_window_updates_are_bounded_by_streams_and_data(relay: Relay) -> None:
    client = relay.client().sends(request(1))
    client.sends(*[window_update(0, 1)] * (limits.WINDOW_UPDATES_FREE + limits.WINDOW_UPDATES_PER_STREAM))
    relay.instance("a").sends(response(1), data(1, b"x"))
    client.sends(*[window_update(1, 1)] * limits.WINDOW_UPDATES_PER_DATA)
    assert not client.is_finished()
    client.sends(window_update(1, 1))
    assert ended(client) == f"{CALM} too many WINDOW_UPDATE frames"


def test_other_oddities_are_bounded(relay: Relay) -> None:
    client = relay.client().sends(*[frame(0x42, 0, 0)] * (limits.GLITCH_BURST - 1))
    assert not client.is_finished()
    client.sends(frame(0x42, 0, 0))
    assert ended(client) == f"{CALM} too many frames that do nothing"


def test_late_frames_are_bounded(relay: Relay) -> None:
    client = relay.client().sends(request(1), reset(1))
    client.sends(*[reset(1)] * (limits.GLITCH_BURST - 1))
    assert not client.is_finished()
    client.sends(reset(1))
    assert ended(client) == f"{CALM} too many frames that do nothing"


# Time.


def test_the_preface_has_10_seconds(relay: Relay) -> None:
    client = relay.raw_client()
    client.sees()
    relay.passes(11)
    assert ended(client).startswith("PROTOCOL_ERROR")


def test_settings_are_to_be_acknowledged_within_40_seconds(relay: Relay) -> None:
    client = relay.raw_client()
    client.sends(c.PREFACE, settings())
    client.sees()
    relay.passes(40)
    assert not client.is_finished()
    relay.passes(1)
    assert ended(client).startswith("SETTINGS_TIMEOUT")


def test_an_instance_that_says_nothing_is_given_up(make: Make) -> None:
    relay = make("")
    relay.on_connect = lambda peer: None
    relay.applies("a")
    relay.dialer.hangs = True
    relay.passes(11)
    assert relay.pool("a").last_error.startswith("PROTOCOL_ERROR: a header block, SETTINGS or")


# Sizes and places.


@pytest.mark.parametrize(
    ("octets", "verdict"),
    [
        (frame(0, 0, 1, bytes(16_385)), "FRAME_SIZE_ERROR a frame is longer than 16384 octets"),
        (frame(3, 0, 1, b"123"), "FRAME_SIZE_ERROR RST_STREAM of a length other than 4"),
        (frame(4, 0, 0, b"1"), "FRAME_SIZE_ERROR SETTINGS of a length that is no multiple of 6"),
        (frame(4, 1, 0, bytes(6)), "FRAME_SIZE_ERROR a SETTINGS acknowledgement with a payload"),
        (frame(4, 0, 1), "PROTOCOL_ERROR SETTINGS on a stream"),
        (frame(6, 0, 0, b"1"), "FRAME_SIZE_ERROR PING of a length other than 8"),
        (frame(6, 0, 1, bytes(8)), "PROTOCOL_ERROR PING on a stream"),
        (frame(7, 0, 0, b"1"), "FRAME_SIZE_ERROR GOAWAY shorter than 8"),
        (frame(7, 0, 1, bytes(8)), "PROTOCOL_ERROR GOAWAY on a stream"),
        (frame(8, 0, 0, b"1"), "FRAME_SIZE_ERROR WINDOW_UPDATE of a length other than 4"),
        (frame(5, 0, 1, bytes(8)), "PROTOCOL_ERROR PUSH_PROMISE, though push is off"),
        (continuation(1, b""), "PROTOCOL_ERROR CONTINUATION without HEADERS"),
        (data(0, b""), "PROTOCOL_ERROR DATA for a stream that nobody opened"),
        (data(3, b""), "PROTOCOL_ERROR DATA for a stream that nobody opened"),
        (reset(3), "PROTOCOL_ERROR RST_STREAM for a stream that nobody opened"),
        (reset(0), "PROTOCOL_ERROR RST_STREAM for a stream that nobody opened"),
        (window_update(3, 1), "PROTOCOL_ERROR WINDOW_UPDATE for a stream that nobody opened"),
        (headers(0, request_fields()), "PROTOCOL_ERROR HEADERS on stream 0"),
        (request(2), "PROTOCOL_ERROR HEADERS for a stream that nobody opened"),
        (request(5) + request(3), "STREAM_CLOSED HEADERS behind END_STREAM"),
        (frame(0, PADDED, 1, b""), "FRAME_SIZE_ERROR padded DATA without a pad length"),
        (frame(0, PADDED, 1, b"\x05abcd"), "PROTOCOL_ERROR more padding than DATA"),
        (frame(1, PADDED, 3, b""), "FRAME_SIZE_ERROR padded HEADERS without a pad length"),
        (frame(1, PADDED, 3, b"\x05abcd"), "PROTOCOL_ERROR more padding than HEADERS"),
        (frame(1, PRIORITIZED, 3, b"1234"), "FRAME_SIZE_ERROR HEADERS too short for its padding and priority"),
        (settings((2, 2)), "PROTOCOL_ERROR ENABLE_PUSH is neither 0 nor 1, or a server's 1"),
        (settings((4, 1 << 31)), "FLOW_CONTROL_ERROR INITIAL_WINDOW_SIZE above 2^31-1"),
        (settings((5, 16_383)), "PROTOCOL_ERROR MAX_FRAME_SIZE out of range"),
        (settings((5, 1 << 24)), "PROTOCOL_ERROR MAX_FRAME_SIZE out of range"),
        (
            window_update(1, 0x7FFF_0000) + settings((4, 0x7FFF_FFFF)),
            "FLOW_CONTROL_ERROR INITIAL_WINDOW_SIZE overflows a stream's window",
        ),
    ],
)
def test_frames_of_the_wrong_size_or_in_the_wrong_place(relay: Relay, octets: bytes, verdict: str) -> None:
    client = relay.client().sends(request(1))
    client.sends(octets)
    assert ended(client) == verdict


def test_the_first_frame_is_settings(relay: Relay) -> None:
    client = relay.raw_client().sends(c.PREFACE, ping())
    assert ended(client) == "PROTOCOL_ERROR the first frame is not SETTINGS"


def test_data_beyond_a_streams_window(relay: Relay) -> None:
    relay.instance("a").sends(settings((int(c.INITIAL_WINDOW_SIZE), 0)))
    client = relay.client().sends(request(1), data(1, bytes(65_535)))
    assert not client.is_finished()
    client.sends(data(1, b"x"))
    assert ended(client) == "FLOW_CONTROL_ERROR DATA beyond the stream's window"


def test_an_instance_may_not_push(relay: Relay) -> None:
    server = relay.instance("a").sends(settings((2, 1)))
    assert ended(server).startswith("PROTOCOL_ERROR ENABLE_PUSH")


def test_nothing_is_read_behind_an_error(relay: Relay) -> None:
    client = relay.client().sends(window_update(0, 0), unary(1))
    client.sends(unary(3))
    assert relay.instance("a").sees() == []
    assert relay.in_flight == 0


def test_a_goaway_says_how_far_the_relay_got(relay: Relay) -> None:
    client = relay.client().sends(request(1), request(7), ping(), window_update(0, 0))
    assert client.sees()[-1] == "GOAWAY 7 PROTOCOL_ERROR WINDOW_UPDATE of 0"


def test_a_debug_text_in_goaway_is_no_matter(relay: Relay) -> None:
    client = relay.client().sends(unary(1))
    relay.instance("a").sends(goaway(1, 11, b"\xff too_many_pings"), answer(1))
    assert client.sees("DATA") == ["DATA 1 hi"]


def test_the_settings_that_are_offered(relay: Relay) -> None:
    client = relay.raw_client()
    assert client.sees() == []  # a client that speaks HTTP/1 must not see them
    client.sends(c.PREFACE)
    assert client.sees() == ["SETTINGS 1=0 3=1024 6=65536", "WINDOW_UPDATE 0 4128769"]


def test_pings_are_answered_with_their_octets(relay: Relay) -> None:
    client = relay.client().sends(ping(b"abcdefgh"), ping(b"ijklmnop", flags=1), settings_ack())
    assert client.raw() == ping(b"abcdefgh", flags=1)


# The pieces.


def test_a_bucket_refills() -> None:
    bucket = Bucket(2, 1.0)
    assert [bucket.take(10.0) for _ in range(3)] == [True, True, False]
    assert bucket.take(9.0) is False  # a clock that stands still gives nothing
    assert bucket.take(13.0) is True


def test_reset_streams_past_what_is_remembered_are_all_taken_for_reset() -> None:
    guard = Guard()
    last = 2 * limits.REMEMBERED_RESETS + 11
    for stream_id in range(5, last + 1, 2):
        guard.remember(stream_id)
    # 5, 7, 9 and 11 were forgotten: from there down, one that ended cannot be told from one that was reset.
    assert [guard.was_reset(number) for number in (3, 5, 11, 13, last)] == [True] * 5
    assert [guard.was_reset(number) for number in (0, last + 2)] == [False] * 2


def test_late_frames_of_more_streams_than_are_remembered(relay: Relay) -> None:
    """Clients that leave with thousands of streams must not cost others the connection they share."""
    count = limits.REMEMBERED_RESETS // limits.OFFERED_STREAMS + 1
    clients = [relay.client() for _ in range(count)]
    for client in clients:
        client.sends(*[request(2 * number + 1) for number in range(limits.OFFERED_STREAMS)])
    other = relay.client().sends(unary(1))
    for client in clients:
        client.breaks()
    server = relay.instance("a")
    server.sends(*[response(2 * number + 1) for number in range(count * limits.OFFERED_STREAMS)])
    assert not server.is_finished()
    server.sends(answer(2 * count * limits.OFFERED_STREAMS + 1))
    assert other.sees("DATA") == ["DATA 1 hi"]
