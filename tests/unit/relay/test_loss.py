"""An instance or a client is lost: who is told what, and what is counted."""

from collections.abc import Callable

from proxy.http2 import constants as c
from tests.wire import END, PATH, Relay, answer, data, goaway, request, reset, response, settings, trailers, unary

Make = Callable[..., Relay]
LOST = (
    "grpc-status=14 grpc-message=service greeter: the connection to instance a at 127.0.0.1:1097 was lost: "
    "Connection reset by peer"
)


def test_a_lost_instance_is_unavailable(relay: Relay) -> None:
    client = relay.client().sends(unary(1))
    relay.instance("a").breaks("Connection reset by peer")
    assert client.sees() == [f"HEADERS 1 200 {LOST} END_STREAM"]
    assert relay.codes == {"Unavailable": 1}
    assert relay.counters.lost == {"connection_lost": 1}
    assert relay.pool("a").codes[14] == 1


def test_as_trailers_when_the_response_has_begun(relay: Relay) -> None:
    client = relay.client().sends(unary(1))
    relay.instance("a").sends(response(1), data(1, b"part")).breaks("Connection reset by peer")
    assert client.sees() == ["HEADERS 1 200", "DATA 1 part", f"HEADERS 1 {LOST} END_STREAM"]


def test_behind_data_that_waits(relay: Relay) -> None:
    client = relay.client(settings((int(c.INITIAL_WINDOW_SIZE), 2))).sends(unary(1))
    relay.instance("a").sends(response(1), data(1, b"part")).breaks("Connection reset by peer")
    assert client.sees() == ["HEADERS 1 200", "DATA 1 pa"]
    client.sends(settings((int(c.INITIAL_WINDOW_SIZE), 20)))
    assert client.sees() == ["SETTINGS ACK", "DATA 1 rt", f"HEADERS 1 {LOST} END_STREAM"]


def test_the_rest_of_the_request_is_not_asked_for(relay: Relay) -> None:
    client = relay.client().sends(request(1), data(1, b"part"))
    relay.instance("a").breaks("Connection reset by peer")
    assert client.sees() == [f"HEADERS 1 200 {LOST} END_STREAM", "RST_STREAM 1 NO_ERROR"]
    client.sends(data(1, b"late", END))
    assert client.sees() == []


def test_a_response_that_was_complete_stays_so(relay: Relay) -> None:
    client = relay.client(settings((int(c.INITIAL_WINDOW_SIZE), 2))).sends(request(1))
    relay.instance("a").sends(answer(1, b"whole")).breaks()
    client.sends(settings((int(c.INITIAL_WINDOW_SIZE), 20)))
    assert client.sees()[-3:] == ["DATA 1 ole", "HEADERS 1 grpc-status=0 END_STREAM", "RST_STREAM 1 NO_ERROR"]
    assert relay.codes == {"OK": 1}
    # One call, one code: not lost as well.
    assert sum(relay.pool("a").codes) == 1
    assert relay.counters.lost == {}


def test_a_lost_instance_is_dialled_at_once_and_then_with_patience(relay: Relay) -> None:
    relay.passes(5)
    relay.dialer.refuses.add("a")
    relay.instance("a").breaks("Connection reset by peer")
    for _ in range(3):
        relay.dialer.hangs = False
        relay.flush()
    first, *later = relay.dialer.delays[1:]
    assert first <= 0.05
    assert later == sorted(later)
    assert later[-1] > later[0]
    assert relay.pool("a").last_error == "Connection refused"


def test_a_broken_instance_counts_as_one_failure(relay: Relay) -> None:
    """The connection ends when the error is found; that its socket closes later is no second failure."""
    relay.passes(5)
    server = relay.instance("a")
    relay.dialer.hangs = True
    server.sends(b"\0\0\0\5\0\0\0\0\0")  # PUSH_PROMISE
    assert server.sees() == ["GOAWAY 0 PROTOCOL_ERROR PUSH_PROMISE, though push is off"]
    reason = relay.pool("a").last_error
    asked = len(relay.dialer.delays)
    server.breaks()
    assert relay.pool("a").last_error == reason
    assert len(relay.dialer.delays) == asked
    assert relay.counters.protocol_errors == {("upstream", "PROTOCOL_ERROR"): 1}


