"""Header compression without state: what is forwarded as it came, what is rewritten, and what is refused.

The oracle is python-hyper's hpack, and the vectors of RFC 7541 appendix C.
"""

from typing import Any

import hpack
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from proxy.http2 import huffman
from proxy.http2.fields import STATIC, integer, literal, string
from proxy.http2.table import DynamicTable
from proxy.http2.walk import CORRUPT, MALFORMED, REQUEST, RESPONSE, SOUND, TRAILERS, BlockWalk, text
from tests.wire import END, PATH, Relay, block, headers, request_fields, response, settings, settings_ack, unary

REQUEST_BLOCK = block(request_fields())
BAD = ["RST_STREAM 1 PROTOCOL_ERROR"]
UNDECODABLE = "GOAWAY 1 COMPRESSION_ERROR a header block cannot be decoded"


def forwarded(relay: Relay) -> bytes:
    """The last block that the instance got, behind the connection's one size update."""
    server = relay.instance("a")
    server.sees()
    octets = server.blocks[-1]
    return octets[1:] if len(server.blocks) == 1 else octets


# Verbatim.


def test_a_block_that_needs_no_table_passes_as_it_came(relay: Relay) -> None:
    huffman_path = b"\x04" + bytes([0x80 | len(huffman.encode(PATH.encode()))]) + huffman.encode(PATH.encode())
    never_indexed = b"\x10" + string(b"authorization") + string(b"secret")
    octets = b"\x83\x86" + huffman_path + b"\x01\x01x" + never_indexed + literal(b"content-type", b"application/grpc")
    relay.client().sends(headers(1, octets))
    server = relay.instance("a")
    server.sees()
    assert server.blocks == [b"\x20" + octets]


def test_only_the_first_block_of_a_connection_begins_with_our_size_update(relay: Relay) -> None:
    client = relay.client().sends(headers(1, REQUEST_BLOCK), headers(3, REQUEST_BLOCK))
    server = relay.instance("a").sends(response(1), response(3))
    server.sees()
    client.sees()
    assert server.blocks == [b"\x20" + REQUEST_BLOCK, REQUEST_BLOCK]
    assert [octets[:1] == b"\x20" for octets in client.blocks] == [True, False]


def test_leading_size_updates_are_stripped(relay: Relay) -> None:
    relay.client().sends(headers(1, b"\x3f\xe1\x1f\x20" + REQUEST_BLOCK))
    assert forwarded(relay) == REQUEST_BLOCK


def test_a_peer_that_obeys_is_forwarded_with_its_literals_for_indexing(relay: Relay) -> None:
    """grpcio does so: the receiver's table has no room, so the literal is one like any other."""
    octets = REQUEST_BLOCK + b"\x40" + string(b"x-id") + string(b"7")
    client = relay.client().sends(headers(1, b"\x20" + octets), headers(3, octets))
    assert forwarded(relay) == octets
    assert client.sees() == []


# Rewritten.


def test_until_the_peer_obeys_its_table_is_followed(relay: Relay) -> None:
    """.NET never sends a size update, and grpc-java's OkHttp once ignored the setting."""
    learns = REQUEST_BLOCK + b"\x40" + string(b"x-id") + string(b"7")
    client = relay.client().sends(headers(1, learns))
    assert forwarded(relay) == REQUEST_BLOCK + literal(b"x-id", b"7")
    client.sends(headers(3, REQUEST_BLOCK + b"\xbe"))
    assert forwarded(relay) == REQUEST_BLOCK + literal(b"x-id", b"7")
    client.sends(headers(5, b"\x20" + REQUEST_BLOCK))
    assert forwarded(relay) == REQUEST_BLOCK
    client.sends(headers(7, REQUEST_BLOCK + b"\xbe"))
    assert client.sees() == [UNDECODABLE.replace(" 1 ", " 7 ")]


