"""gRPC status codes, and what HTTP statuses and HTTP/2 errors amount to in them."""

from typing import Final

from mypy_extensions import i64

from proxy.http2 import constants as c

OK: Final[i64] = 0
CANCELLED: Final[i64] = 1
UNKNOWN: Final[i64] = 2
PERMISSION_DENIED: Final[i64] = 7
RESOURCE_EXHAUSTED: Final[i64] = 8
UNIMPLEMENTED: Final[i64] = 12
INTERNAL: Final[i64] = 13
UNAVAILABLE: Final[i64] = 14
UNAUTHENTICATED: Final[i64] = 16
LAST: Final[i64] = 16


def of_reset(code: i64) -> i64:
    """The status a client reads from RST_STREAM; gRPC PROTOCOL-HTTP2, "Errors"."""
    if code == c.REFUSED_STREAM:
        return UNAVAILABLE
    if code == c.CANCEL:
        return CANCELLED
    if code == c.ENHANCE_YOUR_CALM:
        return RESOURCE_EXHAUSTED
    if code == c.INADEQUATE_SECURITY:
        return PERMISSION_DENIED
    if code <= c.FLOW_CONTROL_ERROR or code in (c.FRAME_SIZE_ERROR, c.COMPRESSION_ERROR, c.CONNECT_ERROR):
        return INTERNAL
    return UNKNOWN


def of_http(status: i64) -> i64:
    """The status of a response that carries no grpc-status; gRPC http-grpc-status-mapping."""
    if status in (400, 431):
        return INTERNAL
    if status == 401:
        return UNAUTHENTICATED
    if status == 403:
        return PERMISSION_DENIED
    if status == 404:
        return UNIMPLEMENTED
    if status in (429, 502, 503, 504):
        return UNAVAILABLE
    return UNKNOWN
