"""One service: its instances, the calls that wait for one, and what happens to calls that lost theirs."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, cast

from mypy_extensions import i64

from proxy.balance.endpoint import Endpoint
from proxy.balance.instance import Instance
from proxy.balance.policy import Policy
from proxy.http2.limits import Budget
from proxy.relay import status
from proxy.relay.counters import Counters
from proxy.relay.dispatch import Dispatcher
from proxy.relay.downstream import Downstream
from proxy.relay.pool import Dialer, Pool, PoolOwner
from proxy.relay.streams import Call
from proxy.relay.upstream import AT_LIMIT, NEVER_SENT

# Calls that wait for an instance or a free stream; past it calls fail at once with UNAVAILABLE. As Envoy's
# max_pending_requests.
MAX_WAITING: Final = 1024
# Calls in the queue that their clients have given up, beside as many as wait; past it they are sorted out.
_ABANDONED: Final = 64
# Times that instances at their stream limit may refuse a call, with a pause between: it ends what would go on for
# ever with an instance that refuses everything.
_REFUSALS: Final = 256


class _Desk(PoolOwner):
    """A cluster as its pools see it."""

    def __init__(self, cluster: "Cluster") -> None:
        self.cluster = cluster

    def room(self) -> None:
        self.cluster.pump()

    def elsewhere(self, call: Call, pool: Pool, reason: str) -> bool:
        return self.cluster.replay(call, pool, reason)

    def lost(self, call: Call, message: str) -> None:
        self.cluster.lost(call, message)

    def idle(self, pool: Pool) -> None:
        self.cluster.idle(pool)


class Cluster(Dispatcher):
    """Routes the calls of one service."""

    def __init__(
        self,
        service: str,
        policy: Policy,
        dialer: Dialer,
        budget: Budget,
        counters: Counters,
        wait_seconds: float,
    ) -> None:
        self.service = service
        self.counters = counters
        self.endpoints: list[Pool] = []
        self._policy = policy
        self._dialer = dialer
        self._budget = budget
        self._wait_seconds = wait_seconds
        self._desk = _Desk(self)
        self._queue: deque[Call] = deque()
        self.waiting: i64 = 0
        self.last_error = ""
        # Why there is no instance at all, which discovery knows.
        self.absence: Callable[[], str] = _absence

    # Instances.

    def apply(self, instances: Sequence[Instance]) -> None:
        """Take the full list of instances. Those that left finish the calls they have and are never cut."""
        known = {_identity(pool.instance): pool for pool in self.endpoints}
        for pool in self.endpoints:
            pool.leaving = True
        fresh: list[Pool] = []
        for instance in instances:
            found = known.get(_identity(instance))
            if found is None:
                fresh.append(Pool(instance, self._desk, self._dialer, self._budget, self.counters))
            else:
                found.leaving = False
                found.instance = instance
        # Those known keep their order, so that turns go on.
        self.endpoints += fresh
        self._policy.changed([cast(Endpoint, pool) for pool in self.endpoints if pool.routable()])
        for pool in list(self.endpoints):
            pool.want(pool.routable())
        self.pump()

    def idle(self, pool: Pool) -> None:
        """An instance that left has no connection any more."""
        if pool.leaving and pool in self.endpoints:
            self.endpoints.remove(pool)

    # Calls.

    def route(self, call: Call) -> None:
        """Send a new call to the next instance, or let it wait."""
        if self.waiting == 0 and self._send(call):
            return
        if self.waiting >= MAX_WAITING:
            self.counters.lose("queue_full")
            self._answer(call, f"{self.waiting} calls are waiting already; {self._state()}")
            return
        self._wait(call)

    def _send(self, call: Call) -> bool:
        endpoint = self._policy.pick(call.avoid)
        return endpoint is not None and cast(Pool, endpoint).send(call)

    def _wait(self, call: Call) -> None:
        call.waiting = True
        call.give_up_at = call.conn.now + self._wait_seconds
        if not call.gone:
            self._queue.append(call)
            self.waiting += 1

    def pump(self) -> None:
        """Send waiting calls, oldest first, as long as there is a place."""
        while self._queue:
            call = self._queue[0]
            if call.waiting:
                call.waiting = False
                if not self._send(call):
                    call.waiting = True
                    return
                self.waiting -= 1
            self._queue.popleft()

    def abandon(self, call: Call) -> None:
        """A waiting call was reset by its client; the queue drops it when its turn comes, or when most are such."""
        call.waiting = False
        self.waiting -= 1
        if len(self._queue) > 2 * self.waiting + _ABANDONED:
            self._queue = deque([other for other in self._queue if other.waiting])

    def replay(self, call: Call, pool: Pool, reason: str) -> bool:
        """Send a call that `pool` provably did not process elsewhere: once.

        Without limit if it never left, and more often if the instance had just no place for it.
        """
        if not call.replayable or call.answered or call.gone:
            return False
        if reason == AT_LIMIT:
            call.refusals += 1
            if call.refusals > _REFUSALS:
                return False
        elif reason != NEVER_SENT:
            if call.replays > 0:
                return False
            call.replays += 1
        self.counters.replayed(reason)
        call.avoid = pool
        call.leg = None
        if call.kept_octets > call.held:
            call.conn.holding(call, call.kept_octets - call.held)
        if not self._send(call):
            self._wait(call)
        return True

    def lost(self, call: Call, message: str) -> None:
        """The instance's connection broke while it had the call."""
        call.leg = None
        if call.done:
            # Its response is on its way to the client; only the rest of the request is lost.
            if not call.gone:
                call.conn.reset_behind(call, 0)
            return
        self.counters.lose("connection_lost")
        self._answer(call, message)

    def tick(self, now: float) -> None:
        """Once a second, and at `wait_seconds`' pace at least: end the wait of calls that nobody can take."""
        if self.waiting == 0:
            return
        for pool in self.endpoints:
            if pool.wanted and pool.is_connected():
                return  # busy, not absent: the client's own deadline decides
        while self._queue:
            call = self._queue[0]
            if call.waiting:
                if call.give_up_at > now:
                    return
                call.waiting = False
                self.waiting -= 1
                call.conn.now = now
                self.counters.lose("no_instance")
                self._answer(call, self._state())
            self._queue.popleft()

    def _answer(self, call: Call, message: str) -> None:
        self.last_error = message
        call.forget()
        cast(Downstream, call.conn).answer(call, status.UNAVAILABLE, f"service {self.service}: {message}")

    def _state(self) -> str:
        """How many instances there are, in which states, and the last error; for people."""
        if not self.endpoints:
            return self.absence()
        states: dict[str, int] = {}
        errors = ""
        for pool in self.endpoints:
            state = "leaving" if pool.leaving else pool.instance.state
            if pool.wanted:
                state += " and connected" if pool.is_connected() else " but not connected"
            states[state] = states.get(state, 0) + 1
            problem = pool.problem()
            if problem:
                errors = f"; last error: {pool.label()}: {problem}"
        counted = ", ".join([f"{count} {state}" for state, count in sorted(states.items())])
        number = len(self.endpoints)
        return f"{number} instance{'s' if number > 1 else ''} ({counted}), none takes the call{errors}"


def _absence() -> str:
    return "no instance is known"


def _identity(instance: Instance) -> tuple[str, str, int]:
    """Another address is another instance, whatever its id says."""
    return instance.key, instance.host, instance.port
