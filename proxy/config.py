"""What the user asked for: flags beat the environment, which beats the file. Nothing here binds or dials."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn, TypeVar

from proxy.consul_config import ConsulConfig, consul_config
from proxy.errors import UsageError
from proxy.values import Address, parse_address, parse_duration

__all__ = ["Address", "Config", "ConsulConfig", "Flags", "load", "read_flags", "resolve"]

PREFIX: Final = "GRPC_SIDECAR_"
# The service's name in metrics and messages when only endpoints are given.
STATIC_SERVICE: Final = "static"
PROTOCOLS: Final = ("grpc", "http2")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("text", "json")
_BUILD_VARIABLES: Final = {"GRPC_SIDECAR_COMPILE"}
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Config:
    """All settings, validated. Times are in seconds. Exactly one of `consul` and `endpoints` is set.

    `warnings` is what to log once logging is set up: settings that have no effect.
    """

    service: str
    listen: Address
    admin: Address | None
    consul: ConsulConfig | None
    endpoints: tuple[Address, ...]
    tag: str
    datacenter: str
    wait_for_instances: float
    drain_timeout: float
    protocol: str
    log_level: str
    log_format: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Flags:
    """The command line as given: settings by flag name (without dashes), and what to do instead of serving."""

    settings: Mapping[str, str | list[str]]
    check_config: bool = False
    version: bool = False
    help: str = ""


@dataclass(frozen=True)
class _Setting:
    """One flag; also a variable and a key of the file."""

    name: str
    metavar: str
    help: str
    default: str = ""
    many: bool = False

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper().replace("-", "_")


_CONFIG: Final = _Setting("config", "FILE", "TOML file with the other flags as keys")
_SETTINGS: Final = (
    _Setting("service", "NAME", "Consul service to balance over (required unless --endpoint)"),
    _Setting("listen", "ADDR", "where clients dial: HOST:PORT, [IPV6]:PORT or unix:PATH", "127.0.0.1:50051"),
    _Setting("admin", "ADDR", "metrics, health and status; off disables it", "127.0.0.1:9464"),
    _Setting("consul", "URL", "agent: http, https or unix (CONSUL_HTTP_ADDR, else http://127.0.0.1:8500)"),
    _Setting("endpoint", "HOST:PORT", "a fixed instance instead of Consul; repeatable", many=True),
    _Setting("tag", "TAG", "only instances with this tag"),
    _Setting("datacenter", "DC", "the service's datacenter, if not the agent's"),
    _Setting("wait-for-instances", "TIME", "how long a call waits when nothing is healthy", "5s"),
    _Setting("drain-timeout", "TIME", "how long open calls may go on after SIGTERM", "30s"),
    _Setting("protocol", "NAME", "grpc, or http2 to relay any HTTP/2 request", "grpc"),
    _Setting("log-level", "LEVEL", ", ".join(LOG_LEVELS), "info"),
    _Setting("log-format", "FORMAT", "text, or json for one object a line", "text"),
)
_BY_NAME: Final = {setting.name: setting for setting in _SETTINGS}


def load(argv: Sequence[str], environ: Mapping[str, str]) -> Config:
    """Return the configuration that flags, environment and file make together. Raises UsageError."""
    return resolve(read_flags(argv), environ)


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would print and exit with a code of its own."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see --help")


def read_flags(argv: Sequence[str]) -> Flags:
    """Split the command line. Values are checked by `resolve`. Raises UsageError."""
    parser = _Parser(
        prog="grpc-sidecar",
        description="Relays gRPC calls round robin to the healthy instances of a Consul service.",
        epilog=f"Every flag that takes a value is also {PREFIX}<FLAG> in the environment and, but for --config, "
        "a key of the file; a flag beats the environment, which beats the file. Durations: 500ms, 3s, 1m. "
        "Exit codes: 0 drained, 64 usage, 69 cannot bind, 70 internal error.",
        allow_abbrev=False,
        add_help=False,
    )
    for setting in (*_SETTINGS, _CONFIG):
        default = f" (default {setting.default})" if setting.default else ""
        parser.add_argument(
            f"--{setting.name}",
            metavar=setting.metavar,
            help=setting.help + default,
            action="append" if setting.many else "store",
            default=argparse.SUPPRESS,
        )
    parser.add_argument("--check-config", action="store_true", help="check the configuration and exit")
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.add_argument("-h", "--help", action="store_true", help="print this and exit")
    given = vars(parser.parse_args(list(argv)))
    actions = {name: given.pop(name) for name in ("check_config", "version", "help")}
    return Flags(
        settings={name.replace("_", "-"): value for name, value in given.items()},
        check_config=actions["check_config"],
        version=actions["version"],
        help=parser.format_help() if actions["help"] else "",
    )


def resolve(flags: Flags, environ: Mapping[str, str]) -> Config:
    """Merge the three sources and validate. Raises UsageError."""
    path = str(flags.settings.get("config") or environ.get(_CONFIG.variable, ""))
    file = _read_file(path) if path else {}
    sources = _Sources(flags.settings, environ, file, path)
    endpoints = _endpoints(sources)
    service = sources.one("service", _name)
    if not service and not endpoints:
        raise UsageError(
            f"no service: give --service NAME (or {PREFIX}SERVICE, or service in the file), or --endpoint HOST:PORT"
        )
    url, where = sources.text("consul")
    return Config(
        service=service or STATIC_SERVICE,
        listen=sources.one("listen", parse_address),
        admin=sources.one("admin", _admin),
        consul=None if endpoints else consul_config(url, where, environ),
        endpoints=endpoints,
        tag=sources.one("tag", _name),
        datacenter=sources.one("datacenter", _name),
        wait_for_instances=sources.one("wait-for-instances", parse_duration),
        drain_timeout=sources.one("drain-timeout", parse_duration),
        protocol=sources.one("protocol", _choice(PROTOCOLS)),
        log_level=sources.one("log-level", _choice(LOG_LEVELS)),
        log_format=sources.one("log-format", _choice(LOG_FORMATS)),
        warnings=tuple(_without_effect(sources, bool(endpoints), environ)),
    )


class _Sources:
    """The three places a setting can come from."""

    def __init__(
        self,
        flags: Mapping[str, str | list[str]],
        environ: Mapping[str, str],
        file: Mapping[str, list[str]],
        path: str,
    ) -> None:
        self._flags = flags
        self._environ = environ
        self._file = file
        self._path = path

    def given(self, name: str) -> tuple[list[str], str]:
        """A setting's values and where they were given; an empty list if nowhere."""
        setting = _BY_NAME[name]
        if name in self._flags:
            value = self._flags[name]
            return (value if isinstance(value, list) else [value]), f"--{name}"
        text = self._environ.get(setting.variable, "")
        if text:  # empty means unset, as compose files and shells leave variables empty
            return (text.split(",") if setting.many else [text]), setting.variable
        if name in self._file:
            return self._file[name], f"{name} in {self._path}"
        return [], f"--{name}"

    def text(self, name: str) -> tuple[str, str]:
        """A setting's text (its default if it was not given) and where it was given."""
        values, where = self.given(name)
        return (values[0] if values else _BY_NAME[name].default), where

    def one(self, name: str, parse: Callable[[str], _Value]) -> _Value:
        """A setting's parsed value."""
        text, where = self.text(name)
        return _parsed(text, where, parse)


