"""What to route to, given what Consul says now and said before. Pure: time is passed in."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from proxy.balance.instance import CRITICAL, PASSING, WARNING, Instance
from proxy.discovery.entries import Entry

# Seconds that the last good list outlives a confirmed empty one. A dev agent's restart, and a client agent that
# leaves and rejoins, look just like the removal of every instance; both are over well within this time. It
# costs nothing when they are really gone: their connections close, and calls fail the same way.
HOLD_SECONDS: Final = 30.0

_Identity = tuple[str, str, int]


class Verdicts:
    """Turns each list of entries into instances with a verdict, remembering what that takes."""

    def __init__(self, tag: str = "", hold_seconds: float = HOLD_SECONDS) -> None:
        self._tag = tag
        self._hold_seconds = hold_seconds
        self._up: set[_Identity] = set()  # those that were passing or warning when last probed
        self._remember_until = 0.0
        self.instances: tuple[Instance, ...] = ()
        """The latest verdict."""
        self.hold_until: float | None = None
        """When a held list ends, on the caller's clock; None while nothing is held."""
        self.panic = False
        """Whether all are critical and routed to all the same."""

    def judge(self, entries: Sequence[Entry], now: float) -> tuple[Instance, ...]:
        """Return the instances after an answer. An empty list must have been confirmed."""
        selected = [entry for entry in entries if not self._tag or self._tag in entry.tags]
        if selected:
            self.hold_until = None
            self.instances = self._judge(selected, now)
        else:
            self.instances = self._vanished(now)
        return self.instances

    def _judge(self, entries: list[Entry], now: float) -> tuple[Instance, ...]:
        if now >= self._remember_until:
            self._up &= {_identity(entry) for entry in entries}
        instances = tuple(self._verdict(entry) for entry in entries)
        self.panic = not any(instance.routable for instance in instances) and any(
            _worth_a_try(instance) for instance in instances
        )
        if not self.panic:
            return instances
        # A check that is wrong for all of them (a bad deployment of the checks, a partition between the agents
        # and the servers) must not stop traffic that would succeed. Maintenance is somebody's decision.
        return tuple(
            replace(instance, routable=True, note=f"{instance.note} (routed to, as all are critical)")
            if _worth_a_try(instance)
            else instance
            for instance in instances
        )

    def _verdict(self, entry: Entry) -> Instance:
        identity = _identity(entry)
        note = entry.note
        if entry.state in (PASSING, WARNING):  # as Consul's DNS: warning still serves
            self._up.add(identity)
            routable = True
        elif entry.state == CRITICAL and not entry.probed and identity in self._up:
            routable = True
            note += " (routed to, as it was passing before)"
        else:
            self._up.discard(identity)
            routable = False
        if entry.port == 0:
            routable = False
            note = "registered without a usable port"
        return Instance(entry.key, entry.host, entry.port, entry.state, routable, entry.tags, note)

    def _vanished(self, now: float) -> tuple[Instance, ...]:
        """Nothing is registered any more: hold what was routable for a while."""
        if self.hold_until is None:
            if not any(instance.routable for instance in self.instances):
                return ()
            self.hold_until = self._remember_until = now + self._hold_seconds
            note = f"gone from Consul with all others, held for {self._hold_seconds:g} s"
            return tuple(replace(instance, note=note) for instance in self.instances)
        if now < self.hold_until:
            return self.instances
        self.hold_until = None
        self.panic = False
        return ()


def changes(before: Sequence[Instance], after: Sequence[Instance]) -> list[str]:
    """What changed for traffic, one readable line for each instance."""
    old = {(instance.key, instance.host, instance.port): instance for instance in before}
    lines = []
    for instance in after:
        was = old.pop((instance.key, instance.host, instance.port), None)
        if was is None or was.routable != instance.routable:
            lines.append(f"{_label(instance)} is {'up' if instance.routable else 'down'}: {_why(instance)}")
        elif was.state != instance.state:
            lines.append(f"{_label(instance)} stays {'up' if instance.routable else 'down'}: {_why(instance)}")
    return lines + [f"{_label(instance)} is gone" for instance in old.values()]


def _identity(entry: Entry) -> _Identity:
    return entry.key, entry.host, entry.port


def _worth_a_try(instance: Instance) -> bool:
    return instance.state == CRITICAL and instance.port != 0


def _label(instance: Instance) -> str:
    host = f"[{instance.host}]" if ":" in instance.host else instance.host
    return f"{instance.key} ({host}:{instance.port})"


def _why(instance: Instance) -> str:
    return f"{instance.state}, {instance.note}" if instance.note else instance.state
