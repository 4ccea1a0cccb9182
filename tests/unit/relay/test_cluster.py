"""Instances come and go, have room or not; calls take turns, wait and give up."""

from collections.abc import Callable

from proxy.http2 import constants as c
from proxy.relay.cluster import MAX_WAITING
from proxy.relay.pool import MAX_CONNECTIONS
from tests.wire import END, PATH, Relay, answer, data, goaway, request, reset, response, settings, settings_ack, unary

Make = Callable[..., Relay]
STREAMS = int(c.MAX_CONCURRENT_STREAMS)


def calls_by_instance(relay: Relay) -> dict[str, int]:
    """Requests that came to each instance since the last look."""
    return {
        name: sum(line.startswith("HEADERS") for peer in peers for line in peer.sees("HEADERS"))
        for name, peers in sorted(relay.connections.items())
    }


# Turns.


def test_strict_turns_over_all_clients(make: Make) -> None:
    relay = make("abc")
    clients = [relay.client() for _ in range(7)]
    for number in range(30):
        for client in clients:
            client.sends(unary(2 * number + 1))
    assert calls_by_instance(relay) == {"a": 70, "b": 70, "c": 70}


def test_turns_go_on_through_changes(make: Make) -> None:
    relay = make("abc")
    client = relay.client()
    numbers = iter(range(1, 10_000, 2))

    def call(count: int) -> None:
        client.sends(*[unary(next(numbers)) for _ in range(count)])

    call(4)
    assert calls_by_instance(relay) == {"a": 2, "b": 1, "c": 1}
    relay.applies("abcd")
    call(7)
    assert calls_by_instance(relay) == {"a": 1, "b": 2, "c": 2, "d": 2}
    relay.applies("acd")  # it would be a's turn
    call(3)
    assert calls_by_instance(relay) == {"a": 1, "b": 0, "c": 1, "d": 1}
    relay.applies("acd", unroutable="b")
    call(3)
    assert calls_by_instance(relay) == {"a": 1, "b": 0, "c": 1, "d": 1}


def test_an_instance_without_a_connection_is_passed_over(make: Make) -> None:
    relay = make("ab")
    relay.dialer.refuses.add("a")
    relay.instance("a").breaks()
    relay.client().sends(unary(1), unary(3), unary(5))
    assert calls_by_instance(relay) == {"a": 0, "b": 3}


# Membership.


def test_every_instance_is_connected_before_the_first_call(make: Make) -> None:
    relay = make("abc")
    assert sorted(relay.connections) == ["a", "b", "c"]
    assert relay.dialer.delays == [0.0] * 3


def test_an_instance_that_leaves_keeps_its_streams(make: Make) -> None:
    relay = make("ab")
    client = relay.client().sends(request(1), data(1, b"one"))
    leaving = relay.instance("a")
    relay.applies("b")
    client.sends(unary(3), unary(5), data(1, b"two", END))
    assert leaving.sees() == [f"HEADERS 1 POST {PATH}", "DATA 1 one", "DATA 1 two END_STREAM"]
    assert calls_by_instance(relay) == {"a": 0, "b": 2}
    assert len(relay.cluster.endpoints) == 2
    leaving.sends(answer(1))
    assert client.sees("DATA") == ["DATA 1 hi"]
    assert leaving.sees() == ["GOAWAY 0 NO_ERROR"]
    leaving.breaks()
    assert [pool.instance.key for pool in relay.cluster.endpoints] == ["b"]


def test_an_instance_that_leaves_idle_is_closed_at_once(make: Make) -> None:
    relay = make("ab")
    relay.applies("b")
    assert relay.instance("a").sees() == ["GOAWAY 0 NO_ERROR"]
    assert relay.instance("a").is_finished()


def test_an_instance_that_left_is_not_dialled_again(make: Make) -> None:
    relay = make("ab")
    relay.applies("b")
    relay.instance("a").breaks()
    assert len(relay.connections["a"]) == 1
    assert len(relay.cluster.endpoints) == 1


