from typing import Any

import pytest

from proxy.discovery.entries import Entry, MalformedAnswerError, one_line, parse_entries
from tests.unit.discovery.samples import check, raw


def _only(item: dict[str, Any]) -> Entry:
    (entry,) = parse_entries([item])
    return entry


def test_a_healthy_instance() -> None:
    item = raw("blue-1", check("service:blue-1", "passing", "gRPC check: success"), Tags=["blue", "v2"])
    assert _only(item) == Entry("vm/blue-1", "10.0.0.1", 50000, "passing", ("blue", "v2"))


def test_the_same_id_on_two_agents_is_two_instances_in_a_stable_order() -> None:
    keys = [entry.key for entry in parse_entries([raw("a", node="vm2"), raw("b", node="vm1"), raw("a", node="vm1")])]
    assert keys == ["vm1/a", "vm1/b", "vm2/a"]


def test_without_an_address_of_its_own_it_is_at_its_node() -> None:
    assert _only(raw("a", Address="")).host == "10.0.0.9"


@pytest.mark.parametrize("port", [0, -1, 65536, None, "80"])
def test_an_unusable_port_is_0(port: Any) -> None:
    assert _only(raw("a", Port=port)).port == 0


@pytest.mark.parametrize(
    ("checks", "state", "note", "probed"),
    [
        ([], "passing", "", True),
        ([check("c", "warning", "slow")], "warning", "c: slow", True),
        ([check("c", "critical", "refused"), check("d", "warning", "slow")], "critical", "c: refused", True),
        ([check("c", "critical")], "critical", "c: not probed yet", False),
        # An agent that restarted shows what a check had said when it was registered, if that replaced another.
        ([check("c", "critical", "gRPC check 10.0.0.1:50000: success")], "critical", "c: not probed yet", False),
        ([check("c", "critical", "TCP+TLS connect [::1]:50000: Success")], "critical", "c: not probed yet", False),
        ([check("c", "critical", "HTTP2 ping was successful")], "critical", "c: not probed yet", False),
        ([check("c", "critical", "HTTP GET http://h/: 200 OK Output: x")], "critical", "c: not probed yet", False),
        ([check("c", "critical", "my script: success")], "critical", "c: my script: success", True),
        ([check("c", "critical"), check("d", "critical", "refused")], "critical", "c: not probed yet", True),
        ([check("c", "nonsense", "?")], "critical", "c: ?", True),
        ([check("_node_maintenance", "critical", "", "kernel")], "maintenance", "kernel", True),
        (
            [check("c", "critical", "x"), check("_service_maintenance:a", "critical", "", "drain")],
            "maintenance",
            "drain",
            True,
        ),
    ],
)
def test_the_worst_check_counts(checks: list[dict[str, Any]], state: str, note: str, probed: bool) -> None:
    entry = _only(raw("a", *checks))
    assert (entry.state, entry.note, entry.probed) == (state, note, probed)


def test_a_dead_agent_makes_its_instances_critical() -> None:
    item = raw("a", check("c", "passing"))
    item["Checks"][0] = check("serfHealth", "critical", "Agent not live or unreachable")
    entry = _only(item)
    assert (entry.state, entry.note, entry.probed) == ("critical", "serfHealth: Agent not live or unreachable", True)


def test_lists_that_go_marshals_as_null_are_empty() -> None:
    item = raw("a", Tags=None)
    item["Checks"] = None
    assert _only(item).state == "passing"


@pytest.mark.parametrize(
    "payload",
    [{}, None, [1], [{}], [{"Node": {}, "Service": 1}], [raw("a", Tags="x")], [raw("a", Address=7)], [raw("a", 5)]],  # type: ignore[arg-type]
)
def test_an_answer_of_something_else_is_malformed(payload: object) -> None:
    with pytest.raises(MalformedAnswerError):
        parse_entries(payload)


def test_notes_are_one_printable_short_line() -> None:
    assert one_line("  HTTP 500\r\n\x1b[31mfatal\t ") == "HTTP 500 [31mfatal"
    assert len(one_line("x" * 1000)) == 160
