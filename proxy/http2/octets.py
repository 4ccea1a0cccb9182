"""Unsigned numbers out of frames; librt reads signed ones only."""

from librt.strings import read_i32_be
from mypy_extensions import i64


def u31(data: bytes, pos: i64) -> i64:
    """The 31 low bits of the big-endian word at `pos`: stream ids and window increments."""
    return i64(read_i32_be(data, pos)) & 0x7FFF_FFFF


def u32(data: bytes, pos: i64) -> i64:
    """The big-endian word at `pos`."""
    return i64(read_i32_be(data, pos)) & 0xFFFF_FFFF
