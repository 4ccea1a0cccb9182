"""Watches one service in Consul: asks, judges, applies, and keeps the last good list when Consul cannot say."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from proxy.balance.instance import Instance
from proxy.discovery.health import Answer, QueryError
from proxy.discovery.histogram import Histogram
from proxy.discovery.pacing import Backoff, TokenBucket, next_index
from proxy.discovery.verdicts import HOLD_SECONDS, Verdicts, changes

log: Final = logging.getLogger(__name__)

Apply = Callable[[Sequence[Instance]], None]

# Seconds a blocking query may wait. An agent that is frozen, or servers that are, keep silent: after 17/16 of
# this and 5 s more that shows as an age and an error. One request in 30 s costs an agent nothing.
WAIT_SECONDS: Final = 30.0
# Shorter waits would spin at the end of a hold.
_SHORTEST_WAIT_SECONDS: Final = 0.1
# Answers that change nothing and come early are a server's quirk: 2 at once, then 1 a second. Answers that bring
# a change are what this is for: a rolling deployment of many instances is taken in bites of 0.1 s.
_IDLE_TURNS: Final = (2, 1.0)
_CHANGE_TURNS: Final = (10, 0.1)


class HealthQuery(Protocol):
    """Asks for the instances; `ConsulHealth` is the real one."""

    async def read(self, index: int, wait: float) -> Answer:
        """Answer what is newer than `index` within `wait` seconds, index 0 what is there. Raises QueryError."""

    async def close(self) -> None:
        """Release what it holds."""


class ConsulWatcher:
    """The instances of `service` (those with `tag`, if given) as Consul and its failures let them be known."""

    def __init__(
        self,
        query: HealthQuery,
        source: str,
        service: str,
        tag: str = "",
        *,
        hold_seconds: float = HOLD_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.source = source
        self.last_error = ""
        self.errors: dict[str, int] = {}
        self.propagation = Histogram()
        self._query = query
        self._label = f"{service} with tag {tag}" if tag else service
        self._clock = clock
        self._sleep = sleep
        self._verdicts = Verdicts(tag, hold_seconds)
        self._index = 0
        self._backoff = Backoff(uniform)
        self._idle_turns = TokenBucket(*_IDLE_TURNS)
        self._change_turns = TokenBucket(*_CHANGE_TURNS)
        self._last: Answer | None = None  # the latest answer that was taken
        self._lost_at: float | None = None

    def age(self) -> float | None:
        """Seconds since Consul last confirmed the list; None before the first time."""
        return None if self._last is None else max(0.0, self._clock() - self._last.received)

    async def run(self, apply: Apply) -> None:
        """Watch until cancelled, calling `apply` with the full list at every change."""
        try:
            while True:
                try:
                    answer = await self._ask()
                except QueryError as error:
                    self._failed(error)
                    await self._sleep(self._backoff.delay())
                else:
                    self._found()
                    delay = self._take(answer, apply)
                    if delay > 0:
                        await self._sleep(delay)
        finally:
            await self._query.close()

    async def _ask(self) -> Answer:
        """Return an answer to rely on. Raises QueryError."""
        asked = self._index
        answer = await self._query.read(asked, self._wait())
        index = answer.index
        if not answer.entries and asked:
            # An empty list may be a token that was revoked, or servers without a leader. Only an answer from
            # the leader, which one to a query without an index is, can tell.
            answer = await self._query.read(0, 0.0)
            if answer.entries:
                index = answer.index
        _check_empty(answer)
        self._index = next_index(asked, index)
        return answer

    def _wait(self) -> float:
        """How long the next query may wait: until a held list ends, if one is held."""
        until = self._verdicts.hold_until
        if until is None:
            return WAIT_SECONDS
        return min(WAIT_SECONDS, max(_SHORTEST_WAIT_SECONDS, until - self._clock()))

    def _take(self, answer: Answer, apply: Apply) -> float:
        """Judge and apply an answer; return the seconds to wait before the next query."""
        before, was_held, was_panic = self._verdicts.instances, self._verdicts.hold_until, self._verdicts.panic
        after = self._verdicts.judge(answer.entries, answer.received)
        first, news = self._last is None, self._last is None or self._last.entries != answer.entries
        self._last = answer
        if first or after != before:
            apply(after)
            now = self._clock()
            self.propagation.observe(max(0.0, now - answer.received))
            self._log_changes(before, after, first)
        if self._verdicts.hold_until is not None and was_held is None:
            seconds = self._verdicts.hold_until - answer.received
            log.warning(
                "no instance of %s is registered any more: keeping %d for %g s", self._label, len(after), seconds
            )
        if self._verdicts.panic and not was_panic:
            log.warning("all instances of %s are critical: routing to them all the same", self._label)
        turns = self._change_turns if news else self._idle_turns
        return turns.delay(self._clock())

    def _log_changes(self, before: Sequence[Instance], after: Sequence[Instance], first: bool) -> None:
        for line in changes(before, after):
            log.info("%s: %s", self._label, line)
        if not after:
            log.warning("%s: Consul knows no instance%s", self._label, "" if first else " any more")

    def _failed(self, error: QueryError) -> None:
        # No error answer has an index, and what comes after an error may be another server: start over.
        self._index = 0
        self.errors[error.reason] = self.errors.get(error.reason, 0) + 1
        self.last_error = f"{error.reason}: {error}"
        if self._lost_at is None:
            self._lost_at = self._clock()
            kept = len(self._verdicts.instances)
            log.warning(
                "%s is lost (%s): keeping the last list of %d, trying again", self.source, self.last_error, kept
            )

    def _found(self) -> None:
        self._backoff.reset()
        self.last_error = ""
        if self._lost_at is not None:
            log.info("%s is found after %.1f s", self.source, self._clock() - self._lost_at)
            self._lost_at = None


def _check_empty(answer: Answer) -> None:
    """Raise QueryError if a list without instances, read without an index, proves nothing."""
    if answer.entries:
        return
    if not answer.known_leader:
        raise QueryError("no_leader", "an empty list from servers that know no leader")
    if answer.filtered:
        raise QueryError("acl", "an empty list, as the token may not read the service or its nodes")
    if answer.hidden_by_default:
        raise QueryError("acl", "an empty list, as the ACL policy is deny and there is no token: set CONSUL_HTTP_TOKEN")
