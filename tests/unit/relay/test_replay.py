"""What an instance provably did not process goes to another one: once, unseen by the client. RFC 9113 section 8.7."""

from collections.abc import Callable

import pytest

from proxy.http2 import constants as c
from tests.wire import (
    END,
    PADDED,
    PATH,
    Peer,
    Relay,
    answer,
    data,
    frame,
    goaway,
    headers,
    ping,
    request,
    reset,
    response,
    settings,
    trailers_only,
    unary,
    window_update,
)

Make = Callable[..., Relay]
CALL = [f"HEADERS 1 POST {PATH}", "DATA 1 hello END_STREAM"]
REFUSED = int(c.REFUSED_STREAM)


def credited(client: Peer) -> int:
    """What stream 1 was given since the last look."""
    lines = [line.split() for line in client.sees("WINDOW_UPDATE")]
    return sum(int(octets) for _, stream_id, octets in lines if stream_id == "1")


@pytest.fixture
def pair(make: Make) -> tuple[Relay, Peer, Peer, Peer]:
    """A relay with a client and two instances, of which the first has the client's call."""
    relay = make("ab")
    client = relay.client().sends(unary(1))
    first, second = relay.instances()
    assert first.sees() == CALL
    return relay, client, first, second


def test_a_refused_stream_goes_elsewhere(pair: tuple[Relay, Peer, Peer, Peer]) -> None:
    relay, client, first, second = pair
    first.sends(reset(1, REFUSED))
    assert second.sees() == CALL
    second.sends(answer(1))
    assert client.sees("HEADERS", "RST_STREAM") == ["HEADERS 1 200", "HEADERS 1 grpc-status=0 END_STREAM"]
    assert relay.counters.replays == {"refused_stream": 1}
    assert relay.codes == {"OK": 1}


def test_never_twice(pair: tuple[Relay, Peer, Peer, Peer]) -> None:
    relay, client, first, second = pair
    first.sends(reset(1, REFUSED))
    second.sends(reset(1, REFUSED))
    assert client.sees() == ["RST_STREAM 1 REFUSED_STREAM"]
    assert first.sees() == []
    assert relay.codes == {"Unavailable": 1}


def test_never_after_response_headers(pair: tuple[Relay, Peer, Peer, Peer]) -> None:
    _, client, first, second = pair
    first.sends(response(1), reset(1, REFUSED))
    assert client.sees() == ["HEADERS 1 200", "RST_STREAM 1 REFUSED_STREAM"]
    assert second.sees() == []


def test_never_for_another_code(pair: tuple[Relay, Peer, Peer, Peer]) -> None:
    _, client, first, second = pair
    first.sends(reset(1, int(c.CANCEL)))
    assert client.sees() == ["RST_STREAM 1 CANCEL"]
    assert second.sees() == []


def test_the_only_instance_is_asked_again(relay: Relay) -> None:
    relay.client().sends(unary(1))
    server = relay.instance("a")
    server.sends(reset(1, REFUSED))
    assert server.sees("HEADERS") == [f"HEADERS 1 POST {PATH}", f"HEADERS 3 POST {PATH}"]


def test_an_instance_at_its_stream_limit_is_asked_until_it_has_a_place(make: Make) -> None:
    """It counts streams longer than the relay does, so it gets a moment before each try; but not for ever."""
    relay = make("a", streams=1)
    relay.dialer.hangs = True  # no second connection
    client = relay.client().sends(unary(1))
    server = relay.instance("a")
    for number in range(1, 513, 2):
        assert server.sees("HEADERS") == [f"HEADERS {number} POST {PATH}"]
        server.sends(reset(number, REFUSED))
        assert server.sees() == []
        relay.dialer.crowded.pop().recover()
        relay.flush()
    assert relay.counters.replays == {"stream_limit": 256}
    server.sends(reset(513, REFUSED))
    assert client.sees() == ["RST_STREAM 1 REFUSED_STREAM"]


