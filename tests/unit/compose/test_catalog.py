from compose.registry.catalog import Catalog
from compose.registry.definitions import service_from
from compose.registry.probes import Outcome


def catalog() -> tuple[Catalog, list[int]]:
    """A catalog and the indexes at which it said that it has changed."""
    seen: list[int] = []
    made = Catalog("node", lambda: seen.append(made.index))
    return made, seen


def register(registered: Catalog, name: str, **fields: object) -> None:
    registered.register(*service_from({"Name": name, "Check": {"TTL": "1m", "Status": "passing"}, **fields}), False)


def test_the_index_of_a_service_moves_with_it_alone() -> None:
    registered, seen = catalog()
    register(registered, "a")
    register(registered, "b")
    assert (registered.service_index("a"), registered.service_index("b")) == (2, 3)
    register(registered, "b", Port=1)
    assert (registered.service_index("a"), registered.service_index("b")) == (2, 4)
    assert seen == [2, 3, 4]


def test_no_change_moves_no_index() -> None:
    registered, seen = catalog()
    register(registered, "a")
    register(registered, "a")
    check = registered.ttl_check("service:a")
    registered.update(check, "passing", "other output")
    registered.maintenance("a", False, "")
    assert seen == [2]
    assert check.output == "other output"


def test_the_index_outlives_the_service() -> None:
    registered, _ = catalog()
    register(registered, "a")
    registered.deregister("a")
    assert registered.service_index("a") == 3
    assert registered.health("a", False, ()) == []


def test_a_result_for_a_check_that_is_gone_is_dropped() -> None:
    registered, seen = catalog()
    register(registered, "a")
    check = registered.ttl_check("service:a")
    registered.deregister("a")
    registered.update(check, "critical", "late")
    assert seen == [2, 3]


def test_a_moved_instance_concerns_both_services() -> None:
    registered, _ = catalog()
    register(registered, "a", ID="x")
    register(registered, "b", ID="x")
    assert (registered.service_index("a"), registered.service_index("b")) == (3, 3)


def outcome(**thresholds: int) -> Outcome:
    _, (check,) = service_from({"Name": "a", "Check": {"TCP": "h:1", "Interval": "1s", **thresholds}})
    return Outcome(check)


def test_one_result_decides_by_default() -> None:
    judged = outcome()
    assert [judged.judge(result, "old") for result in ("critical", "passing", "warning", "critical")] == [
        "critical",
        "passing",
        "warning",
        "critical",
    ]


def test_thresholds_hold_after_the_first_result() -> None:
    judged = outcome(SuccessBeforePassing=1, FailuresBeforeWarning=1, FailuresBeforeCritical=2)
    results = ["passing", "critical", "critical", "passing", "passing"]
    assert [judged.judge(result, "old") for result in results] == ["passing", "warning", "critical", "old", "passing"]
