from typing import Any

import pytest

from compose.watch import RegistryWatch, states


def entry(name: str, *checks: tuple[str, str]) -> dict[str, Any]:
    return {
        "Service": {"ID": f"{name}-id", "Meta": {"name": name}},
        "Checks": [{"CheckID": check_id, "Status": status} for check_id, status in checks],
    }


@pytest.mark.parametrize(
    ("checks", "state"),
    [
        ([("serfHealth", "passing")], "passing"),
        ([("serfHealth", "passing"), ("c", "warning")], "warning"),
        ([("a", "warning"), ("b", "passing")], "warning"),
        ([("a", "warning"), ("b", "critical")], "critical"),
        ([("a", "critical"), ("b", "warning")], "critical"),
        ([("_service_maintenance:x", "critical"), ("c", "passing")], "maintenance"),
        ([("c", "critical"), ("_node_maintenance", "critical")], "maintenance"),
    ],
)
def test_states(checks: list[tuple[str, str]], state: str) -> None:
    assert states([entry("a", *checks)]) == {"a": state}


def test_an_instance_without_a_name_goes_by_its_id() -> None:
    assert states([{"Service": {"ID": "x", "Meta": None}, "Checks": []}]) == {"x": "passing"}


def test_it_notes_when_a_state_was_first_seen() -> None:
    changes: list[int] = []
    watch = RegistryWatch("http://unused", "greeter", lambda: changes.append(1))
    watch._apply({"a": "passing"}, 1.0)
    watch._apply({"a": "passing", "b": "passing"}, 2.0)
    watch._apply({"b": "critical"}, 3.0)
    assert watch.since == {"a": 3.0, "b": 3.0}
    assert watch.states == {"b": "critical"}
    assert len(changes) == 3