def _parsed(text: str, where: str, parse: Callable[[str], _Value]) -> _Value:
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error


def _read_file(path: str) -> dict[str, list[str]]:
    """The file's settings. All are checked for shape, as one that a flag beats today is used tomorrow."""
    import tomllib  # only those who have a file pay for it

    try:
        with open(path, "rb") as file:
            content: dict[str, object] = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"--config: cannot read {path}: {error.strerror}; correct the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config: {path} is not TOML: {error}") from error
    for key in content:
        if key not in _BY_NAME:
            raise UsageError(f"{path}: unknown key {_one_line(key)}{_similar(key)}")
    return {key: _file_values(value, _BY_NAME[key], f"{key} in {path}") for key, value in content.items()}


def _similar(key: str) -> str:
    import difflib  # only those who err pay for it

    close = difflib.get_close_matches(key.replace("_", "-").lower(), _BY_NAME, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(_BY_NAME)}"


def _file_values(value: object, setting: _Setting, where: str) -> list[str]:
    values = value if isinstance(value, list) and setting.many else [value]
    for item in values:
        if not isinstance(item, str):
            shape = "a string or a list of strings" if setting.many else "a string"
            example = f', as {setting.name} = "{setting.default}"' if setting.default else ""
            raise UsageError(f"{where}: must be {shape}, not {_toml_type(item)}{example}")
    return [str(item) for item in values]


def _toml_type(value: object) -> str:
    names = {bool: "a boolean", int: "an integer", float: "a float", list: "an array", dict: "a table"}
    return names.get(type(value), "a date or time")


def _endpoints(sources: _Sources) -> tuple[Address, ...]:
    texts, where = sources.given("endpoint")
    found: list[Address] = []
    for text in texts:
        address = _parsed(text.strip(), where, _endpoint)
        if address in found:
            raise UsageError(f"{where}: {address} is given twice; give each instance once")
        found.append(address)
    return tuple(found)


def _endpoint(text: str) -> Address:
    address = parse_address(text)
    if address.path:
        raise ValueError(f'"{text}" is a unix socket: write HOST:PORT')
    if address.port == 0:
        raise ValueError(f'"{text}" has port 0, which cannot be dialled')
    return address


def _admin(text: str) -> Address | None:
    return None if text == "off" else parse_address(text)


def _name(text: str) -> str:
    if "/" in text or not text.isprintable() or text != text.strip():
        raise ValueError(f"{_one_line(text)} is not a name: it has a slash, control character or outer space")
    return text


def _choice(allowed: tuple[str, ...]) -> Callable[[str], str]:
    def choose(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"{_one_line(text)} is unknown: write {' or '.join(allowed)}")
        return text

    return choose


def _one_line(text: str) -> str:
    """Text that a user gave, quoted and kept short, for a message of one line."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")


def _without_effect(sources: _Sources, static: bool, environ: Mapping[str, str]) -> list[str]:
    """Settings that do nothing: more often a slip than meant, but no reason not to start."""
    found = []
    if static:
        for name in ("consul", "tag", "datacenter"):
            values, where = sources.given(name)
            if values:
                found.append(f"{where} has no effect, as endpoints are given")
    known = {setting.variable for setting in (*_SETTINGS, _CONFIG)} | _BUILD_VARIABLES
    # Kubernetes sets GRPC_SIDECAR_SERVICE_HOST, GRPC_SIDECAR_PORT_... for a service called grpc-sidecar.
    kubernetes = (PREFIX + "SERVICE_", PREFIX + "PORT")
    stray = [
        name
        for name in sorted(environ)
        if name.startswith(PREFIX) and name not in known and not name.startswith(kubernetes)
    ]
    return found + [f"{name} has no effect: it is no setting; see --help" for name in stray]