def test_an_instance_that_closed_before_it_left_is_forgotten(make: Make) -> None:
    """As in every drain: maintenance, then the end of its connections, then deregistration."""
    relay = make("ab")
    relay.applies("b", unroutable="a")
    relay.instance("a").breaks()
    relay.applies("b")
    assert [pool.instance.key for pool in relay.cluster.endpoints] == ["b"]
    relay.applies("b", unroutable="c")  # never healthy
    relay.applies("b")
    assert [pool.instance.key for pool in relay.cluster.endpoints] == ["b"]


def test_a_dial_that_ends_after_the_instance_left_is_dropped(make: Make) -> None:
    relay = make("")
    relay.dialer.hangs = True
    relay.applies("a")
    relay.applies("")
    relay.dialer.hangs = False
    relay.flush()
    assert relay.connections == {}
    assert relay.cluster.endpoints == []


def test_an_instance_that_comes_back_serves_on_the_connection_it_has(make: Make) -> None:
    """However often its check flaps: long streams must not use its connections up."""
    relay = make("a")
    client = relay.client()
    for number in range(2 * MAX_CONNECTIONS):
        client.sends(request(2 * number + 1))
        relay.applies("", unroutable="a")
        relay.applies("a")
    assert len(relay.connections["a"]) == 1
    assert calls_by_instance(relay) == {"a": 2 * MAX_CONNECTIONS}


def test_connections_that_only_finish_old_streams_do_not_block_new_ones(relay: Relay) -> None:
    """As with servers that bound a connection's age and streams that last for hours."""
    client = relay.client()
    for number in range(2 * MAX_CONNECTIONS):
        client.sends(request(2 * number + 1))
        relay.instance("a", number).sends(goaway(1))
    assert len(relay.connections["a"]) == 2 * MAX_CONNECTIONS + 1
    client.sends(request(99))
    assert relay.instance("a", -1).sees() == [f"HEADERS 1 POST {PATH}"]


# Room.


def test_more_connections_when_streams_run_out(make: Make) -> None:
    relay = make(streams=2)
    client = relay.client()
    for number in range(2 * MAX_CONNECTIONS):
        client.sends(request(2 * number + 1))
    assert [peer.conn.streams.count for peer in relay.connections["a"]] == [2] * MAX_CONNECTIONS
    client.sends(request(101), request(103))
    assert len(relay.connections["a"]) == MAX_CONNECTIONS
    assert relay.cluster.waiting == 2
    assert client.sees() == []


def test_a_full_connection_that_stays_alone_gets_company_again(make: Make) -> None:
    """Servers close connections that are idle; one full of long streams must not be all that is left."""
    relay = make(streams=1)
    client = relay.client().sends(request(1))
    relay.instance("a", 1).sends(goaway(0))
    assert len(relay.connections["a"]) == 3
    relay.instance("a", 2).breaks()
    assert len(relay.connections["a"]) == 4
    client.sends(request(3))
    assert relay.cluster.waiting == 0
    assert relay.instance("a", 3).sees("HEADERS") == [f"HEADERS 1 POST {PATH}"]


def test_fewer_streams_by_settings(make: Make) -> None:
    relay = make(streams=100)
    client = relay.client().sends(request(1), request(3))
    relay.instance("a").sends(settings((STREAMS, 2)))
    client.sends(request(5))
    assert relay.cluster.waiting == 0
    assert relay.instance("a", 1).sees("HEADERS") == [f"HEADERS 1 POST {PATH}"]


def test_a_stream_that_ends_makes_room_for_the_oldest_that_waits(make: Make) -> None:
    relay = make(streams=1)
    client = relay.client()
    client.sends(*[request(2 * number + 1, flags=END) for number in range(MAX_CONNECTIONS)])
    client.sends(request(101, ("x", "1"), flags=END), request(103, ("x", "2"), flags=END))
    server = relay.instance("a", 3)
    server.sees()
    server.sends(answer(1))
    assert server.sees() == [f"HEADERS 3 POST {PATH} x=1 END_STREAM"]
    client.sends(reset(1))
    assert relay.instance("a").sees("HEADERS")[-1] == f"HEADERS 3 POST {PATH} x=2 END_STREAM"
    assert relay.cluster.waiting == 0