def test_what_is_above_the_last_id_goes_elsewhere(make: Make) -> None:
    relay = make("ab")
    client = relay.client()
    client.sends(unary(1), unary(3), unary(5))
    first, second = relay.instances()
    first.sees()
    second.sees()
    first.sends(goaway(1))
    assert second.sees() == ["HEADERS 3 POST " + PATH, "DATA 3 hello END_STREAM"]
    first.sends(answer(1))
    assert client.sees("DATA") == ["DATA 1 hi"]
    assert first.is_finished()
    second.sends(answer(1), answer(3))
    assert client.sees("DATA") == ["DATA 3 hi", "DATA 5 hi"]
    assert relay.counters.replays == {"goaway": 1}


def test_a_late_answer_above_the_last_id_hurts_nobody(make: Make) -> None:
    relay = make("ab")
    client = relay.client().sends(unary(1), unary(3), unary(5))
    first, _ = relay.instances()
    first.sends(goaway(1), reset(3, REFUSED), trailers_only(3, 14))
    client.sees()
    first.sends(answer(1))
    assert client.sees("DATA") == ["DATA 1 hi"]


def test_an_instance_drains_in_two_steps(pair: tuple[Relay, Peer, Peer, Peer]) -> None:
    relay, client, first, _ = pair
    first.sends(goaway(int(c.MAX_ID)), ping())
    assert first.sees() == ["PING ACK"]
    assert len(relay.connections["a"]) == 2  # the next connection is opened at once
    client.sends(unary(3), unary(5))
    assert first.sees() == []
    assert relay.instance("a", 1).sees("HEADERS") == [f"HEADERS 1 POST {PATH}"]
    first.sends(goaway(1), answer(1))
    assert client.sees("DATA") == ["DATA 1 hi"]
    assert first.sees() == ["GOAWAY 0 NO_ERROR"]
    assert first.is_finished()


def test_an_instance_that_stops_answers_cancelled_for_what_it_did_not_take(
    pair: tuple[Relay, Peer, Peer, Peer],
) -> None:
    relay, client, first, second = pair
    first.sends(goaway(int(c.MAX_ID)), trailers_only(1, 1))
    assert second.sees() == CALL
    assert client.sees() == []
    assert relay.counters.replays == {"cancelled_by_goaway": 1}


def test_the_stream_that_was_cancelled_is_let_go(make: Make) -> None:
    """The request was not complete, so nobody else would ever end that stream."""
    relay = make("ab")
    relay.client().sends(request(1), data(1, b"part"))
    first, second = relay.instances()
    first.sees()
    first.sends(goaway(int(c.MAX_ID)), trailers_only(1, 1))
    assert first.sees("RST_STREAM", "GOAWAY") == ["RST_STREAM 1 NO_ERROR", "GOAWAY 0 NO_ERROR"]
    assert first.is_finished()
    assert second.sees() == [f"HEADERS 1 POST {PATH}", "DATA 1 part"]


def test_cancelled_without_goaway_is_the_applications_word(pair: tuple[Relay, Peer, Peer, Peer]) -> None:
    _, client, first, second = pair
    first.sends(trailers_only(1, 1))
    assert client.sees() == ["HEADERS 1 200 grpc-status=1 END_STREAM"]
    assert second.sees() == []


def test_a_stream_goes_on_where_it_was_sent_again(make: Make) -> None:
    relay = make("ab")
    client = relay.client().sends(request(1), data(1, b"one"), data(1, b"two"))
    first, second = relay.instances()
    first.sends(reset(1, REFUSED))
    client.sends(data(1, b"three"), headers(1, (("x-sum", "3"),), END))
    assert "".join(second.sees("DATA", "HEADERS")) == "".join(
        [f"HEADERS 1 POST {PATH}", "DATA 1 onetwo", "DATA 1 three", "HEADERS 1 x-sum=3 END_STREAM"]
    )


def test_request_trailers_are_sent_again(make: Make) -> None:
    relay = make("ab")
    relay.client().sends(request(1), headers(1, (("x-sum", "0"),), END))
    first, second = relay.instances()
    first.sends(reset(1, REFUSED))
    assert second.sees() == [f"HEADERS 1 POST {PATH}", "HEADERS 1 x-sum=0 END_STREAM"]