def test_names_from_the_table_and_never_indexed_values(relay: Relay) -> None:
    client = relay.client().sends(headers(1, REQUEST_BLOCK + b"\x40" + string(b"x-key") + string(b"1")))
    client.sends(headers(3, REQUEST_BLOCK + b"\x1f\x2f" + string(b"secret") + b"\x0f\x2f" + string(b"plain")))
    assert forwarded(relay) == (
        REQUEST_BLOCK + b"\x10" + string(b"x-key") + string(b"secret") + literal(b"x-key", b"plain")
    )


def test_static_names_stay_indexed_when_rewritten(relay: Relay) -> None:
    client = relay.client().sends(headers(1, REQUEST_BLOCK + b"\x7a" + string(b"grpc-python")))
    client.sends(headers(3, REQUEST_BLOCK + b"\xbe"))
    assert forwarded(relay) == REQUEST_BLOCK + integer(58, 4, 0) + string(b"grpc-python")


def test_a_refused_request_is_decoded_all_the_same(relay: Relay) -> None:
    client = relay.client()
    client.sends(*[headers(2 * number + 1, REQUEST_BLOCK) for number in range(1024)])
    client.sends(headers(2049, REQUEST_BLOCK + b"\x40" + string(b"x-id") + string(b"7")))
    assert client.sees() == ["RST_STREAM 2049 REFUSED_STREAM"]
    client.sends(b"\0\0\4\3\0\0\0\0\1\0\0\0\x08")
    client.sends(headers(2051, REQUEST_BLOCK + b"\xbe"))
    assert forwarded(relay) == REQUEST_BLOCK + literal(b"x-id", b"7")


def test_a_malformed_request_is_decoded_all_the_same(relay: Relay) -> None:
    client = relay.client().sends(headers(1, b"\x40" + string(b"x-id") + string(b"7")))
    assert client.sees() == BAD
    client.sends(headers(3, REQUEST_BLOCK + b"\xbe"))
    assert forwarded(relay) == REQUEST_BLOCK + literal(b"x-id", b"7")


def test_an_instances_table_is_followed_too(relay: Relay) -> None:
    client = relay.client().sends(unary(1), unary(3))
    server = relay.instance("a")
    head = b"\x88" + b"\x40" + string(b"x-served-by") + string(b"a")
    server.sends(headers(1, head), headers(1, literal(b"grpc-status", b"0"), END), headers(3, b"\x88\xbe"))
    assert client.sees() == [
        "HEADERS 1 200 x-served-by=a",
        "HEADERS 1 grpc-status=0 END_STREAM",
        "HEADERS 3 200 x-served-by=a",
    ]


def test_a_smaller_table_evicts(relay: Relay) -> None:
    client = relay.client().sends(headers(1, REQUEST_BLOCK + b"\x40" + string(b"x-id") + string(b"7")))
    client.sends(headers(3, b"\x3f\x01" + REQUEST_BLOCK + b"\xbe"))  # to 32 octets: the entry has 37
    assert client.sees() == [UNDECODABLE.replace(" 1 ", " 3 ")]


def test_one_reference_may_not_blow_up_to_a_mountain(relay: Relay) -> None:
    client = relay.client().sends(headers(1, REQUEST_BLOCK + b"\x40" + string(b"x") + string(b"v" * 4000)))
    client.sends(headers(3, REQUEST_BLOCK + b"\xbe" * 40))
    assert client.sees() == ["RST_STREAM 3 PROTOCOL_ERROR"]
    client.sends(headers(5, REQUEST_BLOCK + b"\xbe" * 400))
    assert client.sees() == [UNDECODABLE.replace(" 1 ", " 5 ")]


# Refused: the connection.


