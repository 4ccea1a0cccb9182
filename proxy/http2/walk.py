"""One pass over a header block: validates it and finds the few fields the relay acts on, building no strings.

RFC 7541 says how a block is coded, RFC 9113 section 8 what a message may hold. A block that passes and names
no dynamic entry means the same on any connection, so it is forwarded as the octets it came in.

Left to the endpoints on purpose: white space around values (section 8.2.1 calls it malformed, but gRPC peers do
send a grpc-message that ends in a space, and it harms nobody here).
"""

from typing import Final

from mypy_extensions import i64

from proxy.http2 import fields, huffman
from proxy.http2.fields import (
    CONTENT_LENGTH,
    CONTENT_TYPE,
    FIRST_DYNAMIC,
    FORBIDDEN,
    GRPC_STATUS,
    LAST_PSEUDO,
    METHOD,
    NAME_OCTETS,
    OTHER,
    PATH,
    PROBE,
    SPELLED,
    STATIC_KINDS,
    STATUS,
    TE,
    VALUE_OCTETS,
)

# Verdicts.
SOUND: Final[i64] = 0
CORRUPT: Final[i64] = 1  # cannot be decoded: COMPRESSION_ERROR for the connection, RFC 9113 section 4.3
MALFORMED: Final[i64] = 2  # decodes, but is no HTTP message: a stream error, section 8.1.1

# What a block is to be.
REQUEST: Final[i64] = 0
RESPONSE: Final[i64] = 1
TRAILERS: Final[i64] = 2

# The largest integer taken from a block; longer codings are refused rather than summed.
_INTEGER_LIMIT: Final[i64] = 1 << 28

_AUTHORITY_BIT: Final[i64] = 1 << fields.AUTHORITY
_METHOD_BIT: Final[i64] = 1 << fields.METHOD
_PATH_BIT: Final[i64] = 1 << fields.PATH
_SCHEME_BIT: Final[i64] = 1 << fields.SCHEME
_STATUS_BIT: Final[i64] = 1 << fields.STATUS
_REQUEST_BITS: Final[i64] = _METHOD_BIT | _PATH_BIT | _SCHEME_BIT

_STATIC_STATUS: Final[tuple[int, ...]] = (200, 204, 206, 304, 400, 404, 500)  # indexes 8 to 14


