"""Reads what clients register: JSON as Consul takes it, with its rules and its words for what is wrong."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PASSING, WARNING, CRITICAL = "passing", "warning", "critical"
STATUSES = (PASSING, WARNING, CRITICAL)

MINIMUM_INTERVAL_S = 1.0
"""Consul takes a shorter interval and probes at this one."""
DEFAULT_TIMEOUT_S = 10.0
"""How long a probe may take when its check does not say."""
MINIMUM_REAP_S = 60.0
"""The shortest DeregisterCriticalServiceAfter."""

_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_TERM = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)")

_SERVICE_FIELDS = "ID Name Tags Address TaggedAddresses Port Meta Check Checks Weights EnableTagOverride Token"
_CHECK_FIELDS = (
    "CheckID Name Notes Status ServiceID HTTP Method TCP GRPC TTL Interval Timeout Token"
    " SuccessBeforePassing FailuresBeforeWarning FailuresBeforeCritical DeregisterCriticalServiceAfter"
)
_ALIASES = {
    "enable_tag_override": "EnableTagOverride",
    "tagged_addresses": "TaggedAddresses",
    "service_id": "ServiceID",
    "deregister_critical_service_after": "DeregisterCriticalServiceAfter",
}


class RefusedError(Exception):
    """A request that Consul answers with an error: its HTTP status and text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True, eq=False)
class CheckDefinition:
    """One check as registered. `kind` is grpc, http, tcp or ttl; times are seconds."""

    id: str
    name: str
    notes: str
    status: str
    service_id: str
    kind: str
    target: str
    method: str
    ttl: float
    interval: float
    timeout: float
    success_before_passing: int
    failures_before_warning: int
    failures_before_critical: int
    reap_after: float


@dataclass(frozen=True, slots=True)
class ServiceDefinition:
    """One instance as registered; equal definitions are no change."""

    id: str
    name: str
    tags: tuple[str, ...]
    address: str
    port: int
    meta: tuple[tuple[str, str], ...]
    tagged_addresses: tuple[tuple[str, tuple[str, int]], ...]
    weights: tuple[int, int]
    enable_tag_override: bool


def seconds(text: str) -> float:
    """Return the seconds of a duration in Go's notation, such as ``1m30s``; raises `ValueError`."""
    if text == "0":
        return 0.0
    total, at = 0.0, 0
    while match := _TERM.match(text, at):
        total += float(match[1]) * _UNIT_S[match[2]]
        at = match.end()
    if not text or at != len(text):
        raise ValueError(f"time: invalid duration {json.dumps(text)}")
    return total


def notation(value: float) -> str:
    """Return `value` seconds as Go prints a duration: ``1.5s``, ``500ms``, ``1m30s``."""
    if value < 1:
        return f"{value * 1000:.10g}ms" if value else "0s"
    hours, rest = divmod(value, 3600)
    minutes, rest = divmod(rest, 60)
    return (f"{hours:.0f}h" if hours else "") + (f"{minutes:.0f}m" if hours or minutes else "") + f"{rest:.10g}s"


def decode(body: bytes) -> dict[str, Any]:
    """Return the object in a request's body; raises `RefusedError` 400."""
    if not body:
        raise RefusedError(400, "Request decode failed: EOF")
    try:
        value = json.loads(body)
    except ValueError as error:
        raise RefusedError(400, f"Request decode failed: {error}") from error
    if not isinstance(value, dict):
        raise _wrong_type(value, "", "object")
    return value


def service_from(body: Mapping[str, Any]) -> tuple[ServiceDefinition, list[CheckDefinition]]:
    """Return the instance and its checks; raises `RefusedError` 400."""
    fields = _fields(body, _SERVICE_FIELDS)
    name = fields.text("Name")
    single = fields.object("Check")
    check_bodies = ([single] if single else []) + fields.objects("Checks")
    if not name:
        raise RefusedError(400, "Missing service name")
    address = fields.text("Address")
    if address in ("0.0.0.0", "::", "[::]"):
        raise RefusedError(400, "Invalid service address")
    service_id = fields.text("ID") or name
    weights = _fields(fields.object("Weights") or {"Passing": 1, "Warning": 1}, "Passing Warning")
    definition = ServiceDefinition(
        id=service_id,
        name=name,
        tags=tuple(fields.texts("Tags")),
        address=address,
        port=fields.number("Port"),
        meta=tuple(sorted(fields.text_map("Meta").items())),
        tagged_addresses=tuple(sorted(_tagged(fields.object("TaggedAddresses")).items())),
        weights=(weights.number("Passing"), weights.number("Warning")),
        enable_tag_override=fields.flag("EnableTagOverride"),
    )
    checks = []
    for position, check_body in enumerate(check_bodies, 1):
        own_id = f"service:{service_id}" + (f":{position}" if len(check_bodies) > 1 else "")
        try:
            checks.append(_check(_fields(check_body, _CHECK_FIELDS), own_id, f"Service '{name}' check", service_id))
        except RefusedError as error:
            if error.text.startswith(("Interval", "TTL")):
                raise RefusedError(400, f"Invalid check: {error.text}") from error
            raise
    return definition, checks


