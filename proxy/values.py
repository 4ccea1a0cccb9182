"""How values are written in flags, environment and file. Parsers raise ValueError with what to write instead."""

import re
from dataclasses import dataclass
from typing import Final

_ADDRESS_FORMS: Final = "write HOST:PORT, [IPV6]:PORT or unix:PATH"
_HOST: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,252})")
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
# A longer time-out is a slip of the pen; the cap also keeps timers within what event loops take.
_LONGEST_SECONDS: Final = 24 * 3600.0
# sun_path of unix(7) is 108 octets with the closing NUL.
_SUN_PATH_OCTETS: Final = 107


@dataclass(frozen=True)
class Address:
    """Where to listen or dial: `host` and `port`, or a unix socket's `path` (then host is "", port 0)."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """`HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`. Port 0 is taken; what it means is the caller's business."""
    if text.startswith("unix:"):
        return Address(path=_socket_path(text.removeprefix("unix:")))
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError(f'"{text}" has no port: {_ADDRESS_FORMS}')
    if host.startswith("[") and host.endswith("]"):
        host = _ipv6(host[1:-1])
    elif ":" in host:
        raise ValueError(f'"{text}" is not an address: {_ADDRESS_FORMS}; an IPv6 address goes in brackets')
    elif not host:
        raise ValueError(f'"{text}" has no host: write 127.0.0.1{text}, or 0.0.0.0{text} for every interface')
    elif not _HOST.fullmatch(host):
        raise ValueError(f'"{text}" is not an address: {_ADDRESS_FORMS}')
    return Address(host, parse_port(port))


def parse_port(text: str) -> int:
    """A TCP port, 0 to 65535."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise ValueError(f'"{text}" is not a port: write a number up to 65535')
    return int(text)


def parse_duration(text: str) -> float:
    """Seconds of a duration with its unit: `500ms`, `3s`, `1m`, `1h`; at most 24h."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is not a duration: write a number and its unit, as 500ms, 3s or 1m')
    seconds = float(match[1]) * _SECONDS[match[2]]
    if seconds > _LONGEST_SECONDS:
        raise ValueError(f'"{text}" is too long: write at most 24h')
    return seconds


def parse_flag(text: str) -> bool:
    """A truth value as Go's strconv.ParseBool reads it, since Consul's own tools use that."""
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueError(f'"{text}" is neither true nor false: write true or false')


def _socket_path(path: str) -> str:
    if path.startswith("///"):  # the URL form of gRPC's names: unix:///absolute/path
        path = path[2:]
    if not path or "\0" in path:
        raise ValueError("the unix socket has no path: write unix:PATH")
    if len(path.encode(errors="surrogateescape")) > _SUN_PATH_OCTETS:
        raise ValueError(f'the path "{path}" is too long for a unix socket: {_SUN_PATH_OCTETS} octets at most')
    return path


def _ipv6(host: str) -> str:
    import ipaddress  # only those who use IPv6 pay for it

    try:
        ipaddress.IPv6Address(host)
    except ValueError as error:
        raise ValueError(f'"{host}" is not an IPv6 address: {_ADDRESS_FORMS}') from error
    return host
