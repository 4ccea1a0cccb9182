"""Strict turns, by themselves."""

from collections import Counter
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.balance.endpoint import Endpoint
from proxy.balance.policy import RoundRobin
from tests.wire import Relay, instance


@dataclass
class Turns:
    """A policy and the pools it picks from, by name."""

    relay: Relay
    policy: RoundRobin

    def endpoints(self, names: str) -> list[Endpoint]:
        self.relay.applies(names)
        return [self.relay.pool(name) for name in names]

    def pick(self, avoid: Endpoint | None = None) -> str:
        endpoint = self.policy.pick(avoid)
        return "" if endpoint is None else endpoint.instance.key


def turns(names: str) -> Turns:
    made = Turns(Relay(""), RoundRobin())
    made.policy.changed(made.endpoints(names))
    return made


def test_each_in_turn() -> None:
    abc = turns("abc")
    assert [abc.pick() for _ in range(7)] == list("abcabca")


def test_nobody_to_pick() -> None:
    assert RoundRobin().pick(None) is None
    assert turns("").pick() == ""
    lonely = Endpoint(instance("x"), 17)  # not connected
    policy = RoundRobin()
    policy.changed([lonely])
    assert policy.pick(None) is None


def test_the_one_to_avoid_is_taken_only_if_there_is_no_other() -> None:
    ab = turns("ab")
    first = ab.relay.pool("a")
    assert [ab.pick(first) for _ in range(3)] == ["b", "b", "b"]
    assert ab.pick() == "a"
    alone = turns("a")
    assert alone.pick(alone.relay.pool("a")) == "a"


def test_avoiding_takes_nobodys_turn() -> None:
    abc = turns("abc")
    first = abc.relay.pool("a")
    assert [abc.pick(first), abc.pick(), abc.pick()] == ["b", "c", "a"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.permutations("abcd"), st.integers(1, 4), st.integers(0, 40)), min_size=1, max_size=6))
def test_counts_differ_by_one_at_most_for_each_change(changes: list[tuple[list[str], int, int]]) -> None:
    made = Turns(Relay(""), RoundRobin())
    for names, size, calls in changes:
        present = [name for name in "abcd" if name in names[:size]]
        made.policy.changed(made.endpoints("".join(present)))
        counted = Counter(made.pick() for _ in range(calls))
        assert set(counted) <= set(present)
        counts = [counted[name] for name in present]
        assert max(counts) - min(counts) <= 1
