"""What became of the calls, and what the summary says of them. Pure: times come from outside."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

KEPT_PROBLEMS = 5
"""How many failures are shown word for word."""


@dataclass(frozen=True, slots=True)
class Call:
    """One ended call. Times are seconds of the monotonic clock; `problem` is empty if it went well."""

    kind: str
    started: float
    ended: float
    by: str
    problem: str


@dataclass(slots=True)
class Tally:
    """All calls of a run."""

    calls: list[Call] = field(default_factory=list)
    sent: int = 0
    asleep: dict[str, int] = field(default_factory=dict)

    def add(self, report: dict[str, Any]) -> None:
        """Take in one report of the load."""
        self.sent = report["sent"]
        self.asleep = report["asleep"]
        self.calls.extend(Call(*call) for call in report["ended"])

    @property
    def failed(self) -> list[Call]:
        """The calls that did not end well."""
        return [call for call in self.calls if call.problem]

    def by_instance(self) -> Counter[str]:
        """How many calls each instance served."""
        return Counter(call.by for call in self.calls if not call.problem)

    def by_kind(self) -> Counter[str]:
        """How many calls ended, by kind."""
        return Counter(call.kind for call in self.calls)

    def finished_after(self, by: str, moment: float) -> Counter[str]:
        """The calls, by kind, that were open in the instance `by` at `moment` and that it finished."""
        return Counter(
            call.kind
            for call in self.calls
            if call.by == by and not call.problem and call.started < moment < call.ended
        )

    def rate(self, seconds: float, now: float) -> dict[str, float]:
        """Return the calls each instance ended per second, over the last `seconds`."""
        recent: Counter[str] = Counter()
        for call in reversed(self.calls):
            # Calls are kept in the order of their ends.
            if call.ended < now - seconds:
                break
            recent[call.by or "failed"] += 1
        return {name: count / seconds for name, count in recent.items()}

    def first_after(self, by: str, moment: float) -> float | None:
        """Return how long after `moment` the first call that `by` served was started, None if none was."""
        starts = [call.started for call in self.calls if call.by == by and call.started >= moment]
        return min(starts) - moment if starts else None

    def last_after(self, by: str, moment: float, until: float) -> float | None:
        """Return how long after `moment`, and before `until`, the last call that `by` served was started.

        None if none was: all that came after `moment` went elsewhere.
        """
        starts = [call.started for call in self.calls if call.by == by and moment < call.started < until]
        return max(starts) - moment if starts else None


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of `values` do not exceed (nearest rank); raises `ValueError` if none."""
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


@dataclass(frozen=True, slots=True)
class Switch:
    """One deployment: `new` came and `old` went. Times are seconds of the monotonic clock."""

    old: str
    new: str
    new_visible: float
    sigterm: float
    old_hidden: float
    old_exit: int
    old_ended: float


@dataclass(frozen=True, slots=True)
class Latency:
    """What the same call took through the sidecar and directly, in seconds."""

    sidecar: Sequence[float]
    direct: Sequence[float]

    def added(self, share: float) -> float:
        """Return by how much the quantile through the sidecar is above the direct one."""
        return quantile(self.sidecar, share) - quantile(self.direct, share)


def problems(tally: Tally, switches: Sequence[Switch], seconds: float, wanted_rate: float) -> list[str]:
    """Return what was not as it should be, nothing if all was well."""
    found = [f"{len(tally.failed)} of {tally.sent} calls failed"] if tally.failed else []
    found += [f"  {call.kind} call: {call.problem}" for call in tally.failed[:KEPT_PROBLEMS]]
    if tally.sent != len(tally.calls):
        found.append(f"{tally.sent - len(tally.calls)} calls have no result")
    if tally.sent < wanted_rate * seconds:
        found.append(f"only {tally.sent / seconds:.0f} calls/s were sent, {wanted_rate:.0f} were wanted")
    for switch in switches:
        if switch.old_exit:
            found.append(f"{switch.old} exited with {switch.old_exit}")
        if not tally.finished_after(switch.old, switch.sigterm)["sleep"]:
            found.append(f"{switch.old} had no call asleep at SIGTERM")
    return found


def summary(tally: Tally, switches: Sequence[Switch], latency: Latency, seconds: float) -> list[tuple[str, str]]:
    """Return the lines of the summary, each a label and a value."""
    kinds = tally.by_kind()
    lines = [
        (
            "calls sent",
            f"{tally.sent} in {seconds:.0f} s ({tally.sent / seconds:.0f}/s): {kinds['unary']} unary, "
            f"{kinds['sleep']} asleep for a while, {kinds['stream']} streams",
        ),
        ("failed", str(len(tally.failed))),
        ("by instance", ", ".join(f"{name} {count}" for name, count in sorted(tally.by_instance().items()))),
    ]
    for number, switch in enumerate(switches, 1):
        lines += _switch_lines(tally, switch, next((later.new_visible for later in switches[number:]), math.inf))
    lines += [
        ("call, p50", _latency(latency, 0.5)),
        ("call, p99", _latency(latency, 0.99)),
    ]
    return lines


def _switch_lines(tally: Tally, switch: Switch, until: float) -> list[tuple[str, str]]:
    finished = tally.finished_after(switch.old, switch.sigterm)
    # Between its SIGTERM and the next deployment the old instance's name stands for the old process alone.
    last = tally.last_after(switch.old, switch.old_hidden, until)
    first = tally.first_after(switch.new, switch.new_visible)
    label = f"{_short(switch.old)} -> {_short(switch.new)}"
    return [
        (
            f"{label}, finished",
            f"{sum(finished.values())} calls by {_short(switch.old)} after SIGTERM "
            f"({finished['sleep']} asleep, {finished['stream']} streams), "
            f"exit {switch.old_exit} after {switch.old_ended - switch.sigterm:.1f} s",
        ),
        (
            f"{label}, followed",
            f"after the registry's change: first call to {_short(switch.new)} {_after(first)}, "
            f"last call to {_short(switch.old)} {_after(last)}",
        ),
    ]


def _short(name: str) -> str:
    return name.rpartition("-")[2]


def _after(seconds: float | None) -> str:
    return "before it" if seconds is None else f"{seconds * 1000:.0f} ms"


def _latency(latency: Latency, share: float) -> str:
    through, directly = quantile(latency.sidecar, share), quantile(latency.direct, share)
    return (
        f"{through * 1000:.2f} ms through the sidecar, {directly * 1000:.2f} ms directly: "
        f"{latency.added(share) * 1000:+.2f} ms"
    )
