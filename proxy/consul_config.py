"""How to reach Consul: `--consul` and the CONSUL_* variables that Consul's own tools obey."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar
from urllib.parse import unquote, urlsplit

from proxy.errors import UsageError
from proxy.values import parse_flag

DEFAULT_URL: Final = "http://127.0.0.1:8500"
_FORMS: Final = "write http://HOST:PORT, https://HOST:PORT or unix:///PATH"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class ConsulConfig:
    """An agent's HTTP API. `path` is its unix socket, if that is how it is reached.

    `token` and `userinfo` (user:password of a proxy in front of Consul) are secrets: they are in no repr.
    `token_file` wins over `token` and is read again for every query, so that it can be rotated.
    """

    scheme: str = "http"
    host: str = "127.0.0.1"
    port: int = 8500
    path: str = ""
    userinfo: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    token_file: str = ""
    ca_file: str = ""
    ca_path: str = ""
    client_cert: str = ""
    client_key: str = ""
    server_name: str = ""
    verify: bool = True
    namespace: str = ""
    partition: str = ""

    @property
    def url(self) -> str:
        """The agent's URL for people and requests, without its secrets."""
        if self.path:
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def consul_config(url: str, where: str, environ: Mapping[str, str]) -> ConsulConfig:
    """Read the agent's address from `url`, or if that is empty from CONSUL_HTTP_ADDR, and the rest beside it.

    `where` names the source of `url` in errors. Raises UsageError. No message repeats an address: it may
    hold a password.
    """
    tls = _variable(environ, "CONSUL_HTTP_SSL", parse_flag, False)
    if not url:
        url, where = environ.get("CONSUL_HTTP_ADDR") or DEFAULT_URL, "CONSUL_HTTP_ADDR"
        if url.startswith("http://") and tls:  # as Consul's own client: never in clear when TLS was asked for
            url = "https" + url.removeprefix("http")
    if url.startswith("unix:"):
        scheme, host, port, userinfo, path = "http", "localhost", 80, "", _socket(url, where)
    else:
        scheme, host, port, userinfo = _location(url, where, "https" if tls else "http")
        path = ""
    config = ConsulConfig(
        scheme=scheme,
        host=host,
        port=port,
        path=path,
        userinfo=userinfo or environ.get("CONSUL_HTTP_AUTH", ""),
        token=_token(environ),
        token_file=_file(environ, "CONSUL_HTTP_TOKEN_FILE"),
        ca_file=_file(environ, "CONSUL_CACERT") if scheme == "https" else "",
        ca_path=environ.get("CONSUL_CAPATH", "") if scheme == "https" else "",
        client_cert=_file(environ, "CONSUL_CLIENT_CERT") if scheme == "https" else "",
        client_key=_file(environ, "CONSUL_CLIENT_KEY") if scheme == "https" else "",
        server_name=environ.get("CONSUL_TLS_SERVER_NAME", ""),
        verify=_variable(environ, "CONSUL_HTTP_SSL_VERIFY", parse_flag, True),
        namespace=environ.get("CONSUL_NAMESPACE", ""),
        partition=environ.get("CONSUL_PARTITION", ""),
    )
    if config.client_key and not config.client_cert:
        raise UsageError("CONSUL_CLIENT_KEY is set without CONSUL_CLIENT_CERT: set both, or neither")
    return config


def _location(url: str, where: str, default_scheme: str) -> tuple[str, str, int, str]:
    """Scheme, host, port and user info of `[SCHEME://][USER:PASSWORD@]HOST[:PORT]`."""
    if "://" not in url:
        url = f"{default_scheme}://{url}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UsageError(f"{where}: its port or IPv6 address cannot be read: {_FORMS}") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise UsageError(f'{where}: the scheme "{parts.scheme}" is unknown: {_FORMS}')
    if not parts.hostname or any(letter.isspace() for letter in parts.hostname):
        raise UsageError(f"{where}: it names no host: {_FORMS}")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise UsageError(f"{where}: nothing may follow the port: {_FORMS}")
    if port == 0:
        raise UsageError(f"{where}: port 0 cannot be dialled: {_FORMS}")
    userinfo = unquote(parts.netloc.rpartition("@")[0])
    return parts.scheme, parts.hostname, port or _DEFAULT_PORTS[parts.scheme], userinfo


def _socket(url: str, where: str) -> str:
    path = url.removeprefix("unix:").removeprefix("//")
    if not path:
        raise UsageError(f"{where}: the unix socket has no path: {_FORMS}")
    return path


def _token(environ: Mapping[str, str]) -> str:
    token = environ.get("CONSUL_HTTP_TOKEN", "").strip()
    if not token.isprintable() or not token.isascii():
        raise UsageError("CONSUL_HTTP_TOKEN holds characters that no token has: set it to the token alone")
    return token


def _file(environ: Mapping[str, str], name: str) -> str:
    """The path in a variable, checked now, as a missing file found later would look like Consul's fault."""
    path = environ.get(name, "")
    if path:
        try:
            os.close(os.open(path, os.O_RDONLY))
        except OSError as error:
            raise UsageError(f"{name}: cannot read {path}: {error.strerror}; correct or unset it") from error
    return path


def _variable(environ: Mapping[str, str], name: str, parse: Callable[[str], _Value], default: _Value) -> _Value:
    text = environ.get(name, "")
    try:
        return parse(text) if text else default
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from error
