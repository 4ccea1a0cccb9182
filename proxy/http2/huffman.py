"""The static Huffman code of RFC 7541 appendix B: an automaton that validates, and a slow way to decode.

The relay forwards encoded strings as they came, so on the hot path it only has to know that a string is
sound. `AUTOMATON` takes one octet a step: entry (state << 8 | octet) holds the next state and what that
octet gave away. The code is canonical (section 5.2), so its lengths alone define it.
"""

from array import array
from typing import Final

from librt.strings import read_i16_le
from mypy_extensions import i64

# Bits in each symbol's code; index 256 is EOS.
_LENGTHS: Final = (
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6,
    6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7,
    8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15,
    11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23,
    23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21,
    22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27,
    26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23,
    22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
)  # fmt: skip
_EOS: Final = 256

# What an automaton entry says beside the next state (its low 8 bits).
FAIL: Final[i64] = 0x100  # EOS inside a string, section 5.2
BAD_VALUE: Final[i64] = 0x200  # NUL, CR or LF: never in a field value, RFC 9113 section 8.2.1
BAD_NAME: Final[i64] = 0x400  # not a lower-case token character: never in a field name

_TOKEN: Final = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")


def name_octet(octet: int) -> bool:
    """Whether a field name may hold this octet (RFC 9110 section 5.6.2, lower case by RFC 9113 section 8.2)."""
    return octet in _TOKEN


def _canonical() -> list[tuple[int, int]]:
    """(code, bits) of every symbol, given out in the order of length and then of symbol."""
    codes = [(0, 0)] * 257
    code = 0
    before = 0
    for symbol in sorted(range(257), key=_LENGTHS.__getitem__):
        bits = _LENGTHS[symbol]
        code <<= bits - before
        codes[symbol] = (code, bits)
        code += 1
        before = bits
    return codes


_CODES: Final = _canonical()


def _tree() -> list[int]:
    """The code as a tree of 256 inner nodes: entry 2 * node + bit is a node, or ~symbol at a leaf."""
    tree = [0, 0]
    for symbol in range(257):
        code, bits = _CODES[symbol]
        node = 0
        for shift in range(bits - 1, 0, -1):
            at = 2 * node + (code >> shift & 1)
            if tree[at] == 0:
                tree[at] = len(tree) // 2
                tree += [0, 0]
            node = tree[at]
        tree[2 * node + (code & 1)] = ~symbol
    return tree


def _symbol_flags(symbol: int) -> int:
    if symbol == _EOS:
        return FAIL
    flags = 0
    if symbol in (0, 10, 13):
        flags |= BAD_VALUE
    if not name_octet(symbol):
        flags |= BAD_NAME
    return flags


def _nibbles() -> tuple[list[int], list[int]]:
    """For (state << 4 | nibble): next state with flags, and the symbol given out or -1 (at most one: 5 > 4 bits)."""
    tree = _tree()
    steps: list[int] = []
    symbols: list[int] = []
    for state in range(256):
        for nibble in range(16):
            node = state
            flags = 0
            given = -1
            for shift in (3, 2, 1, 0):
                node = tree[2 * node + (nibble >> shift & 1)]
                if node < 0:
                    given = ~node
                    flags |= _symbol_flags(given)
                    node = 0
            steps.append(node | flags)
            symbols.append(given)
    return steps, symbols


_STEPS, _SYMBOLS = _nibbles()


def _automaton() -> bytes:
    """Two nibble steps made one, so that 65,536 entries cost one look-up each to build."""
    table = array("H")
    for state in range(256):
        for high in range(16):
            first = _STEPS[state << 4 | high]
            base = (first & 0xFF) << 4
            flags = first & ~0xFF
            table.extend([step | flags for step in _STEPS[base : base + 16]])
    return table.tobytes()


def _accepting() -> bytes:
    """1 for states a string may end in: fewer than 8 bits of padding, all ones. Section 5.2."""
    tree = _tree()
    accepting = bytearray(256)
    node = 0
    for _ in range(8):
        accepting[node] = 1
        node = tree[2 * node + 1]
    return bytes(accepting)


# 16-bit little-endian entries; the state in 8 bits has no value left to mean failure, hence the wider entry.
AUTOMATON: Final = _automaton()
ACCEPTING: Final = _accepting()


def check(text: bytes, start: i64, end: i64) -> i64:
    """Run the automaton over text[start:end]; 0, or FAIL, BAD_VALUE and BAD_NAME together."""
    table = AUTOMATON
    state: i64 = 0
    seen: i64 = 0
    while start < end:
        octet: i64 = text[start]
        entry = i64(read_i16_le(table, (state << 9) | (octet << 1)))
        seen |= entry
        state = entry & 0xFF
        start += 1
    accepting: i64 = ACCEPTING[state]
    if accepting == 0:
        return FAIL
    return seen & 0x700


def decode(text: bytes) -> bytes | None:
    """The octets of a Huffman-coded string, or None when it is not sound. Slow; never on the hot path."""
    out = bytearray()
    state = 0
    for octet in text:
        for nibble in (octet >> 4, octet & 15):
            at = state << 4 | nibble
            symbol = _SYMBOLS[at]
            if symbol == _EOS:
                return None
            if symbol >= 0:
                out.append(symbol)
            state = _STEPS[at] & 0xFF
    return bytes(out) if ACCEPTING[state] else None


def encode(text: bytes) -> bytes:
    """The one Huffman coding of `text`, padded with ones. Slow; for constants made at import, and tests."""
    number = 0
    bits = 0
    for octet in text:
        code, length = _CODES[octet]
        number = number << length | code
        bits += length
    padding = -bits % 8
    number = number << padding | (1 << padding) - 1
    return number.to_bytes((bits + padding) // 8, "big")
