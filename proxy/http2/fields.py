"""What the relay knows of header fields: the static table's names and values, and the names it acts on."""

from typing import Final

from mypy_extensions import i64

from proxy.http2 import huffman

# RFC 7541 appendix A; index 0 is not used.
STATIC: Final = (
    (b"", b""), (b":authority", b""), (b":method", b"GET"), (b":method", b"POST"), (b":path", b"/"),
    (b":path", b"/index.html"), (b":scheme", b"http"), (b":scheme", b"https"), (b":status", b"200"),
    (b":status", b"204"), (b":status", b"206"), (b":status", b"304"), (b":status", b"400"),
    (b":status", b"404"), (b":status", b"500"), (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"), (b"accept-language", b""), (b"accept-ranges", b""),
    (b"accept", b""), (b"access-control-allow-origin", b""), (b"age", b""), (b"allow", b""),
    (b"authorization", b""), (b"cache-control", b""), (b"content-disposition", b""),
    (b"content-encoding", b""), (b"content-language", b""), (b"content-length", b""),
    (b"content-location", b""), (b"content-range", b""), (b"content-type", b""), (b"cookie", b""),
    (b"date", b""), (b"etag", b""), (b"expect", b""), (b"expires", b""), (b"from", b""), (b"host", b""),
    (b"if-match", b""), (b"if-modified-since", b""), (b"if-none-match", b""), (b"if-range", b""),
    (b"if-unmodified-since", b""), (b"last-modified", b""), (b"link", b""), (b"location", b""),
    (b"max-forwards", b""), (b"proxy-authenticate", b""), (b"proxy-authorization", b""), (b"range", b""),
    (b"referer", b""), (b"refresh", b""), (b"retry-after", b""), (b"server", b""), (b"set-cookie", b""),
    (b"strict-transport-security", b""), (b"transfer-encoding", b""), (b"user-agent", b""), (b"vary", b""),
    (b"via", b""), (b"www-authenticate", b""),
)  # fmt: skip
FIRST_DYNAMIC: Final[i64] = 62

# Kinds of names that the relay acts on; OTHER passes unread. Pseudo-header fields come first, so that
# `kind <= LAST_PSEUDO` tells them apart, and each has a bit of its own in a mask of those seen.
OTHER: Final[i64] = 0
AUTHORITY: Final[i64] = 1
METHOD: Final[i64] = 2
PATH: Final[i64] = 3
SCHEME: Final[i64] = 4
STATUS: Final[i64] = 5
LAST_PSEUDO: Final[i64] = 5
FORBIDDEN: Final[i64] = 6  # connection-specific fields, RFC 9113 section 8.2.2
TE: Final[i64] = 7
CONTENT_LENGTH: Final[i64] = 8
CONTENT_TYPE: Final[i64] = 9
GRPC_STATUS: Final[i64] = 10

_KINDS: Final[dict[bytes, i64]] = {
    b":authority": AUTHORITY,
    b":method": METHOD,
    b":path": PATH,
    b":scheme": SCHEME,
    b":status": STATUS,
    b"connection": FORBIDDEN,
    b"keep-alive": FORBIDDEN,
    b"proxy-connection": FORBIDDEN,
    b"transfer-encoding": FORBIDDEN,
    b"upgrade": FORBIDDEN,
    b"te": TE,
    b"content-length": CONTENT_LENGTH,
    b"content-type": CONTENT_TYPE,
    b"grpc-status": GRPC_STATUS,
}


def _spelled() -> dict[bytes, i64]:
    """Each name's kind by its string literal as it stands in a block: length octet, then octets (section 5.2).

    A name has two spellings only, plain and Huffman, as the coding is unique; so encoded names compare.
    """
    spelled: dict[bytes, i64] = {}
    for name, kind in _KINDS.items():
        coded = huffman.encode(name)
        spelled[bytes([len(name)]) + name] = kind
        spelled[bytes([0x80 | len(coded)]) + coded] = kind
    return spelled


def _probe() -> bytes:
    """1 at (length octet << 8 | first octet) of every spelling: the cheap test before a look-up."""
    probe = bytearray(256 * 256)
    for spelling in SPELLED:
        probe[spelling[0] << 8 | spelling[1]] = 1
    return bytes(probe)


SPELLED: Final = _spelled()
PROBE: Final = _probe()
STATIC_KINDS: Final = bytes([_KINDS.get(name, OTHER) for name, _ in STATIC])
# 1 for an octet that a field name may hold, and for one that a field value may hold.
NAME_OCTETS: Final = bytes([1 if huffman.name_octet(octet) else 0 for octet in range(256)])
VALUE_OCTETS: Final = bytes([0 if octet in (0, 10, 13) else 1 for octet in range(256)])


def literal(name: bytes, value: bytes) -> bytes:
    """A field as a literal without indexing and without Huffman coding (RFC 7541 section 6.2.2)."""
    return b"\x00" + string(name) + string(value)


def string(text: bytes) -> bytes:
    """A string literal without Huffman coding (RFC 7541 section 5.2)."""
    return integer(len(text), 7, 0) + text


def integer(value: i64, bits: i64, first: i64) -> bytes:
    """An integer with a prefix of `bits` bits beside the bits of `first` (RFC 7541 section 5.1)."""
    top = (1 << bits) - 1
    if value < top:
        return bytes([first | value])
    out = bytearray([first | top])
    value -= top
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