class BlockWalk:
    """The walk and what it found. One per connection, good until that connection's next block.

    `start` is where the fields begin, behind any size updates; `size_update` the last of those and `size_low`
    the lowest, or -1. `dynamic` says that the block names an entry of the dynamic table, `inserts` that it
    adds one. `path_at`, `path_end` and `type_at`, `type_end` bound the string literals of `:path` and
    content-type, length octets included (both 0 if absent); `path_index` is the static index of an indexed
    path. `status` and `grpc_status` are -1 if absent, `content_length` likewise. `list_size` is section
    10.5.1's size of the list, with strings counted as coded.
    """

    def __init__(self) -> None:
        self.start: i64 = 0
        self.size_update: i64 = -1
        self.size_low: i64 = -1
        self.dynamic = False
        self.inserts = False
        self.path_at: i64 = 0
        self.path_end: i64 = 0
        self.path_index: i64 = 0
        self.type_at: i64 = 0
        self.type_end: i64 = 0
        self.status: i64 = -1
        self.grpc_status: i64 = -1
        self.content_length: i64 = -1
        self.list_size: i64 = 0
        self.head = False
        self.connect = False
        self._seen: i64 = 0
        self._regular = False
        self._pos: i64 = 0
        self._malformed = False

    def _reset(self) -> None:
        self.size_update = -1
        self.size_low = -1
        self.dynamic = False
        self.inserts = False
        self.path_at = 0
        self.path_end = 0
        self.path_index = 0
        self.type_at = 0
        self.type_end = 0
        self.status = -1
        self.grpc_status = -1
        self.content_length = -1
        self.head = False
        self.connect = False
        self._seen = 0
        self._regular = False
        self._malformed = False

    def walk(self, block: bytes, kind: i64) -> i64:
        """Walk a whole block that is to be a REQUEST, RESPONSE or TRAILERS; the verdict."""
        self._reset()
        end: i64 = len(block)
        pos: i64 = self._size_updates(block, end)
        if pos < 0:
            return CORRUPT
        self.start = pos
        count: i64 = 0
        while pos < end:
            octet: i64 = block[pos]
            if octet >= 0x80:
                index: i64 = octet & 0x7F
                if index == 0x7F:
                    index = self._integer(block, pos + 1, end, 0x7F)
                    if index < 0:
                        return CORRUPT
                    pos = self._pos
                else:
                    pos += 1
                if index == 0:
                    return CORRUPT
                self._indexed(index)
            elif octet & 0xE0 == 0x20:
                return CORRUPT  # a size update behind a field, RFC 7541 section 4.2
            else:
                pos = self._literal(block, pos, end, octet)
                if pos < 0:
                    return CORRUPT
            count += 1
        self.list_size = 32 * count + end - self.start
        if self._malformed or not self._complete(kind):
            return MALFORMED
        return SOUND

    def _size_updates(self, block: bytes, end: i64) -> i64:
        """The position behind leading size updates, -1 for a bad one."""
        pos: i64 = 0
        while pos < end:
            octet: i64 = block[pos]
            if octet & 0xE0 != 0x20:
                break
            size: i64 = octet & 0x1F
            pos += 1
            if size == 0x1F:
                size = self._integer(block, pos, end, 0x1F)
                if size < 0:
                    return -1
                pos = self._pos
            # Two updates mean "shrink to the lowest, then grow", section 4.2.
            if self.size_low < 0 or size < self.size_low:
                self.size_low = size
            self.size_update = size
        return pos

    def _integer(self, block: bytes, pos: i64, end: i64, value: i64) -> i64:
        """The rest of an integer whose prefix was full; leaves the position behind it. -1 if cut or too large."""
        shift: i64 = 0
        while pos < end:
            octet: i64 = block[pos]
            pos += 1
            value += (octet & 0x7F) << shift
            if value > _INTEGER_LIMIT or shift > 28:
                return -1
            if octet < 0x80:
                self._pos = pos
                return value
            shift += 7
        return -1

    def _indexed(self, index: i64) -> None:
        if index >= FIRST_DYNAMIC:
            self.dynamic = True
            self._regular = True
            return
        kind: i64 = STATIC_KINDS[index]
        if kind == OTHER:
            self._regular = True
            return
        if kind > LAST_PSEUDO:
            # A static entry for one of these has an empty value.
            self._regular = True
            if kind == FORBIDDEN:
                self._malformed = True
            return
        self._pseudo(kind)
        if kind == STATUS:
            self.status = _STATIC_STATUS[index - 8]
        elif kind == PATH:
            self.path_index = index

    def _pseudo(self, kind: i64) -> None:
        """Pseudo-header fields come once each and ahead of the others. RFC 9113 section 8.3."""
        bit: i64 = 1 << kind
        if self._regular or self._seen & bit != 0:
            self._malformed = True
        self._seen |= bit

    def _literal(self, block: bytes, pos: i64, end: i64, octet: i64) -> i64:
        """A literal field; the position behind it, -1 if it cannot be decoded."""
        full: i64 = 0x0F
        if octet >= 0x40:
            full = 0x3F
            self.inserts = True
        index: i64 = octet & full
        pos += 1
        kind: i64 = OTHER
        if index == 0:
            name: i64 = pos
            pos = self._string(block, pos, end)
            if pos < 0:
                return -1
            kind = self._name(block, name, pos)
            if kind < 0:
                return -1
        else:
            if index == full:
                index = self._integer(block, pos, end, full)
                if index < 0:
                    return -1
                pos = self._pos
            if index < FIRST_DYNAMIC:
                kind = STATIC_KINDS[index]
            else:
                self.dynamic = True
        if kind > LAST_PSEUDO or kind == OTHER:
            self._regular = True
        else:
            self._pseudo(kind)
        value: i64 = pos
        pos = self._string(block, pos, end)
        if pos < 0:
            return -1
        if not self._value(block, self._pos, pos, block[value] >= 0x80):
            return -1
        if kind != OTHER:
            self._act(block, kind, value, pos)
        return pos

    def _string(self, block: bytes, pos: i64, end: i64) -> i64:
        """The position behind a string literal, -1 if it is cut; leaves where its octets begin."""
        if pos >= end:
            return -1
        octet: i64 = block[pos]
        length: i64 = octet & 0x7F
        if length == 0x7F:
            length = self._integer(block, pos + 1, end, 0x7F)
            if length < 0:
                return -1
        else:
            self._pos = pos + 1
        pos = self._pos + length
        if pos > end:
            return -1
        return pos

    def _name(self, block: bytes, at: i64, end: i64) -> i64:
        """Validate a name's octets and say what kind it is; -1 when its Huffman coding is unsound."""
        first: i64 = self._pos
        if first >= end:
            self._malformed = True
            return OTHER
        length: i64 = block[at]
        initial: i64 = block[first]
        candidate: i64 = PROBE[(length << 8) | initial]
        if candidate != 0:
            kind: i64 = SPELLED.get(block[at:end], OTHER)
            if kind != OTHER:
                return kind
        if length >= 0x80:
            flags: i64 = huffman.check(block, first, end)
            if flags & huffman.FAIL != 0:
                return -1
            if flags & huffman.BAD_NAME != 0:
                self._malformed = True
            return OTHER
        while first < end:
            allowed: i64 = NAME_OCTETS[block[first]]
            if allowed == 0:
                self._malformed = True
                return OTHER
            first += 1
        return OTHER

    def _value(self, block: bytes, pos: i64, end: i64, coded: bool) -> bool:
        """Validate a value's octets; False when its Huffman coding is unsound."""
        if coded:
            flags: i64 = huffman.check(block, pos, end)
            if flags & huffman.FAIL != 0:
                return False
            if flags & huffman.BAD_VALUE != 0:
                self._malformed = True
            return True
        while pos < end:
            allowed: i64 = VALUE_OCTETS[block[pos]]
            if allowed == 0:
                self._malformed = True
                return True
            pos += 1
        return True

    def _act(self, block: bytes, kind: i64, at: i64, end: i64) -> None:
        """Note what a field that matters says; `at` is its value's length octet."""
        if kind == PATH:
            self.path_at = at
            self.path_end = end
            if end - at <= 1:
                self._malformed = True
        elif kind == CONTENT_TYPE:
            self.type_at = at
            self.type_end = end
        elif kind == GRPC_STATUS:
            self.grpc_status = _number(block[at:end])
        elif kind == TE:
            if text(block[at:end]) != b"trailers":
                self._malformed = True
        elif kind == FORBIDDEN:
            self._malformed = True
        elif kind == STATUS:
            self.status = _number(block[at:end])
            if self.status < 100 or self.status > 999:
                self._malformed = True
        elif kind == METHOD:
            method = text(block[at:end])
            self.head = method == b"HEAD"
            self.connect = method == b"CONNECT"
        elif kind == CONTENT_LENGTH:
            length = _number(block[at:end])
            if length < 0 or (self.content_length >= 0 and self.content_length != length):
                self._malformed = True
            self.content_length = length

    def _complete(self, kind: i64) -> bool:
        """Whether the pseudo-header fields are those of such a message. RFC 9113 sections 8.1, 8.3, 8.5."""
        seen: i64 = self._seen
        if self.dynamic:
            return True  # judged once it is rewritten without references
        if kind == REQUEST:
            if self.connect:
                return seen & ~_AUTHORITY_BIT == _METHOD_BIT and seen & _AUTHORITY_BIT != 0
            return seen & ~_AUTHORITY_BIT == _REQUEST_BITS
        if kind == RESPONSE:
            return seen == _STATUS_BIT
        return seen == 0


def text(literal: bytes) -> bytes:
    """The octets of a string literal given with its length octets; empty when it is unsound."""
    first: i64 = literal[0]
    pos: i64 = 1
    if first & 0x7F == 0x7F:
        while pos < len(literal) and literal[pos] >= 0x80:
            pos += 1
        pos += 1
    if first < 0x80:
        return literal[pos:]
    return huffman.decode(literal[pos:]) or b""


def _number(literal: bytes) -> i64:
    """A string literal of up to 15 digits as a number, -1 for anything else."""
    if len(literal) == 2:
        octet: i64 = literal[1]
        if literal[0] == 1 and 0x30 <= octet <= 0x39:
            return octet - 0x30
    digits = text(literal)
    if not 1 <= len(digits) <= 15 or not digits.isdigit():
        return -1
    return int(digits)
