"""What /v1/health/service/NAME says of each instance. Pure: decoded JSON in, values out."""

import re
from dataclasses import dataclass
from typing import Final

from proxy.balance.instance import CRITICAL, MAINTENANCE, PASSING, WARNING

_NODE_MAINTENANCE: Final = "_node_maintenance"
_SERVICE_MAINTENANCE: Final = "_service_maintenance:"
# What Consul's own probes write when they pass (agent/checks/check.go); what a script writes can mean anything.
_PASSED: Final = re.compile(
    r"(gRPC check|(TCP|TCP\+TLS|UDP) connect) \S+: [Ss]uccess$|HTTP2 ping was successful$|HTTP \S+ \S+: 2\d\d "
)
# A check's output can be a whole page; people read one line of it in logs and /status.
_NOTE_LETTERS: Final = 160


class MalformedAnswerError(ValueError):
    """The answer is not what Consul's API promises; the message says where."""


@dataclass(frozen=True)
class Entry:
    """One instance as registered.

    `probed` is False while no critical check has failed a probe: a client agent that restarted with its data
    reports its checks critical until it has probed them, however healthy the instance is. Their output is empty,
    or that of a success if the check had passed before it was last registered.
    """

    key: str
    host: str
    port: int
    state: str
    tags: tuple[str, ...] = ()
    note: str = ""
    probed: bool = True


def parse_entries(payload: object) -> list[Entry]:
    """Return the instances by key. Raises MalformedAnswerError."""
    if not isinstance(payload, list):
        raise MalformedAnswerError("the answer is not a list")
    return sorted((_entry(item) for item in payload), key=lambda entry: entry.key)


def _entry(item: object) -> Entry:
    node = _table(item, "Node")
    service = _table(item, "Service")
    state, note, probed = _health(_list(item, "Checks"))
    port = service.get("Port")
    return Entry(
        # Ids are unique per agent only.
        key=f"{_text(node, 'Node')}/{_text(service, 'ID')}",
        host=_text(service, "Address") or _text(node, "Address"),
        port=port if isinstance(port, int) and 0 < port < 65536 else 0,
        state=state,
        tags=tuple(str(tag) for tag in _list(service, "Tags")),
        note=note,
        probed=probed,
    )


def _health(checks: list[object]) -> tuple[str, str, bool]:
    """State, reason and whether it was probed, of node and service checks together: the worst one counts."""
    by_state: dict[str, list[dict[str, object]]] = {MAINTENANCE: [], CRITICAL: [], WARNING: []}
    for item in checks:
        check = _as_table(item, "a check")
        state = _state(check)
        if state != PASSING:
            by_state[state].append(check)
    for state, found in by_state.items():
        if found:
            probed = state != CRITICAL or any(_failed(check) for check in found)
            return state, _reason(found[0], state), probed
    return PASSING, "", True


def _state(check: dict[str, object]) -> str:
    check_id = _text(check, "CheckID")
    if check_id == _NODE_MAINTENANCE or check_id.startswith(_SERVICE_MAINTENANCE):
        return MAINTENANCE
    status = _text(check, "Status")
    return status if status in (PASSING, WARNING) else CRITICAL


def _failed(check: dict[str, object]) -> str:
    """What a probe of a critical check said; empty if none has failed."""
    output = _text(check, "Output")
    return "" if _PASSED.match(output) else output


def _reason(check: dict[str, object], state: str) -> str:
    if state == CRITICAL:
        said = _failed(check) or "not probed yet"
    else:  # maintenance has its reason in Notes, its Output is empty
        said = _text(check, "Notes" if state == MAINTENANCE else "Output")
    label = "" if state == MAINTENANCE else f"{_text(check, 'CheckID')}: "
    return one_line(label + said)


def one_line(text: str) -> str:
    """Text of others, fit for a line of a log: printable and short."""
    cleaned = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return cleaned if len(cleaned) <= _NOTE_LETTERS else cleaned[: _NOTE_LETTERS - 3] + "..."


def _as_table(value: object, what: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise MalformedAnswerError(f"{what} is not an object")
    return value


def _table(item: object, name: str) -> dict[str, object]:
    return _as_table(_as_table(item, "an entry").get(name), name)


def _list(item: object, name: str) -> list[object]:
    value = _as_table(item, "an entry").get(name)
    if value is None:  # Go marshals a nil slice so
        return []
    if not isinstance(value, list):
        raise MalformedAnswerError(f"{name} is not a list")
    return value


def _text(table: dict[str, object], name: str) -> str:
    value = table.get(name, "")
    if not isinstance(value, str):
        raise MalformedAnswerError(f"{name} is not a string")
    return value
