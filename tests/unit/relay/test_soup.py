"""Whatever comes, cut wherever: nothing raises, and nothing is left behind."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from proxy.http2 import constants as c
from tests.wire import (
    END,
    Peer,
    Relay,
    answer,
    continuation,
    data,
    frame,
    frames,
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
    trailers,
    trailers_only,
    unary,
    window_update,
)

# A client's and an instance's part in three calls, as they would be recorded. Between the last call's beginning and its
# reset there is something for the instance, or it would depend on the cut whether the call ever left.
CLIENT = (
    c.PREFACE + settings() + settings_ack() + unary(1) + request(3) + data(3, b"a" * 300) + ping()
    + frame(0, 8, 3, b"\x05padded\0\0\0\0\0") + frame(1, 0, 5, b"\x83") + continuation(5, b"\x86\x04\x01/", 4)
    + headers(3, (("x-sum", "1"),), END) + reset(5)
)  # fmt: skip
SERVER = (
    answer(1, b"b" * 300) + response(3) + headers(5, ((":status", "103"),)) + frame(0x33, 0, 0, b"?")
    + data(3, b"x") + ping(b"abcdefgh") + trailers(3, 5, ("grpc-message", "none")) + window_update(0, 9)
)  # fmt: skip


def played(cut_client: int, cut_server: int) -> tuple[bytes, bytes, dict[str, int]]:
    """What both see when their octets come in two reads each, DATA joined as it may be cut anew."""
    relay = Relay(grpc=False)
    client = relay.raw_client()
    client.sends(CLIENT[:cut_client]).sends(CLIENT[cut_client:])
    server = relay.instance("a")
    server.sends(SERVER[:cut_server]).sends(SERVER[cut_server:])
    seen = joined(client), joined(server), relay.codes
    relay.settle()
    return seen


def joined(peer: Peer) -> bytes:
    """Frames as they came, with consecutive DATA frames of a stream made one."""
    out: list[list[object]] = []
    for kind, flags, stream_id, payload in frames(peer.raw()):
        if kind == 0 and out and out[-1][0] == 0 and out[-1][2] == stream_id:
            out[-1] = [0, flags, stream_id, bytes(out[-1][3]) + payload]  # type: ignore[call-overload]
        else:
            out.append([kind, flags, stream_id, payload])
    return repr(out).encode()


def test_octets_cut_at_every_place_give_the_same() -> None:
    whole = played(len(CLIENT), len(SERVER))
    assert sum(whole[2].values()) == 3
    for cut in range(len(CLIENT)):
        assert played(cut, len(SERVER)) == whole, f"client cut at {cut}"
    for cut in range(len(SERVER)):
        assert played(len(CLIENT), cut) == whole, f"instance cut at {cut}"


def test_octets_that_come_one_by_one() -> None:
    relay = Relay(grpc=False)
    client = relay.raw_client()
    for octet in CLIENT:
        client.sends(bytes([octet]))
    server = relay.instance("a")
    for octet in SERVER:
        server.sends(bytes([octet]))
    assert (joined(client), joined(server), relay.codes) == played(len(CLIENT), len(SERVER))
    relay.settle()


ids = st.sampled_from([0, 1, 1, 3, 3, 5, 7, 2, 0x7FFF_FFFF])
sizes = st.sampled_from([0, 1, 5, 300, 5000, 16_384, 40_000])
numbers = st.sampled_from([0, 1, 100, 65_535, 1 << 20, 0x7FFF_FFFF, 0xFFFF_FFFF])
flags = st.sampled_from([0, 0, END, END])
pieces = st.one_of(
    st.builds(lambda at, end: request(at, flags=end), ids, flags),
    st.builds(lambda at, end: response(at, flags=end), ids, flags),
    st.builds(lambda at, code: trailers(at, code), ids, st.sampled_from([0, 1, 14])),
    st.builds(lambda at, code: trailers_only(at, code), ids, st.sampled_from([0, 1, 14])),
    st.builds(lambda at, size, end: data(at, bytes(size), end), ids, sizes, flags),
    st.builds(reset, ids, st.sampled_from([0, 2, 7, 8, 99])),
    st.builds(lambda at, octets: window_update(at, octets & 0x7FFF_FFFF), ids, numbers),
    st.builds(lambda key, value: settings((key, value)), st.integers(1, 6), numbers),
    st.builds(goaway, ids, st.sampled_from([0, 11])),
    st.builds(priority, ids, ids),
    st.builds(ping),
    st.builds(lambda kind, flag, at, body: frame(kind, flag, at, body), st.integers(0, 10), st.integers(0, 255), ids,
              st.binary(max_size=20)),
    st.builds(lambda at, body: headers(at, body), ids, st.binary(max_size=20)),
    st.builds(lambda at: headers(at, (*request_fields(), ("content-length", "5"))), ids),
)  # fmt: skip
step: st.SearchStrategy[tuple[str, bytes]] = st.one_of(
    st.tuples(st.sampled_from(["client", "client", "other", "a", "a", "b"]), pieces),
    st.tuples(st.sampled_from(["a ok", "b ok", "breaks", "pauses", "resumes", "time", "leaves", "returns", "drains"]),
              st.just(b"")),
)  # fmt: skip


def act(relay: Relay, who: str, octets: bytes) -> None:
    """One step of the soup."""
    named: dict[str, Callable[[], object]] = {
        "client": lambda: relay.peers[2].sends(octets),
        "other": lambda: relay.peers[3].sends(octets),
        "a": lambda: relay.instance("a", -1).sends(octets),
        "b": lambda: relay.instance("b", -1).sends(octets),
        "a ok": lambda: answer_all(relay.instance("a", -1)),
        "b ok": lambda: answer_all(relay.instance("b", -1)),
        "breaks": relay.instance("a", -1).breaks,
        "pauses": relay.peers[2].reads_nothing,
        "resumes": relay.peers[2].reads_on,
        "time": lambda: relay.passes(2),
        "leaves": lambda: relay.applies("b"),
        "returns": lambda: relay.applies("ab"),
        "drains": lambda: relay.peers[3].conn.drain(relay.now),  # type: ignore[attr-defined]
    }
    named[who]()


def answer_all(peer: Peer) -> None:
    """The instance answers every stream it has."""
    peer.sends(*[answer(stream.id) for stream in peer.conn.streams.all()])


@budget(max_examples=150, deadline=None)
@given(st.lists(step, min_size=15, max_size=50), st.sampled_from([0, 1, 2]), st.sampled_from([None, 50_000]))
def test_any_soup_of_frames_leaves_nothing_behind(
    steps: list[tuple[str, bytes]], streams: int, memory: int | None
) -> None:
    relay = Relay("ab", streams=streams, budget=memory)
    relay.client()
    relay.client()
    for who, octets in steps:
        act(relay, who, octets)
        relay.accounts()
    relay.settle()


def test_calls_answered_and_settled_before_their_sockets_go() -> None:
    """The law holds while sockets are open, too: ordinary calls leave nothing."""
    relay = Relay("ab")
    client = relay.client()
    for number in range(50):
        client.sends(unary(2 * number + 1))
        for peer in relay.instances():
            answer_all(peer)
    assert relay.in_flight == 0
    assert relay.budget.held == 0
    assert [peer.conn.streams.count for peer in relay.peers] == [0, 0, 0]
    assert relay.codes == {"OK": 50}
    assert sum(sum(pool.codes) for pool in relay.cluster.endpoints) == 50
    relay.settle()