def test_not_when_more_than_a_window_was_sent(make: Make) -> None:
    relay = make("ab")
    first, second = relay.instances()
    first.sends(window_update(0, 1 << 20), settings((int(c.INITIAL_WINDOW_SIZE), 1 << 20)))
    client = relay.client().sends(request(1), data(1, bytes(40_000)))
    assert relay.budget.held == 40_000  # kept in case it has to be sent again
    client.sends(data(1, bytes(40_000)))
    assert relay.budget.held == 0
    first.sends(reset(1, REFUSED))
    assert "RST_STREAM 1 REFUSED_STREAM" in client.sees()
    assert second.sees() == []


def test_nothing_is_kept_for_a_replay_once_memory_is_short(make: Make) -> None:
    relay = make("ab", budget=100_000)
    first, second = relay.instances()
    client = relay.client()
    # Two calls at the first instance, which takes nothing: what waits spends the budget.
    first.sends(settings((int(c.INITIAL_WINDOW_SIZE), 0)))
    client.sends(request(1), request(3), data(1, bytes(60_000)))
    assert relay.budget.spent()
    client.sends(data(3, b"x"))
    second.sends(reset(1, REFUSED))
    assert "RST_STREAM 3 REFUSED_STREAM" in client.sees()


def test_a_dribble_of_tiny_frames_is_kept_in_few_pieces(make: Make) -> None:
    relay = make("ab")
    client = relay.client().sends(request(1), *[data(1, b"x")] * 9000)
    first, second = relay.instances()
    first.sends(reset(1, REFUSED))
    assert [len(line) for line in second.sees("DATA")] == [len("DATA 1 4096 octets")] * 2 + [len("DATA 1 808 octets")]
    client.breaks()


def test_a_call_that_waits_again_takes_what_its_window_lets_in(relay: Relay) -> None:
    """Its window may have grown before, so more than a replay's worth can come."""
    server = relay.instance("a")
    server.sends(window_update(0, 1 << 20), settings((int(c.INITIAL_WINDOW_SIZE), 1 << 20)))
    client = relay.client().sends(request(1), data(1, bytes(65_535)))
    relay.dialer.hangs = True
    server.sends(goaway(0))
    allowed = credited(client)
    client.sends(data(1, bytes(allowed)))
    assert client.sees("GOAWAY", "RST_STREAM") == []
    relay.dialer.hangs = False
    relay.on_connect = lambda peer: peer.sends(
        settings((int(c.INITIAL_WINDOW_SIZE), 1 << 20)), window_update(0, 1 << 20)
    )
    relay.flush()
    again = relay.instance("a", 1)
    assert again.sees("HEADERS") == [f"HEADERS 1 POST {PATH}"]
    again.sees()


def test_padding_buys_a_waiting_call_no_room(make: Make) -> None:
    relay = make("")
    client = relay.client().sends(request(1))
    allowed = 65_535
    for _ in range(900):
        client.sends(frame(0, PADDED, 1, b"\xfex" + bytes(254)))
        allowed += credited(client) - 256
    assert allowed <= 65_535 - 900
    client.sends(data(1, bytes(allowed)))
    assert client.sees() == []
    client.sends(data(1, b"x"))
    assert client.sees() == ["GOAWAY 1 FLOW_CONTROL_ERROR DATA beyond the stream's window"]


def test_what_never_left_is_sent_elsewhere_when_the_connection_breaks(make: Make) -> None:
    relay = make("ab")
    first, second = relay.instances()
    first.reads_nothing()
    client = relay.client().sends(unary(1))
    first.breaks("Broken pipe")
    assert second.sees() == CALL
    second.sends(answer(1))
    assert client.sees("DATA") == ["DATA 1 hi"]
    assert relay.counters.replays == {"never_sent": 1}


def test_what_never_left_is_sent_again_without_limit(make: Make) -> None:
    relay = make("abc")
    client = relay.client()
    first, second, third = relay.instances()
    first.reads_nothing()
    second.reads_nothing()
    client.sends(unary(1))
    first.breaks()
    second.breaks()
    assert third.sees() == CALL


def test_a_client_that_cancels_while_its_call_waits_again(relay: Relay) -> None:
    client = relay.client().sends(unary(1))
    server = relay.instance("a")
    relay.dialer.hangs = True
    server.sends(goaway(0))
    assert relay.cluster.waiting == 1
    client.sends(reset(1))
    assert relay.cluster.waiting == 0
    assert relay.codes == {"Canceled": 1}