def test_garbage_from_an_instance_ends_its_calls(relay: Relay) -> None:
    client = relay.client().sends(unary(1))
    relay.dialer.hangs = True
    server = relay.instance("a").sends(b"\xff" * 8)  # a cut frame is no error yet
    assert client.sees() == []
    server.sends(b"\xff" * 30)
    assert "FRAME_SIZE_ERROR: a frame is longer than 16384 octets" in client.sees()[0]
    assert relay.codes == {"Unavailable": 1}


def test_an_instance_that_speaks_http_1_is_named_so(make: Make) -> None:
    relay = make("")
    relay.on_connect = lambda peer: peer.sends(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    relay.dialer.hangs = True
    relay.applies("a")
    (asked,) = relay.dialer.asked
    relay.dialer.asked = []
    relay._connect(asked[0])
    assert relay.pool("a").last_error == "HTTP_1_1_REQUIRED: the peer speaks HTTP/1, not gRPC"


def test_a_lost_client_cancels_its_calls(relay: Relay) -> None:
    client, other = relay.client(), relay.client()
    client.sends(request(1), unary(3))
    other.sends(unary(1))
    server = relay.instance("a")
    server.sees()
    client.breaks()
    assert server.sees() == ["RST_STREAM 1 CANCEL", "RST_STREAM 3 CANCEL"]
    assert relay.codes == {"Canceled": 2}
    server.sends(answer(1), answer(3), answer(5))
    assert other.sees("DATA") == ["DATA 1 hi"]


def test_a_client_that_breaks_the_protocol_hurts_itself_alone(relay: Relay) -> None:
    client, other = relay.client(), relay.client()
    client.sends(request(1))
    other.sends(unary(1))
    server = relay.instance("a")
    server.sees()
    client.sends(data(9, b"?"))
    assert client.sees() == ["GOAWAY 1 PROTOCOL_ERROR DATA for a stream that nobody opened"]
    assert client.is_finished()
    assert server.sees() == ["RST_STREAM 1 CANCEL"]
    server.sends(answer(3))
    assert other.sees("DATA") == ["DATA 1 hi"]
    assert relay.counters.protocol_errors == {("downstream", "PROTOCOL_ERROR"): 1}


def test_late_frames_of_a_stream_that_was_reset_are_dropped(relay: Relay) -> None:
    client = relay.client().sends(request(1), request(3))
    server = relay.instance("a")
    client.sends(reset(1))
    server.sees()
    server.sends(response(1), data(1, b"late"), trailers(1), reset(1))
    assert server.sees() == []
    server.sends(answer(3))
    assert client.sees("DATA") == ["DATA 3 hi"]


def test_a_client_is_asked_to_go_in_two_steps(relay: Relay) -> None:
    client = relay.client().sends(unary(1))
    client.conn.drain(relay.now)  # type: ignore[attr-defined]
    relay.flush()
    assert client.sees() == [f"GOAWAY {c.MAX_ID} NO_ERROR draining", "PING 0 b'draining'"]
    client.sends(unary(3), b"\0\0\x08\x06\1\0\0\0\0draining", unary(5))
    assert client.sees() == ["GOAWAY 3 NO_ERROR draining"]
    server = relay.instance("a")
    assert server.sees("HEADERS") == [f"HEADERS 1 POST {PATH}", f"HEADERS 3 POST {PATH}"]
    server.sends(answer(1))
    assert not client.is_finished()
    server.sends(answer(3))
    assert client.is_finished()
    assert client.sees("DATA") == ["DATA 1 hi", "DATA 3 hi"]


def test_a_client_that_does_not_answer_the_ping_is_drained_all_the_same(relay: Relay) -> None:
    client = relay.client()
    client.conn.drain(relay.now)  # type: ignore[attr-defined]
    relay.passes(3)
    assert client.sees("GOAWAY") == [f"GOAWAY {c.MAX_ID} NO_ERROR draining", "GOAWAY 0 NO_ERROR draining"]
    assert client.is_finished()


def test_a_clients_goaway_lets_its_calls_finish(relay: Relay) -> None:
    client = relay.client().sends(unary(1), goaway(0))
    relay.instance("a").sends(answer(1))
    assert client.sees("DATA") == ["DATA 1 hi"]
