"""Calls from end to end: what the instance sees of the client's frames, and the client of the instance's."""

from collections.abc import Callable

from proxy.http2 import constants as c
from proxy.relay.counters import MAX_PATH
from tests.wire import (
    END,
    PATH,
    Relay,
    answer,
    data,
    frame,
    headers,
    request,
    request_fields,
    reset,
    response,
    settings,
    trailers,
    trailers_only,
    unary,
    window_update,
)

Make = Callable[..., Relay]


def test_a_unary_call_passes_frame_by_frame(relay: Relay) -> None:
    client = relay.client()
    server = relay.instance("a")
    client.sends(request(1, ("x-id", "7")), data(1, b"hello", END))
    assert server.sees() == [f"HEADERS 1 POST {PATH} x-id=7", "DATA 1 hello END_STREAM"]
    server.sends(response(1, ("x-served-by", "a")), data(1, b"hi"), trailers(1))
    assert client.sees() == [
        "HEADERS 1 200 x-served-by=a",
        "DATA 1 hi",
        "HEADERS 1 grpc-status=0 END_STREAM",
    ]
    assert relay.codes == {"OK": 1}
    assert relay.pool("a").codes[0] == 1


def test_ids_are_each_connections_own(relay: Relay) -> None:
    one, two = relay.client(), relay.client()
    server = relay.instance("a")
    one.sends(unary(7))
    two.sends(unary(1))
    assert server.sees("HEADERS") == [f"HEADERS 1 POST {PATH}", f"HEADERS 3 POST {PATH}"]
    server.sends(answer(3, b"two"), answer(1, b"one"))
    assert one.sees("DATA") == ["DATA 7 one"]
    assert two.sees("DATA") == ["DATA 1 two"]


def test_trailers_only_stays_one_frame(relay: Relay) -> None:
    client = relay.client().sends(unary(1))
    relay.instance("a").sends(trailers_only(1, 5, ("grpc-message", "none")))
    assert client.sees() == ["HEADERS 1 200 grpc-status=5 grpc-message=none END_STREAM"]
    assert relay.codes == {"NotFound": 1}


def test_the_client_half_closes_first(relay: Relay) -> None:
    client = relay.client().sends(request(1), data(1, b"", END))
    server = relay.instance("a")
    assert server.sees() == [f"HEADERS 1 POST {PATH}", "DATA 1 END_STREAM"]
    server.sends(response(1))
    server.sends(data(1, b"one"))
    server.sends(data(1, b"two"), trailers(1))
    assert client.sees() == ["HEADERS 1 200", "DATA 1 one", "DATA 1 two", "HEADERS 1 grpc-status=0 END_STREAM"]


def test_a_request_of_headers_alone(relay: Relay) -> None:
    relay.client().sends(request(1, flags=END))
    assert relay.instance("a").sees() == [f"HEADERS 1 POST {PATH} END_STREAM"]


def test_the_instance_closes_early_and_the_client_may_go_on(relay: Relay) -> None:
    client = relay.client().sends(request(1), data(1, b"one"))
    server = relay.instance("a").sends(trailers_only(1, 3))
    server.sees()
    assert client.sees() == ["HEADERS 1 200 grpc-status=3 END_STREAM"]
    client.sends(data(1, b"two"))
    assert server.sees() == ["DATA 1 two"]
    server.sends(reset(1, int(c.NO_ERROR)))
    assert client.sees() == ["RST_STREAM 1 NO_ERROR"]
    assert relay.codes == {"InvalidArgument": 1}
    assert relay.pool("a").open_calls == 0


def test_request_trailers_pass(relay: Relay) -> None:
    relay.client().sends(request(1), data(1, b"x"), headers(1, (("x-sum", "1"),), END))
    assert relay.instance("a").sees() == [
        f"HEADERS 1 POST {PATH}",
        "DATA 1 x",
        "HEADERS 1 x-sum=1 END_STREAM",
    ]


def test_unknown_fields_pass_untouched(relay: Relay) -> None:
    more = (("grpc-timeout", "1S"), ("grpc-future", "?"), ("blob-bin", "AAEC"), ("grpc-encoding", "gzip"))
    fields = request_fields(PATH, *more)
    relay.client().sends(headers(1, fields))
    server = relay.instance("a")
    assert server.sees() == [f"HEADERS 1 POST {PATH} " + " ".join(f"{name}={value}" for name, value in more)]


def test_a_request_without_te_passes_as_it_is(relay: Relay) -> None:
    fields = [field for field in request_fields() if field[0] != "te"]
    relay.client().sends(headers(1, fields))
    assert relay.instance("a").sees() == [f"HEADERS 1 POST {PATH}"]