@pytest.mark.parametrize(
    "tail",
    [
        b"\x80",  # index 0
        b"\xbe",  # nothing in the table
        b"\xff\xff\xff\xff\xff\xff\xff\x0f",  # an integer without end
        b"\xff",  # cut integers and strings
        b"\xff\x80",
        b"\x00",
        b"\x00\x01",
        b"\x00\x01x",
        b"\x00\x01x\x05abcd",
        b"\x00\x7f",
        b"\x0f",
        b"\x7f\xff\xff\xff\xff\xff",
        b"\x20",  # a size update behind fields
        b"\x00\x01x\x81\x00",  # Huffman padding of zeros
        b"\x00\x01x\x82\xff\xff",  # more than 7 bits of padding
        b"\x00\x01x\x84\xff\xff\xff\xfc",  # EOS
        b"\x00\x81\x00\x01x",  # in a name
    ],
)
def test_a_block_that_cannot_be_decoded_ends_its_connection(relay: Relay, tail: bytes) -> None:
    client = relay.client().sends(headers(1, REQUEST_BLOCK + tail))
    assert client.sees() == [UNDECODABLE]
    assert relay.instance("a").sees() == []


def test_a_size_update_above_what_was_allowed(relay: Relay) -> None:
    client = relay.client().sends(headers(1, b"\x21" + REQUEST_BLOCK))
    assert client.sees() == [UNDECODABLE]
    other = relay.raw_client()
    other.sees()
    other.sends(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", settings(), headers(1, b"\x3f\xe2\x1f" + REQUEST_BLOCK))
    assert other.sees("GOAWAY") == [UNDECODABLE]  # 4,097 before the acknowledgement


def test_before_the_acknowledgement_sizes_up_to_the_default_are_fine(relay: Relay) -> None:
    client = relay.raw_client()
    octets = b"\x20\x3f\xe1\x1f" + REQUEST_BLOCK + b"\x40" + string(b"x") + string(b"1")
    client.sends(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", settings(), headers(1, octets), settings_ack())
    client.sees()
    client.sends(headers(3, REQUEST_BLOCK + b"\xbe"))
    assert forwarded(relay) == REQUEST_BLOCK + literal(b"x", b"1")


# Refused: the stream. RFC 9113 sections 8.2 and 8.3.


def without(name: str) -> bytes:
    return block([field for field in request_fields() if field[0] != name])


@pytest.mark.parametrize(
    "octets",
    [
        REQUEST_BLOCK + literal(b"Upper", b"x"),
        REQUEST_BLOCK + b"\x00" + bytes([0x80 | len(huffman.encode(b"Upper"))]) + huffman.encode(b"Upper") + b"\x00",
        REQUEST_BLOCK + literal(b"", b"x"),
        REQUEST_BLOCK + literal(b"a b", b"x"),
        REQUEST_BLOCK + literal(b"x", b"a\0b"),
        REQUEST_BLOCK + literal(b"x", b"a\r\nb"),
        REQUEST_BLOCK + b"\x00\x01x" + bytes([0x80 | len(huffman.encode(b"\n"))]) + huffman.encode(b"\n"),
        REQUEST_BLOCK + literal(b":path", b"/late"),
        literal(b":path", b"/twice") + REQUEST_BLOCK,
        literal(b":status", b"200") + REQUEST_BLOCK,
        literal(b":new", b"x") + REQUEST_BLOCK,
        literal(b":path", b"") + without(":path"),
        without(":method"),
        without(":path"),
        without(":scheme"),
        REQUEST_BLOCK + literal(b"connection", b"close"),
        REQUEST_BLOCK + literal(b"transfer-encoding", b"chunked"),
        REQUEST_BLOCK + literal(b"te", b"gzip"),
        REQUEST_BLOCK + literal(b"content-length", b"x"),
        REQUEST_BLOCK + literal(b"content-length", b"1") + literal(b"content-length", b"2"),
        literal(b":method", b"CONNECT") + without(":method"),
    ],
)
def test_a_message_that_is_none_ends_its_stream(relay: Relay, octets: bytes) -> None:
    client = relay.client().sends(headers(1, octets))
    assert client.sees() == BAD
    assert relay.instance("a").sees() == []
    client.sends(unary(3))
    assert len(relay.instance("a").sees()) == 2


@pytest.mark.parametrize("octets", [literal(b":path", b"/"), literal(b"connection", b"x"), literal(b"X", b"")])
def test_trailers_are_held_to_the_same(relay: Relay, octets: bytes) -> None:
    client = relay.client().sends(headers(1, REQUEST_BLOCK)).sends(headers(1, octets, END))
    assert client.sees() == BAD
    assert relay.instance("a").sees()[-1] == "RST_STREAM 1 CANCEL"


def test_trailers_end_the_stream(relay: Relay) -> None:
    assert relay.client().sends(headers(1, REQUEST_BLOCK), headers(1, literal(b"x", b"1"))).sees() == BAD


@pytest.mark.parametrize("status", [b"20", b"99", b"1000", b"2xx", b""])
def test_a_response_has_a_status_of_three_digits(relay: Relay, status: bytes) -> None:
    client = relay.client().sends(unary(1))
    relay.instance("a").sends(headers(1, literal(b":status", status)))
    assert client.sees() == BAD


# The walk and the table by themselves.

# RFC 7541 appendix C.3 to C.6: blocks of one connection each, with the size of its table.
VECTORS = {
    "C.3": (4096, REQUEST, [
        "828684410f7777772e6578616d706c652e636f6d", "828684be58086e6f2d6361636865",
        "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
    ]),
    "C.4": (4096, REQUEST, [
        "828684418cf1e3c2e5f23a6ba0ab90f4ff", "828684be5886a8eb10649cbf",
        "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
    ]),
    "C.5": (256, RESPONSE, [
        "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e1768747470733a2f2f"
        "7777772e6578616d706c652e636f6d",
        "4803333037c1c0bf",
        "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d415344"
        "4a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31",
    ]),
    "C.6": (256, RESPONSE, [
        "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
        "4883640effc1c0bf",
        "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27"
        "087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", VECTORS)
def test_the_rfcs_own_vectors(name: str) -> None:
    size, kind, blocks = VECTORS[name]
    table, walk = DynamicTable(), BlockWalk()
    table.resize(size)
    stateful = hpack.Decoder()
    stateful.header_table_size = size
    for octets in map(bytes.fromhex, blocks):
        assert walk.walk(octets, kind) == SOUND
        rewritten = table.rewrite(octets, walk.start)
        assert rewritten is not None
        assert walk.walk(rewritten, kind) == SOUND
        assert not walk.dynamic
        assert hpack.Decoder().decode(rewritten) == stateful.decode(octets)


def test_what_the_walk_finds() -> None:
    walk = BlockWalk()
    octets = b"\x20" + block((*request_fields("/a.B/C"), ("content-length", "12")))
    assert walk.walk(octets, REQUEST) == SOUND
    assert text(octets[walk.path_at : walk.path_end]) == b"/a.B/C"
    assert text(octets[walk.type_at : walk.type_end]) == b"application/grpc"
    assert (walk.start, walk.size_update, walk.size_low, walk.content_length) == (1, 0, 0, 12)
    assert walk.walk(b"\x3f\xe1\x1f\x20\x3f\x01\x8d", RESPONSE) == SOUND
    assert (walk.status, walk.size_update, walk.size_low, walk.content_length) == (404, 32, 0, -1)
    assert walk.walk(block([("grpc-status", "14"), ("grpc-message", "ends in a space ")]), TRAILERS) == SOUND
    assert walk.grpc_status == 14
    for bad in ("x", "-1", "1" * 16):
        assert walk.walk(block([("grpc-status", bad)]), TRAILERS) == SOUND
        assert walk.grpc_status == -1


def test_static_entries_are_those_of_the_rfc() -> None:
    decoder = hpack.Decoder()
    for index in range(1, 62):
        assert decoder.decode(bytes([0x80 | index]), raw=True) == [STATIC[index]]


def test_huffman_codes_every_octet_like_the_oracle() -> None:
    from hpack.huffman import HuffmanEncoder
    from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

    encoder = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
    for octet in range(256):
        coded = encoder.encode(bytes([octet, octet]))
        assert huffman.encode(bytes([octet, octet])) == coded
        assert huffman.decode(coded) == bytes([octet, octet])
        flags = huffman.check(coded, 0, len(coded))
        assert (flags & huffman.BAD_VALUE != 0) == (octet in (0, 10, 13))
        assert flags & huffman.FAIL == 0


names = st.from_regex(r"[a-z0-9_.*-]{1,20}", fullmatch=True).filter(
    lambda name: (
        name not in {"te", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}
        and name != "content-length"
    )
)
values = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=60)
fields = st.lists(st.tuples(names, values, st.booleans()), max_size=12)


@budget(max_examples=60, deadline=None)
@given(st.lists(st.tuples(fields, st.booleans()), min_size=1, max_size=6), st.sampled_from([0, 64, 300, 4096]))
def test_blocks_of_an_encoder_mean_the_same_once_rewritten(
    blocks: list[tuple[list[tuple[str, str, bool]], bool]], size: int
) -> None:
    encoder, decoder = hpack.Encoder(), hpack.Decoder()
    table, walk = DynamicTable(), BlockWalk()
    if size != 4096:
        encoder.header_table_size = size
    for more, coded in blocks:
        usual: list[Any] = [hpack.HeaderTuple(name.encode(), value.encode()) for name, value in request_fields()]
        usual += [
            (hpack.NeverIndexedHeaderTuple if never else hpack.HeaderTuple)(name.encode(), value.encode("latin-1"))
            for name, value, never in more
        ]
        octets = encoder.encode(usual, huffman=coded)
        verdict = walk.walk(octets, REQUEST)
        assert verdict == SOUND or (walk.dynamic and verdict != CORRUPT)  # judged once it is rewritten
        if walk.size_update >= 0:
            table.resize(walk.size_update)
        rewritten = table.rewrite(octets, walk.start)
        assert rewritten is not None
        assert walk.walk(rewritten, REQUEST) == SOUND
        assert not walk.dynamic
        assert not walk.inserts
        got = hpack.Decoder().decode(rewritten, raw=True)
        expected = list(decoder.decode(octets, raw=True))
        assert got == expected
        assert [field.indexable for field in got] == [field.indexable for field in expected]


@budget(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([REQUEST, RESPONSE, TRAILERS]))
def test_any_octets_are_judged_as_the_oracle_does(octets: bytes, kind: int) -> None:
    """Whatever comes, the walk says something, and what it takes can be decoded."""
    verdict = BlockWalk().walk(octets, kind)
    assert verdict in (SOUND, CORRUPT, MALFORMED)
    decoder = hpack.Decoder()
    try:
        decoded: list[Any] | None = list(decoder.decode(octets, raw=True))
    except hpack.HPACKError:
        decoded = None
    walk = BlockWalk()
    again = walk.walk(octets, kind)
    if walk.dynamic or walk.size_update > 4096:
        return
    assert again == verdict
    assert (decoded is None) == (verdict == CORRUPT)


@budget(max_examples=300, deadline=None)
@given(st.binary(max_size=12))
def test_huffman_validity_is_the_oracles(octets: bytes) -> None:
    from hpack.huffman_table import decode_huffman

    try:
        expected: bytes | None = decode_huffman(octets)
    except hpack.HPACKDecodingError:
        expected = None
    assert huffman.decode(octets) == expected
    assert (huffman.check(octets, 0, len(octets)) & huffman.FAIL != 0) == (expected is None)


def test_a_walk_through_cut_blocks_never_raises() -> None:
    walk = BlockWalk()
    for blocks in (VECTORS["C.5"][2], VECTORS["C.6"][2]):
        for octets in map(bytes.fromhex, blocks):
            for end in range(len(octets)):
                assert walk.walk(octets[:end], RESPONSE) in (SOUND, CORRUPT, MALFORMED)
