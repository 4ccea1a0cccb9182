"""The watcher against a scripted Consul: answers and failures in, lists, waits and logs out."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from proxy.balance.instance import Instance
from proxy.discovery.entries import Entry
from proxy.discovery.health import Answer, QueryError
from proxy.discovery.watcher import ConsulWatcher
from tests.unit.discovery.samples import entry


class _ScriptEndError(Exception):
    """The script has no more steps."""


@dataclass
class _Step:
    """What happens to one query: `takes` seconds pass, then an answer or a failure comes."""

    outcome: Answer | QueryError
    takes: float = 0.0


def said(index: int, *entries: Entry, takes: float = 0.0) -> _Step:
    return _Step(Answer(index, list(entries), received=0.0), takes)


def failed(reason: str, takes: float = 0.0) -> _Step:
    return _Step(QueryError(reason, f"scripted {reason}"), takes)


class _Scripted:
    """Clock, Consul and applied lists of one run."""

    def __init__(self, *steps: _Step, tag: str = "") -> None:
        self.now = 1000.0
        self.asked: list[tuple[int, float]] = []
        self.slept: list[float] = []
        self.applied: list[list[str]] = []
        self.closed = False
        self._steps = list(steps)
        self.watcher = ConsulWatcher(
            self,
            "Consul at X",
            "greeter",
            tag,
            clock=lambda: self.now,
            sleep=self._sleep,
            uniform=lambda low, high: high,
        )

    async def read(self, index: int, wait: float) -> Answer:
        if not self._steps:
            raise _ScriptEndError
        step = self._steps.pop(0)
        self.asked.append((index, wait if index else 0.0))
        self.now += step.takes
        if isinstance(step.outcome, QueryError):
            raise step.outcome
        return replace(step.outcome, received=self.now)

    async def close(self) -> None:
        self.closed = True

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def _apply(self, instances: Sequence[Instance]) -> None:
        self.applied.append([instance.key.removeprefix("vm/") for instance in instances if instance.routable])
        self.now += 0.002

    async def run(self) -> "_Scripted":
        with pytest.raises(_ScriptEndError):
            await self.watcher.run(self._apply)
        assert self.closed
        return self

    @property
    def indexes(self) -> list[int]:
        return [index for index, _ in self.asked]


async def test_every_change_is_applied_as_a_full_list_and_asked_on_from_its_index() -> None:
    run = await _Scripted(
        said(5, entry("a")),
        said(9, entry("a"), entry("b"), takes=3.0),
        said(12, entry("a", "maintenance"), entry("b"), takes=3.0),
    ).run()
    assert run.applied == [["a"], ["a", "b"], ["b"]]
    assert run.asked == [(0, 0.0), (5, 30.0), (9, 30.0)]
    assert run.slept == []


async def test_an_answer_without_news_is_not_applied_again() -> None:
    run = await _Scripted(said(5, entry("a")), said(5, entry("a"), takes=30.0), said(6, entry("a"), takes=30.0)).run()
    assert run.applied == [["a"]]
    assert run.indexes == [0, 5, 5]


async def test_a_lower_index_starts_over() -> None:
    run = await _Scripted(
        said(50, entry("a")), said(3, entry("a"), takes=30.0), said(4, entry("a"), entry("b")), said(4, takes=1.0)
    ).run()
    assert run.indexes[:3] == [0, 50, 0]
    assert run.applied[:2] == [["a"], ["a", "b"]]


async def test_an_error_keeps_the_list_starts_over_and_backs_off() -> None:
    run = await _Scripted(
        said(5, entry("a"), takes=1.0), *[failed("no_leader") for _ in range(8)], said(7, entry("a"))
    ).run()
    assert run.indexes == [0, 5, 0, 0, 0, 0, 0, 0, 0, 0]
    assert run.slept[:8] == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0]
    assert run.applied == [["a"]]
    assert run.watcher.errors == {"no_leader": 8}
    assert run.watcher.last_error == ""


async def test_back_off_begins_anew_after_a_success() -> None:
    run = await _Scripted(
        failed("connection"), failed("timeout"), said(5, entry("a")), failed("connection", takes=9.0)
    ).run()
    assert run.slept == [0.25, 0.5, 0.25]
    assert run.watcher.errors == {"connection": 2, "timeout": 1}
    assert run.watcher.last_error == "connection: scripted connection"


async def test_age_counts_from_the_last_answer() -> None:
    run = _Scripted(said(5, entry("a"), takes=1.0), failed("timeout", takes=40.0))
    assert run.watcher.age() is None
    await run.run()
    assert run.watcher.age() == pytest.approx(40.0 + 0.25 + 0.002)


async def test_nothing_is_applied_before_consul_answered() -> None:
    run = await _Scripted(failed("connection"), failed("acl")).run()
    assert run.applied == []


async def test_the_first_answer_is_applied_even_if_it_is_empty() -> None:
    run = await _Scripted(said(5), said(9, entry("a"), takes=2.0)).run()
    assert run.applied == [[], ["a"]]
    assert run.indexes == [0, 5]


async def test_an_empty_list_is_confirmed_then_held_then_applied() -> None:
    run = await _Scripted(
        said(5, entry("a")),
        said(9, takes=10.0),
        said(9),
        said(9, takes=30.0),
        said(9),
        said(9, takes=30.0),
        said(9),
    ).run()
    assert run.indexes == [0, 5, 0, 9, 0, 9, 0]
    assert run.applied == [["a"], ["a"], []]


async def test_the_wait_ends_with_the_hold() -> None:
    run = await _Scripted(
        said(5, entry("a")), said(9, takes=1.0), said(9), said(9, takes=20.0), said(9), said(9, takes=10.0), said(9)
    ).run()
    assert [wait for index, wait in run.asked if index == 9] == [
        pytest.approx(30.0, abs=0.1),
        pytest.approx(10.0, abs=0.1),
    ]
    assert run.applied[-1] == []


async def test_an_empty_list_that_the_leader_denies_is_not_believed() -> None:
    run = await _Scripted(
        said(5, entry("a")), said(1, takes=30.0), said(8, entry("a"), entry("b")), said(9, entry("b"), takes=1.0)
    ).run()
    assert run.applied == [["a"], ["a", "b"], ["b"]]
    assert run.indexes == [0, 5, 0, 8]


@pytest.mark.parametrize(
    ("doubt", "reason", "part"),
    [
        (Answer(1, [], 0.0, known_leader=False), "no_leader", "know no leader"),
        (Answer(1, [], 0.0, filtered=True), "acl", "may not read"),
        (Answer(1, [], 0.0, hidden_by_default=True), "acl", "set CONSUL_HTTP_TOKEN"),
    ],
)
@pytest.mark.parametrize("known", [True, False])
async def test_an_empty_list_that_proves_nothing_is_an_error(
    doubt: Answer, reason: str, part: str, known: bool
) -> None:
    # Empty at first sight too: then nothing is known, not that nothing is there.
    first = [said(5, entry("a")), said(6, takes=1.0)] if known else []
    run = await _Scripted(*first, _Step(doubt)).run()
    assert run.applied == ([["a"]] if known else [])
    assert run.watcher.errors == {reason: 1}
    assert part in run.watcher.last_error


async def test_a_revoked_token_keeps_the_list() -> None:
    # Streaming answers an unknown token with an empty list and index 1; the confirming read is refused.
    run = await _Scripted(said(5, entry("a")), said(1, takes=30.0), failed("acl"), failed("acl")).run()
    assert run.applied == [["a"]]
    assert run.watcher.errors == {"acl": 2}


async def test_instances_with_other_tags_alone_need_no_confirmation() -> None:
    run = await _Scripted(
        said(5, entry("a", tags=("blue",)), entry("b")), said(6, entry("b"), takes=1.0), tag="blue"
    ).run()
    assert run.indexes == [0, 5]
    assert run.applied == [["a"], ["a"]]


async def test_answers_without_news_are_limited_to_one_a_second() -> None:
    run = await _Scripted(said(5, entry("a")), *[said(5, entry("a")) for _ in range(5)]).run()
    assert run.slept == [pytest.approx(1.0), pytest.approx(1.0), pytest.approx(1.0)]


async def test_changes_are_never_late_by_more_than_a_tenth_of_a_second() -> None:
    steps = [said(index, entry("a"), entry(str(index))) for index in range(1, 31)]
    run = await _Scripted(*steps).run()
    assert len(run.applied) == 30
    assert max(run.slept) <= 0.1
    assert sum(run.slept) == pytest.approx(2.0, abs=0.2)


async def test_propagation_is_the_time_from_the_answer_until_it_is_applied() -> None:
    run = await _Scripted(said(5, entry("a")), said(6, entry("b"), takes=7.0)).run()
    assert run.watcher.propagation.sum == pytest.approx(0.004)
    assert sum(run.watcher.propagation.counts) == 2


async def test_consul_lost_and_found_is_logged_once_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await _Scripted(
        said(5, entry("a")),
        failed("connection", takes=1.0),
        failed("connection"),
        failed("timeout"),
        said(6, entry("a")),
    ).run()
    assert [record.message for record in caplog.records] == [
        "greeter: vm/a (10.0.0.1:50000) is up: passing",
        "Consul at X is lost (connection: scripted connection): keeping the last list of 1, trying again",
        "Consul at X is found after 1.8 s",
    ]


async def test_policies_are_logged_when_they_begin(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await _Scripted(
        said(5, entry("a")), said(6, entry("a", "critical"), takes=1.0), said(7, entry("a", "critical"), takes=9.0),
        said(8, takes=9.0), said(8), said(8, takes=30.0), said(8), said(8, takes=30.0), said(8),
    ).run()  # fmt: skip
    assert [record.message for record in caplog.records] == [
        "greeter: vm/a (10.0.0.1:50000) is up: passing",
        "greeter: vm/a (10.0.0.1:50000) stays up: critical, because critical (routed to, as all are critical)",
        "all instances of greeter are critical: routing to them all the same",
        "no instance of greeter is registered any more: keeping 1 for 30 s",
        "greeter: vm/a (10.0.0.1:50000) is gone",
        "greeter: Consul knows no instance any more",
    ]
