import json

import pytest

from proxy.admin.status import describe, not_ready
from proxy.balance.instance import Instance
from tests.unit.admin.parts import ScriptedDiscovery, busy, cluster, connect, instance


def test_ready_with_one_connected_healthy_instance() -> None:
    target = cluster()
    target.apply([instance("a", "critical"), instance("b")])
    connect(target, "b")
    assert not_ready(target, ScriptedDiscovery(), draining=False) == ""


def test_not_ready_while_it_drains_whatever_else() -> None:
    target, discovery = busy()
    assert not_ready(target, discovery, draining=False) == ""
    assert not_ready(target, discovery, draining=True) == "draining"


@pytest.mark.parametrize(
    ("instances", "age", "reason"),
    [
        ([], None, "nothing heard from Consul at X yet: connection: refused; is --consul right, and an agent there?"),
        ([], 1.0, "no instance of greeter is known to Consul at X; is the name right, and an instance registered?"),
        (
            [instance("a", "critical"), instance("b", "critical"), instance("c", "maintenance")],
            1.0,
            "no healthy instance of greeter: 2 critical, 1 maintenance",
        ),
        ([instance("a")], 1.0, "none of 1 routable instances of greeter is connected: Connection refused"),
    ],
)
def test_not_ready_says_why(instances: list[Instance], age: float | None, reason: str) -> None:
    target, discovery = cluster(), ScriptedDiscovery()
    target.apply(instances)
    for pool in target.endpoints:
        pool.last_error = "Connection refused" if pool.routable() else ""
    discovery.seconds = age
    discovery.last_error = "connection: refused" if age is None else ""
    assert not_ready(target, discovery, draining=False) == reason


def test_instances_that_are_leaving_make_nothing_ready() -> None:
    target, discovery = cluster(), ScriptedDiscovery()
    discovery.seconds = 1.0
    target.apply([instance("a")])
    connect(target, "a")
    target.apply([])
    assert not_ready(target, discovery, draining=False) == "no healthy instance of greeter: 1 leaving"


def test_status_describes_service_instances_and_discovery() -> None:
    target, discovery = busy()
    status = json.loads(json.dumps(describe(target, discovery, "")))
    assert status["calls"] == {"started": 4, "handled": 3, "in_flight": 1, "waiting": 0}
    assert (status["service"], status["ready"], status["reason"]) == ("greeter", True, "")
    assert status["discovery"] == {
        "source": "Consul at X",
        "age_seconds": 1.5,
        "last_error": "",
        "errors": {"acl": 2},
    }
    by_address = {item["key"] + " " + item["address"]: item for item in status["instances"]}
    assert len(by_address) == 7
    assert by_address["vm/a 10.0.0.1:50000"] == {
        "key": "vm/a",
        "address": "10.0.0.1:50000",
        "state": "passing",
        "routable": True,
        "leaving": False,
        "connected": True,
        "connections": 1,
        "open_calls": 0,
        "finished_calls": {"OK": 5, "Unavailable": 2},
        "tags": ["blue"],
        "note": "note of a",
        "last_error": "",
    }
    assert by_address["vm/moved 10.0.0.1:50000"]["leaving"]
    assert not by_address["vm/moved 10.0.0.1:50001"]["leaving"]


def test_an_ipv6_address_is_in_brackets() -> None:
    target = cluster()
    target.apply([instance("a", host="::1")])
    assert describe(target, ScriptedDiscovery(), "x")["instances"][0]["address"] == "[::1]:50000"