def test_interim_responses_are_dropped(relay: Relay) -> None:
    client = relay.client().sends(unary(1))
    relay.instance("a").sends(headers(1, ((":status", "103"), ("link", "x"))), headers(1, ((":status", "100"),)))
    assert client.sees() == []
    relay.instance("a").sends(answer(1))
    assert client.sees("HEADERS") == ["HEADERS 1 200", "HEADERS 1 grpc-status=0 END_STREAM"]


def test_a_reset_of_the_instance_keeps_its_code(relay: Relay) -> None:
    client = relay.client()
    for number, name in enumerate(c.ERROR_NAMES):
        stream_id = 2 * number + 1
        client.sends(unary(stream_id))
        relay.instance("a").sends(response(stream_id), reset(stream_id, number))
        assert client.sees() == [f"HEADERS {stream_id} 200", f"RST_STREAM {stream_id} {name}"]
    assert sum(relay.codes.values()) == len(c.ERROR_NAMES)


def test_a_reset_of_the_client_keeps_its_code(relay: Relay) -> None:
    client = relay.client().sends(request(1), request(3))
    client.sends(reset(1, int(c.CANCEL)), reset(3, int(c.INTERNAL_ERROR)))
    assert relay.instance("a").sees("RST_STREAM") == ["RST_STREAM 1 CANCEL", "RST_STREAM 3 INTERNAL_ERROR"]
    assert relay.codes == {"Canceled": 1, "Internal": 1}
    assert client.sees() == []
    # As the instance was given the calls, they count for it as well.
    assert (relay.pool("a").codes[1], relay.pool("a").codes[13]) == (1, 1)


def test_a_call_that_is_cancelled_before_it_was_written_never_reaches_the_instance(relay: Relay) -> None:
    """Rapid reset ends here: CVE-2023-44487."""
    client = relay.client()
    server = relay.instance("a")
    client.sends(*[request(number) + reset(number) for number in range(1, 101, 2)])
    assert server.raw() == b""
    assert relay.codes == {"Canceled": 50}
    client.sends(unary(101), request(103) + reset(103), unary(105))
    assert [line.split()[:2] for line in server.sees("HEADERS", "RST_STREAM")] == [["HEADERS", "1"], ["HEADERS", "3"]]
    server.sends(answer(1), answer(3))
    assert client.sees("DATA") == ["DATA 101 hi", "DATA 105 hi"]
    client.sends(request(107)).sends(reset(107))
    assert server.sees("RST_STREAM") == ["RST_STREAM 5 CANCEL"]


def test_a_call_that_is_cancelled_behind_another_is_reset(relay: Relay) -> None:
    """What is not the end of the output cannot be taken back."""
    client = relay.client().sends(request(1), request(3), reset(1), reset(3), request(5))
    assert [line.split()[:2] for line in relay.instance("a").sees("HEADERS", "RST_STREAM")] == [
        ["HEADERS", "1"], ["HEADERS", "3"], ["RST_STREAM", "1"], ["RST_STREAM", "3"], ["HEADERS", "5"],
    ]  # fmt: skip
    client.sends(reset(5))


def test_frames_not_yet_written_are_dropped_when_the_client_cancels(relay: Relay) -> None:
    client = relay.client()
    server = relay.instance("a").sends(settings((int(c.INITIAL_WINDOW_SIZE), 4)))
    client.sends(request(1), data(1, b"12345678"))
    client.sends(reset(1))
    assert server.sees("DATA", "RST_STREAM") == ["DATA 1 1234", "RST_STREAM 1 CANCEL"]
    assert relay.budget.held == 0
    server.sends(window_update(1, 100))
    assert server.sees() == []


def test_the_reset_stays_behind_the_trailers(relay: Relay) -> None:
    client = relay.client(settings((int(c.INITIAL_WINDOW_SIZE), 4)))
    client.sends(request(1))
    relay.instance("a").sends(response(1), data(1, b"12345678"), trailers(1), reset(1, int(c.NO_ERROR)))
    assert client.sees() == ["HEADERS 1 200", "DATA 1 1234"]
    client.sends(window_update(1, 100))
    assert client.sees() == ["DATA 1 5678", "HEADERS 1 grpc-status=0 END_STREAM", "RST_STREAM 1 NO_ERROR"]


def test_a_reset_in_mid_response_drops_what_waits(relay: Relay) -> None:
    client = relay.client(settings((int(c.INITIAL_WINDOW_SIZE), 4)))
    client.sends(request(1))
    relay.instance("a").sends(response(1), data(1, b"12345678"), reset(1, int(c.INTERNAL_ERROR)))
    assert client.sees() == ["HEADERS 1 200", "DATA 1 1234", "RST_STREAM 1 INTERNAL_ERROR"]
    assert relay.budget.held == 0


