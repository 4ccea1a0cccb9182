from collections.abc import Sequence

from proxy.balance.instance import Instance
from proxy.discovery.entries import Entry
from proxy.discovery.verdicts import Verdicts, changes
from tests.unit.discovery.samples import entry


def _up(instances: Sequence[Instance]) -> list[str]:
    return [instance.key.removeprefix("vm/") for instance in instances if instance.routable]


class _Judge:
    """Verdicts at scripted times."""

    def __init__(self, tag: str = "") -> None:
        self.verdicts = Verdicts(tag, hold_seconds=30.0)

    def __call__(self, *entries: Entry, at: float = 0.0) -> list[str]:
        return _up(self.verdicts.judge(entries, 1000.0 + at))

    def held_until(self) -> float | None:
        return self.verdicts.hold_until

    def panics(self) -> bool:
        return self.verdicts.panic


def test_passing_and_warning_serve_the_rest_does_not() -> None:
    judge = _Judge()
    assert judge(entry("a"), entry("b", "warning"), entry("c", "critical"), entry("d", "maintenance")) == ["a", "b"]
    assert [instance.state for instance in judge.verdicts.instances] == [
        "passing",
        "warning",
        "critical",
        "maintenance",
    ]
    assert judge.verdicts.instances[3].note == "because maintenance"


def test_only_the_tag_counts() -> None:
    judge = _Judge(tag="blue")
    assert judge(entry("a", tags=("blue",)), entry("b", tags=("green", "blues"))) == ["a"]
    assert [instance.key for instance in judge.verdicts.instances] == ["vm/a"]


def test_partial_removals_at_once() -> None:
    judge = _Judge()
    judge(entry("a"), entry("b"), entry("c"))
    assert judge(entry("b")) == ["b"]
    assert len(judge.verdicts.instances) == 1


def test_not_probed_goes_on_if_it_was_passing_before() -> None:
    judge = _Judge()
    judge(entry("a"), entry("b", "critical"), entry("c"))
    again = (entry("a", "critical", probed=False), entry("b", "critical", probed=False), entry("c"))
    assert judge(*again) == ["a", "c"]
    assert judge(*again) == ["a", "c"]
    assert judge(entry("a", "critical"), entry("b"), entry("c")) == ["b", "c"]
    assert judge(entry("a", "critical", probed=False), entry("b"), entry("c")) == ["b", "c"]


def test_a_new_instance_is_not_taken_before_its_first_probe() -> None:
    judge = _Judge()
    judge(entry("a"))
    assert judge(entry("a"), entry("new", "critical", probed=False)) == ["a"]


def test_one_that_left_and_came_back_is_new() -> None:
    judge = _Judge()
    judge(entry("a"), entry("b"))
    judge(entry("a"))
    assert judge(entry("a"), entry("b", "critical", probed=False)) == ["a"]


def test_an_id_that_moved_to_another_port_is_new() -> None:
    judge = _Judge()
    judge(entry("a"), entry("b"))
    assert judge(entry("a"), entry("b", "critical", probed=False, port=50001)) == ["a"]


def test_after_maintenance_it_must_be_probed_again() -> None:
    judge = _Judge()
    judge(entry("a"), entry("b"))
    judge(entry("a"), entry("b", "maintenance"))
    assert judge(entry("a"), entry("b", "critical", probed=False)) == ["a"]


def test_all_critical_routes_to_all_but_maintenance() -> None:
    judge = _Judge()
    judge(entry("a"), entry("b"), entry("c"))
    assert judge(entry("a", "critical"), entry("b", "critical"), entry("c", "maintenance")) == ["a", "b"]
    assert judge.panics()
    assert judge.verdicts.instances[0].note == "because critical (routed to, as all are critical)"
    assert judge(entry("a"), entry("b", "critical"), entry("c", "maintenance")) == ["a"]
    assert not judge.panics()


def test_all_in_maintenance_routes_to_none() -> None:
    judge = _Judge()
    judge(entry("a"))
    assert judge(entry("a", "maintenance")) == []
    assert not judge.panics()


def test_an_instance_without_a_port_is_never_routed_to() -> None:
    judge = _Judge()
    assert judge(entry("a", port=0)) == []
    assert judge(entry("a", "critical", port=0)) == []
    assert judge.verdicts.instances[0].note == "registered without a usable port"


def test_an_empty_list_is_held_and_then_believed() -> None:
    judge = _Judge()
    judge(entry("a"), entry("b", "maintenance"))
    assert judge(at=1) == ["a"]
    assert judge.held_until() == 1031.0
    assert "held for 30 s" in judge.verdicts.instances[0].note
    assert judge(at=30.9) == ["a"]
    assert judge(at=31) == []
    assert judge.verdicts.instances == ()
    assert judge.held_until() is None
    assert judge(at=32) == []


def test_nothing_to_hold_is_gone_at_once() -> None:
    judge = _Judge()
    assert judge() == []
    judge(entry("a", "maintenance"))
    assert judge() == []
    assert judge.verdicts.instances == ()


def test_instances_that_return_end_the_hold() -> None:
    judge = _Judge()
    judge(entry("a"), entry("b"))
    judge(at=1)
    assert judge(entry("c"), at=2) == ["c"]
    assert judge.held_until() is None
    assert judge(at=3) == ["c"]
    assert judge.held_until() == 1033.0


def test_a_rejoined_agent_returns_its_instances_one_by_one_unprobed() -> None:
    judge = _Judge()
    judge(entry("a"), entry("b"))
    judge(at=1)
    assert judge(entry("a", "critical", probed=False), at=5) == ["a"]
    assert judge(entry("a", "critical", probed=False), entry("b", "critical", probed=False), at=5.1) == ["a", "b"]


def test_what_was_held_is_forgotten_in_the_end() -> None:
    judge = _Judge()
    judge(entry("a"), entry("b"))
    judge(at=1)
    judge(entry("b"), at=31)
    assert judge(entry("a", "critical", probed=False), entry("b"), at=32) == ["b"]


def test_with_a_tag_that_nobody_has_any_more_the_list_is_held_too() -> None:
    judge = _Judge(tag="blue")
    judge(entry("a", tags=("blue",)), entry("b"))
    assert judge(entry("b"), at=1) == ["a"]
    assert judge(entry("b"), at=31) == []


def test_changes_are_told_with_their_reason() -> None:
    verdicts = Verdicts()
    before = verdicts.judge([entry("a"), entry("b"), entry("c"), entry("e")], 0.0)
    after = verdicts.judge([entry("a"), entry("b", "maintenance"), entry("d", "critical"), entry("e", "warning")], 1.0)
    assert changes((), before)[0] == "vm/a (10.0.0.1:50000) is up: passing"
    assert changes(before, after) == [
        "vm/b (10.0.0.1:50000) is down: maintenance, because maintenance",
        "vm/d (10.0.0.1:50000) is down: critical, because critical",
        "vm/e (10.0.0.1:50000) stays up: warning, because warning",
        "vm/c (10.0.0.1:50000) is gone",
    ]
    assert changes(after, after) == []