def check_from(body: Mapping[str, Any]) -> CheckDefinition:
    """Return a check registered by itself; raises `RefusedError` 400."""
    fields = _fields(body, f"ID {_CHECK_FIELDS}")
    name = fields.text("Name")
    if not name:
        raise RefusedError(400, "Missing check name")
    return _check(fields, fields.text("ID") or name, name, fields.text("ServiceID"))


def _check(fields: "_Fields", own_id: str, own_name: str, service_id: str) -> CheckDefinition:
    status = fields.text("Status") or CRITICAL
    if status not in STATUSES:
        raise RefusedError(400, "Status for checks must 'passing', 'warning', 'critical'")
    targets = {kind: fields.text(kind) for kind in ("GRPC", "HTTP", "TCP") if fields.text(kind)}
    interval, ttl = fields.duration("Interval"), fields.duration("TTL")
    if interval and ttl:
        raise RefusedError(400, "Interval and TTL cannot both be specified")
    if targets and not interval:
        raise RefusedError(400, "Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks")
    if not targets and not ttl:
        raise RefusedError(400, "TTL must be > 0 for TTL checks")
    kind, target = next(iter(targets.items()), ("TTL", ""))
    critical = fields.number("FailuresBeforeCritical")
    reap = fields.duration("DeregisterCriticalServiceAfter")
    return CheckDefinition(
        id=fields.text("CheckID") or own_id,
        name=fields.text("Name") or own_name,
        notes=fields.text("Notes"),
        status=status,
        service_id=service_id,
        kind=kind.lower(),
        target=target,
        method=fields.text("Method") or "GET",
        ttl=ttl,
        interval=interval,
        timeout=fields.duration("Timeout") or DEFAULT_TIMEOUT_S,
        success_before_passing=fields.number("SuccessBeforePassing"),
        failures_before_warning=fields.number("FailuresBeforeWarning") or critical,
        failures_before_critical=critical,
        reap_after=max(reap, MINIMUM_REAP_S) if reap else 0.0,
    )


def _tagged(body: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    addresses = {}
    for name, value in body.items():
        if not isinstance(value, dict):
            raise _wrong_type(value, "TaggedAddresses", "ServiceAddress")
        fields = _fields(value, "Address Port")
        addresses[name] = (fields.text("Address"), fields.number("Port"))
    return addresses


def _fields(body: Mapping[str, Any], known: str) -> "_Fields":
    """Sort out the names of `body`: any case, and the snake_case that Consul takes; null means not given."""
    names = {name.lower(): name for name in known.split()}
    aliases = {alias: name for alias, name in _ALIASES.items() if name.lower() in names}
    values = {}
    for given, value in body.items():
        name = names.get(given.lower()) or aliases.get(given.lower())
        if name is None:
            raise RefusedError(400, f"Request decode failed: json: unknown field {json.dumps(given)}")
        if value is not None:
            values[name] = value
    return _Fields(values)


def _wrong_type(value: object, field: str, wanted: str) -> RefusedError:
    found = {bool: "bool", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    kind = found.get(type(value), "null")
    return RefusedError(
        400,
        f"Request decode failed: json: cannot unmarshal {kind} into Go struct field .{field} of type {wanted}",
    )


class _Fields:
    """The known fields of one JSON object, each read as the type it must have."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def text(self, name: str) -> str:
        value = self._values.get(name, "")
        if not isinstance(value, str):
            raise _wrong_type(value, name, "string")
        return value

    def number(self, name: str) -> int:
        value = self._values.get(name, 0)
        if not isinstance(value, int) or isinstance(value, bool):
            raise _wrong_type(value, name, "int")
        return value

    def flag(self, name: str) -> bool:
        value = self._values.get(name, False)
        if not isinstance(value, bool):
            raise _wrong_type(value, name, "bool")
        return value

    def duration(self, name: str) -> float:
        """Seconds of a duration, which is text or a number of nanoseconds."""
        value = self._values.get(name, "0")
        if isinstance(value, int) and not isinstance(value, bool):
            return value * 1e-9
        if not isinstance(value, str):
            raise _wrong_type(value, name, "time.Duration")
        try:
            return seconds(value or "0")
        except ValueError as error:
            raise RefusedError(400, f"Request decode failed: {error}") from error

    def object(self, name: str) -> dict[str, Any]:
        value = self._values.get(name, {})
        if not isinstance(value, dict):
            raise _wrong_type(value, name, "object")
        return value

    def objects(self, name: str) -> list[dict[str, Any]]:
        value = self._values.get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise _wrong_type(value, name, "[]object")
        return list(value)

    def texts(self, name: str) -> list[str]:
        value = self._values.get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise _wrong_type(value, name, "[]string")
        return value

    def text_map(self, name: str) -> dict[str, str]:
        value = self.object(name)
        if not all(isinstance(item, str) for item in value.values()):
            raise _wrong_type(value, name, "map[string]string")
        return value
