"""Numbers of RFC 9113: frame types, flags, settings, error codes, sizes."""

from typing import Final

from mypy_extensions import i64

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Frame types, section 6.
DATA: Final[i64] = 0x0
HEADERS: Final[i64] = 0x1
PRIORITY: Final[i64] = 0x2
RST_STREAM: Final[i64] = 0x3
SETTINGS: Final[i64] = 0x4
PUSH_PROMISE: Final[i64] = 0x5
PING: Final[i64] = 0x6
GOAWAY: Final[i64] = 0x7
WINDOW_UPDATE: Final[i64] = 0x8
CONTINUATION: Final[i64] = 0x9

FLAG_ACK: Final[i64] = 0x1
FLAG_END_STREAM: Final[i64] = 0x1
FLAG_END_HEADERS: Final[i64] = 0x4
FLAG_PADDED: Final[i64] = 0x8
FLAG_PRIORITY: Final[i64] = 0x20

# Settings, section 6.5.2.
HEADER_TABLE_SIZE: Final[i64] = 0x1
ENABLE_PUSH: Final[i64] = 0x2
MAX_CONCURRENT_STREAMS: Final[i64] = 0x3
INITIAL_WINDOW_SIZE: Final[i64] = 0x4
MAX_FRAME_SIZE: Final[i64] = 0x5
MAX_HEADER_LIST_SIZE: Final[i64] = 0x6

# Error codes, section 7.
NO_ERROR: Final[i64] = 0x0
PROTOCOL_ERROR: Final[i64] = 0x1
INTERNAL_ERROR: Final[i64] = 0x2
FLOW_CONTROL_ERROR: Final[i64] = 0x3
SETTINGS_TIMEOUT: Final[i64] = 0x4
STREAM_CLOSED: Final[i64] = 0x5
FRAME_SIZE_ERROR: Final[i64] = 0x6
REFUSED_STREAM: Final[i64] = 0x7
CANCEL: Final[i64] = 0x8
COMPRESSION_ERROR: Final[i64] = 0x9
CONNECT_ERROR: Final[i64] = 0xA
ENHANCE_YOUR_CALM: Final[i64] = 0xB
INADEQUATE_SECURITY: Final[i64] = 0xC
HTTP_1_1_REQUIRED: Final[i64] = 0xD

ERROR_NAMES: Final = (
    "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
    "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
)  # fmt: skip

FRAME_HEADER: Final[i64] = 9  # octets, section 4.1
MAX_ID: Final[i64] = 0x7FFF_FFFF
MAX_WINDOW: Final[i64] = 0x7FFF_FFFF
DEFAULT_WINDOW: Final[i64] = 65_535
MIN_MAX_FRAME_SIZE: Final[i64] = 16_384
MAX_MAX_FRAME_SIZE: Final[i64] = 16_777_215


def error_name(code: i64) -> str:
    """The RFC 9113 name of an error code; a number nobody named is given in hexadecimal."""
    if 0 <= code < len(ERROR_NAMES):
        return ERROR_NAMES[code]
    return f"0x{code:x}"