def test_what_waits_is_sent_whole_and_in_order(make: Make) -> None:
    relay = make("")
    client = relay.client().sends(request(1), data(1, b"one"), data(1, b"two"))
    client.sends(data(1, bytes(16_384)), data(1, b"", END))
    assert relay.budget.held == 6 + 16_384
    relay.applies("a")
    assert relay.instance("a").sees() == [
        f"HEADERS 1 POST {PATH}",
        "DATA 1 onetwo",
        "DATA 1 16384 octets",
        "DATA 1 END_STREAM",
    ]
    assert relay.budget.held == 6 + 16_384  # kept, in case it has to be sent again


def test_more_streams_by_settings(make: Make) -> None:
    relay = make(streams=1)
    relay.dialer.hangs = True
    client = relay.client().sends(request(1), request(3))
    assert relay.cluster.waiting == 1
    server = relay.instance("a")
    server.sees()
    server.sends(settings((STREAMS, 2)))
    assert server.sees() == ["SETTINGS ACK", f"HEADERS 3 POST {PATH}"]
    client.sends(reset(1), reset(3))


def test_the_queue_is_bounded(make: Make) -> None:
    relay = make("")
    clients = [relay.client(), relay.client()]
    for client in clients:
        client.sends(*[request(2 * number + 1) for number in range(MAX_WAITING // 2)])
    assert relay.cluster.waiting == MAX_WAITING
    clients[0].sends(request(5001, flags=END))
    assert clients[0].sees() == [
        "HEADERS 5001 200 grpc-status=14 grpc-message=service greeter: 1024 calls are waiting already; "
        "no instance is known END_STREAM"
    ]
    assert relay.counters.lost == {"queue_full": 1}


def test_calls_that_were_given_up_do_not_fill_the_queue(make: Make) -> None:
    relay = make("")
    relay.client().sends(request(1))
    client = relay.client()
    for number in range(900):
        client.sends(request(2 * number + 1), reset(2 * number + 1))
    assert relay.cluster.waiting == 1
    assert len(relay.cluster._queue) < 100


def test_a_client_that_leaves_takes_its_waiting_calls_along(make: Make) -> None:
    relay = make("")
    client, other = relay.client(), relay.client()
    client.sends(request(1), request(3))
    other.sends(request(1))
    client.breaks()
    assert relay.cluster.waiting == 1
    relay.applies("a")
    assert relay.instance("a").sees() == [f"HEADERS 1 POST {PATH}"]


def test_waiting_calls_of_a_client_that_leaves_are_not_sent_in_passing(make: Make) -> None:
    """Its calls that were sent leave places behind; a burst of requests and resets would look like an attack."""
    relay = make(streams=1)
    relay.dialer.hangs = True
    client, other = relay.client(), relay.client()
    client.sends(*[request(2 * number + 1) for number in range(100)])
    other.sends(request(1, ("x", "other")))
    server = relay.instance("a")
    server.sees()
    client.breaks()
    assert server.sees() == ["RST_STREAM 1 CANCEL", f"HEADERS 3 POST {PATH} x=other"]


def test_calls_pass_by_an_instance_that_does_not_read(make: Make) -> None:
    """A client's large headers must not end a connection that others share."""
    relay = make("ab")
    frozen = relay.instance("a")
    frozen.reads_nothing()
    long = [(f"x-{number}", "v" * 1000) for number in range(15)]
    client = relay.client()
    for number in range(400):
        client.sends(request(2 * number + 1, *long))
    assert frozen.conn.out_octets < 600_000
    relay.passes(1)
    assert not frozen.is_finished()
    relay.applies("a")
    client.sends(request(999))
    assert relay.cluster.waiting == 1
    frozen.reads_on()
    assert relay.cluster.waiting == 0
    assert frozen.sees("HEADERS")[-1] == f"HEADERS {2 * frozen.conn.streams.count - 1} POST {PATH}"


# Waiting and giving up.


def test_a_call_waits_until_an_instance_appears(make: Make) -> None:
    relay = make("")
    client = relay.client().sends(unary(1))
    relay.passes(4)
    assert client.sees() == []
    relay.applies("a")
    relay.instance("a").sends(answer(1))
    assert client.sees("DATA") == ["DATA 1 hi"]
    assert relay.codes == {"OK": 1}


def test_a_call_gives_up_when_none_appears(make: Make) -> None:
    relay = make("", wait=3.0)
    client = relay.client().sends(request(1))
    relay.passes(2)
    assert client.sees() == []
    relay.passes(1)
    assert client.sees() == [
        "HEADERS 1 200 grpc-status=14 grpc-message=service greeter: no instance is known END_STREAM",
        "RST_STREAM 1 NO_ERROR",
    ]
    assert relay.codes == {"Unavailable": 1}
    assert relay.counters.lost == {"no_instance": 1}


def test_the_message_says_which_instances_there_are(make: Make) -> None:
    relay = make("", wait=1.0)
    relay.dialer.refuses.add("a")
    relay.applies("a", unroutable="bc")
    client = relay.client().sends(request(1, flags=END))
    relay.passes(2)
    assert client.sees() == [
        "HEADERS 1 200 grpc-status=14 grpc-message=service greeter: 3 instances (2 critical, 1 passing but not "
        "connected), none takes the call; last error: a at 127.0.0.1:1097: Connection refused END_STREAM"
    ]


def test_calls_wait_for_busy_instances_as_long_as_their_clients_do(make: Make) -> None:
    relay = make(streams=1, wait=1.0)
    relay.dialer.hangs = True
    client = relay.client().sends(request(1), request(3))
    relay.passes(60)
    assert client.sees() == []
    assert relay.cluster.waiting == 1
    client.sends(reset(3))
    assert relay.cluster.waiting == 0


def test_an_instance_with_no_room_at_all_is_busy_too(make: Make) -> None:
    relay = make("")
    relay.first_settings = settings((STREAMS, 0)) + settings_ack()
    relay.applies("a")
    relay.client().sends(request(1))
    assert relay.cluster.waiting == 1
    assert len(relay.connections["a"]) == 1


# Redialling.


def test_an_instance_is_dialled_with_growing_patience(make: Make) -> None:
    relay = make("")
    relay.dialer.refuses.add("a")
    relay.applies("a")
    for _ in range(12):
        relay.dialer.hangs = False
        relay.flush()
    delays = relay.dialer.delays
    assert delays[:4] == [0.0, 0.05, 0.1, 0.2]
    assert delays[-1] == 5.0


def test_an_instance_that_closes_at_once_is_not_dialled_in_a_circle(make: Make) -> None:
    relay = make("")
    relay.dialer.hangs = True
    relay.applies("a")
    for _ in range(6):
        ((pool, _),) = relay.dialer.asked
        relay.dialer.asked = []
        relay._connect(pool)
        relay.instance("a", -1).breaks()
    assert relay.dialer.delays == [0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6]


def test_an_instance_that_is_up_again_is_dialled_without_patience(make: Make) -> None:
    relay = make("")
    relay.dialer.refuses.add("a")
    relay.applies("a")
    relay.applies("", unroutable="a")
    assert relay.dialer.hurried == []
    relay.applies("a")
    assert relay.dialer.hurried == [relay.pool("a")]


def test_ids_run_out_before_they_end(relay: Relay) -> None:
    client = relay.client()
    old = relay.instance("a")
    old.conn.last_local = 0x7FFF_0000 - 3
    client.sends(request(1))
    client.sends(request(3))
    assert old.sees("HEADERS") == [f"HEADERS {0x7FFF_0000 - 1} POST {PATH}", f"HEADERS {0x7FFF_0001} POST {PATH}"]
    client.sends(request(5))
    assert relay.instance("a", 1).sees("HEADERS") == [f"HEADERS 1 POST {PATH}"]


# What is not gRPC.


def test_a_request_that_is_not_grpc_gets_415(relay: Relay) -> None:
    from tests.wire import headers

    plain = ((":method", "POST"), (":path", "/"), (":scheme", "http"), ("content-type", "text/html"))
    client = relay.client().sends(headers(1, plain, END))
    text = "This is a gRPC proxy; content-type has to begin with application/grpc."
    assert client.sees() == ["HEADERS 1 415 content-type=text/plain; charset=utf-8", "DATA 1 71 octets END_STREAM"]
    assert len(text) + 1 == 71
    client.sends(headers(3, plain), data(3, b"more"))
    assert client.sees()[-1] == "RST_STREAM 3 NO_ERROR"
    client.sends(headers(5, plain[:3], END))
    assert client.sees("HEADERS") == ["HEADERS 5 415 content-type=text/plain; charset=utf-8"]
    assert relay.instance("a").sees() == []
    assert relay.codes == {"Unknown": 3}


def test_grpc_has_kinds(relay: Relay) -> None:
    from tests.wire import headers

    for number, kind in enumerate(("application/grpc+proto", "application/grpc;x=y", "application/grpc-web")):
        fields = ((":method", "POST"), (":path", PATH), (":scheme", "http"), ("content-type", kind))
        relay.client().sends(headers(2 * number + 1, fields, END))
    assert calls_by_instance(relay) == {"a": 3}


def test_any_request_passes_where_http2_is_relayed(make: Make) -> None:
    from tests.wire import headers

    relay = make(grpc=False)
    client = relay.client().sends(headers(1, ((":method", "GET"), (":path", "/x"), (":scheme", "http")), END))
    server = relay.instance("a")
    assert server.sees() == ["HEADERS 1 GET /x END_STREAM"]
    server.sends(headers(1, ((":status", "200"), ("content-length", "2"))), data(1, b"ok", END))
    assert client.sees() == ["HEADERS 1 200 content-length=2", "DATA 1 ok END_STREAM"]
    assert relay.codes == {"OK": 1}
    client.sends(headers(3, ((":method", "HEAD"), (":path", "/x"), (":scheme", "http")), END))
    server.sends(headers(3, ((":status", "200"), ("content-length", "2")), END))
    assert client.sees() == ["HEADERS 3 200 content-length=2 END_STREAM"]
    client.sends(headers(5, ((":method", "GET"), (":path", "/x"), (":scheme", "http"))))
    server.breaks()
    assert client.sees("HEADERS") == ["HEADERS 5 503 content-type=text/plain; charset=utf-8"]
    client.sends(headers(7, ((":method", "GET"), (":path", "/x"), (":scheme", "http")), END))
    relay.instance("a", 1).sends(response(1), data(1, b"part"))
    relay.instance("a", 1).breaks()
    assert client.sees("RST_STREAM")[-1] == "RST_STREAM 7 INTERNAL_ERROR"


HTTP_1 = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def test_http_1_is_answered_in_http_1(relay: Relay) -> None:
    for cut in range(1, len(HTTP_1)):
        client = relay.raw_client()
        client.sees()
        client.sends(HTTP_1[:cut])
        client.sends(HTTP_1[cut:])
        octets = client.raw()
        assert octets.startswith(b"HTTP/1.1 505 HTTP Version Not Supported\r\n"), HTTP_1[:cut]
        assert b"This port speaks gRPC" in octets
        assert client.is_finished()


def test_garbage_gets_goaway(relay: Relay) -> None:
    for garbage in (b"PRI * HTTP/2.0\r\n\r\nXX", b"HELLO\r\n", b"A" * 9000, b"\0" * 24):
        client = relay.raw_client()
        client.sees()
        client.sends(garbage)
        assert client.sees() == ["GOAWAY 0 PROTOCOL_ERROR the client preface is not HTTP/2's"]
        assert client.is_finished()


def test_tls_is_told_from_garbage(relay: Relay) -> None:
    client = relay.raw_client()
    client.sees()
    client.sends(b"\x16\x03\x01\x02\x00\x01")
    assert client.sees() == ["GOAWAY 0 PROTOCOL_ERROR TLS on a plain text port"]
