"""The relay's own answers, where no instance's can be had."""

from typing import Final

from mypy_extensions import i64

from proxy.http2.fields import integer, literal, string

_STATUS: Final = b":status"
_CONTENT_TYPE_INDEX: Final[i64] = 31
_OK: Final = b"\x88"  # indexed: ":status: 200"
# Characters of grpc-message that stand for themselves; gRPC PROTOCOL-HTTP2, "Percent-Encoded".
_PLAIN: Final = frozenset(range(0x20, 0x7F)) - {0x25}

HTTP_1_ANSWER: Final = (
    b"HTTP/1.1 505 HTTP Version Not Supported\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n"
    b"Connection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b"
)
HTTP_1_TEXT: Final = (
    b"This port speaks gRPC: HTTP/2 in clear text with prior knowledge (h2c). It relays gRPC calls to the\n"
    b"instances of a Consul service. Try grpcurl -plaintext; metrics and status are on the admin port.\n"
)


def http_1(request: bytes) -> bytes:
    """The answer in HTTP/1.1 to a client that speaks it; empty when it speaks something else."""
    line = request.split(b"\r\n", 1)[0]
    if b" HTTP/1." not in line:
        return b""
    return HTTP_1_ANSWER % (len(HTTP_1_TEXT), HTTP_1_TEXT)


def grpc_trailers(code: i64, message: str) -> bytes:
    """A trailers block with grpc-status and grpc-message."""
    return literal(b"grpc-status", b"%d" % code) + literal(b"grpc-message", percent_encoded(message))


def grpc_only(code: i64, message: str) -> bytes:
    """A Trailers-Only block: HTTP 200, the content type, status and message."""
    return _OK + _content_type(b"application/grpc") + grpc_trailers(code, message)


def http_head(status: i64) -> bytes:
    """The header block of an answer with a plain text body."""
    return literal(_STATUS, b"%d" % status) + _content_type(b"text/plain; charset=utf-8")


def percent_encoded(message: str) -> bytes:
    """A grpc-message as it stands on the wire."""
    return b"".join([b"%c" % octet if octet in _PLAIN else b"%%%02X" % octet for octet in message.encode()])


def _content_type(value: bytes) -> bytes:
    return integer(_CONTENT_TYPE_INDEX, 4, 0) + string(value)
