"""Entries as Consul's API writes them, and as they are after parsing."""

from typing import Any

from proxy.discovery.entries import Entry


def check(check_id: str, status: str, output: str = "", notes: str = "") -> dict[str, Any]:
    return {"CheckID": check_id, "Status": status, "Output": output, "Notes": notes}


def raw(service_id: str, *checks: dict[str, Any], node: str = "vm", **service: Any) -> dict[str, Any]:
    return {
        "Node": {"Node": node, "Address": "10.0.0.9"},
        "Service": {"ID": service_id, "Address": "10.0.0.1", "Port": 50000, "Tags": [], **service},
        "Checks": [check("serfHealth", "passing", "Agent alive and reachable"), *checks],
    }


def entry(
    name: str, state: str = "passing", *, probed: bool = True, tags: tuple[str, ...] = (), port: int = 50000
) -> Entry:
    note = "" if state == "passing" else f"because {state}"
    return Entry(f"vm/{name}", "10.0.0.1", port, state, tags, note, probed)