def test_a_request_that_nobody_reads_ends_with_its_response(relay: Relay) -> None:
    """The client has all it wanted, and the instance does not read on: neither waits for the other. Section 8.1."""
    client = relay.client()
    server = relay.instance("a").sends(settings((int(c.INITIAL_WINDOW_SIZE), 4)))
    client.sends(request(1), data(1, b"12345678", END))
    server.sends(trailers_only(1, 3))
    assert client.sees() == ["HEADERS 1 200 grpc-status=3 END_STREAM"]
    assert server.sees("RST_STREAM") == ["RST_STREAM 1 NO_ERROR"]
    assert relay.pool("a").open_calls == 0
    assert relay.budget.held == 0


def test_padding_and_priority_are_stripped(relay: Relay) -> None:
    from tests.wire import END_HEADERS, PADDED, PRIORITIZED, block

    payload = b"\x03" + b"\x00\x00\x00\x00\x10" + block(request_fields()) + b"\0\0\0"
    relay.client().sends(
        frame(1, END_HEADERS | PADDED | PRIORITIZED, 1, payload), frame(0, PADDED | END, 1, b"\x02hello\0\0")
    )
    assert relay.instance("a").sees() == [f"HEADERS 1 POST {PATH}", "DATA 1 hello END_STREAM"]


def test_unknown_frames_are_ignored(relay: Relay) -> None:
    relay.client().sends(request(1), frame(0x42, 0xFF, 1, b"?"), data(1, b"x"))
    assert relay.instance("a").sees() == [f"HEADERS 1 POST {PATH}", "DATA 1 x"]


def test_a_malformed_response_is_the_calls_fault_alone(relay: Relay) -> None:
    client = relay.client().sends(unary(1), unary(3))
    server = relay.instance("a")
    server.sees()
    server.sends(headers(1, (("x", "no status"),)))
    assert server.sees() == ["RST_STREAM 1 PROTOCOL_ERROR"]
    assert client.sees() == ["RST_STREAM 1 PROTOCOL_ERROR"]
    server.sends(answer(3))
    assert client.sees("DATA") == ["DATA 3 hi"]


def test_content_length_is_held_to(relay: Relay) -> None:
    client = relay.client().sends(request(1, ("content-length", "3"))).sends(data(1, b"four"))
    assert client.sees() == ["RST_STREAM 1 PROTOCOL_ERROR"]
    assert relay.instance("a").sees("RST_STREAM") == ["RST_STREAM 1 CANCEL"]
    client.sends(request(3, ("content-length", "3")), data(3, b"ab", END))
    assert client.sees() == ["RST_STREAM 3 PROTOCOL_ERROR"]
    client.sends(request(5, ("content-length", "3")), data(5, b"abc", END))
    assert client.sees() == []


def test_the_code_of_a_response_that_is_not_grpc_is_that_of_its_http_status(make: Make) -> None:
    relay = make()
    client = relay.client()
    expected = {400: "Internal", 401: "Unauthenticated", 404: "Unimplemented", 503: "Unavailable", 418: "Unknown"}
    for number, status in enumerate(expected):
        stream_id = 2 * number + 1
        client.sends(unary(stream_id))
        relay.instance("a").sends(
            headers(stream_id, ((":status", str(status)), ("content-type", "text/html"))),
            data(stream_id, b"<p>", END),
        )
    assert relay.codes == dict.fromkeys(expected.values(), 1)
    client.sends(unary(99))
    relay.instance("a").sends(headers(11, ((":status", "200"),)), data(11, b"", END))
    assert relay.codes["Unknown"] == 2


def test_a_status_that_is_no_number_counts_as_unknown(relay: Relay) -> None:
    client = relay.client().sends(unary(1), unary(3))
    relay.instance("a").sends(headers(1, ((":status", "200"), ("grpc-status", "x")), END))
    relay.instance("a").sends(response(3), headers(3, (("grpc-status", "99"),), END))
    assert client.sees("HEADERS")[0] == "HEADERS 1 200 grpc-status=x END_STREAM"
    assert relay.codes == {"Unknown": 2}


def test_long_paths_are_not_remembered(relay: Relay) -> None:
    """Clients choose them, and a thousand of 60 KiB each would stay for ever."""
    longest = "/package." + "x" * (MAX_PATH - 16) + "/Method"
    for number, path in enumerate((longest, longest + "x")):
        relay.client().sends(unary(1, path=path))
        relay.instance("a").sends(answer(2 * number + 1))
    assert [row.grpc_method for row in relay.counters.rows] == ["_OTHER", "Method"]
    assert relay.counters.other.handled == 1
