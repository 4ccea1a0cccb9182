"""The dynamic table (RFC 7541 section 2.3.2), for peers that use one in spite of SETTINGS_HEADER_TABLE_SIZE=0.

Also for every peer's first blocks, sent before it has seen that setting. Strings stay coded as they came, so
rewriting a block without references copies octets and never codes anything anew.
"""

from typing import Final

from mypy_extensions import i64

from proxy.http2.fields import FIRST_DYNAMIC, STATIC, integer
from proxy.http2.limits import HEADER_LIST
from proxy.http2.walk import text

DEFAULT_SIZE: Final[i64] = 4096
_OVERHEAD: Final[i64] = 32  # octets an entry counts beside its strings, section 4.1
_TOO_LONG: Final[i64] = 4 * HEADER_LIST


class _Entry:
    """A field: its name as a static index or else a string literal, its value as a string literal."""

    def __init__(self, index: i64, name: bytes, value: bytes) -> None:
        self.index = index
        self.name = name
        self.value = value
        name_octets: i64 = len(STATIC[index][0]) if index > 0 else len(text(name))
        self.size: i64 = name_octets + len(text(value)) + _OVERHEAD

    def literal(self, first: i64) -> bytes:
        """The field as a literal without indexing (`first` 0x00) or never indexed (0x10)."""
        if self.index > 0:
            return integer(self.index, 4, first) + self.value
        return bytes([first]) + self.name + self.value


class DynamicTable:
    """What one direction of one connection has stored."""

    def __init__(self) -> None:
        self.limit: i64 = DEFAULT_SIZE
        self._entries: list[_Entry] = []  # oldest first
        self._size: i64 = 0
        self._pos: i64 = 0

    def resize(self, limit: i64) -> None:
        """Take a size update that the caller has found to be allowed."""
        self.limit = limit
        self._evict(0)

    def rewrite(self, block: bytes, pos: i64) -> bytes | None:
        """The fields from `pos` on as a block that needs no table; None for a bad index or a block grown too long.

        The block has been walked before, so its integers and strings are known to be whole.
        """
        out: list[bytes] = []
        length: i64 = 0
        end: i64 = len(block)
        while pos < end:
            piece = self._field(block, pos)
            if piece is None:
                return None
            pos = self._pos
            out.append(piece)
            length += len(piece)
            if length > _TOO_LONG:
                return None
        return b"".join(out)

    def _field(self, block: bytes, pos: i64) -> bytes | None:
        first: i64 = block[pos]
        if first >= 0x80:
            index = self._integer(block, pos, 0x7F)
            if index < FIRST_DYNAMIC:
                return block[pos : self._pos]
            entry = self._entry(index)
            return None if entry is None else entry.literal(0)
        full: i64 = 0x3F if first >= 0x40 else 0x0F
        index = self._integer(block, pos, full)
        name = b""
        if index == 0:
            name = self._string(block)
        elif index >= FIRST_DYNAMIC:
            named = self._entry(index)
            if named is None:
                return None
            index = named.index
            name = named.name
        field = _Entry(index, name, self._string(block))
        if first >= 0x40:
            self._insert(field)
        return field.literal(0x10 if first & 0xF0 == 0x10 else 0)

    def _entry(self, index: i64) -> _Entry | None:
        back: i64 = index - FIRST_DYNAMIC + 1
        count: i64 = len(self._entries)
        if back > count:
            return None
        return self._entries[count - back]

    def _insert(self, entry: _Entry) -> None:
        self._evict(entry.size)
        if entry.size <= self.limit:
            self._entries.append(entry)
            self._size += entry.size

    def _evict(self, room: i64) -> None:
        gone = 0
        while gone < len(self._entries) and self._size + room > self.limit:
            self._size -= self._entries[gone].size
            gone += 1
        del self._entries[:gone]

    def _integer(self, block: bytes, pos: i64, full: i64) -> i64:
        value: i64 = block[pos] & full
        pos += 1
        if value == full:
            shift: i64 = 0
            octet: i64 = 0x80
            while octet >= 0x80:
                octet = block[pos]
                pos += 1
                value += (octet & 0x7F) << shift
                shift += 7
        self._pos = pos
        return value

    def _string(self, block: bytes) -> bytes:
        """The string literal at the current position, length octets and all."""
        at = self._pos
        length = self._integer(block, at, 0x7F)
        end: i64 = self._pos + length
        self._pos = end
        return block[at:end]
