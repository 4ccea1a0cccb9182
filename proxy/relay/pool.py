"""One instance's connections: kept warm, grown when its stream limit is reached, redialled when lost."""

from typing import Final

from mypy_extensions import i64, mypyc_attr

from proxy.balance.endpoint import Endpoint
from proxy.balance.instance import Instance
from proxy.http2 import constants as c
from proxy.http2.limits import Budget
from proxy.http2.sender import Carrier
from proxy.relay.counters import GRPC_CODES, Counters
from proxy.relay.streams import Call
from proxy.relay.upstream import Owner, Upstream

# Connections to one instance, for those that offer few streams on each.
MAX_CONNECTIONS: Final = 8
# Seconds until the next try to connect: at once, then doubling. A refused connection costs next to nothing,
# and a new instance often listens a moment after its check passed.
FIRST_RETRY: Final = 0.05
LAST_RETRY: Final = 5.0
# Seconds a connection has to have worked for its loss to count as the first.
STEADY: Final = 1.0
# Seconds that a connection is left alone whose instance refused a stream within its limit: it does so while the end
# of another is still being written, which is a matter of microseconds unless it waits for a CPU.
CROWDED: Final = 0.005


@mypyc_attr(allow_interpreted_subclasses=True)
class Dialer:
    """Opens connections; `proxy.net` has the real one."""

    def dial(self, pool: "Pool", delay: float) -> None:
        """Connect to the pool's instance in `delay` seconds; tell it with `attach`, or `dial_failed`."""

    def hurry(self, pool: "Pool") -> None:
        """If the pool's dial still waits for its delay to pass, make it now."""

    def soon(self, pool: "Pool") -> None:
        """Call the pool's `recover` in `CROWDED` seconds."""

    def report(self, pool: "Pool", reason: str) -> None:
        """Tell people that an instance cannot be used, and why; or with an empty reason, that it can be again."""


class PoolOwner:
    """Whom a pool belongs to: a service's cluster."""

    def room(self) -> None:
        """A call that waits may find a place now."""

    def elsewhere(self, call: Call, pool: "Pool", reason: str) -> bool:
        """Send an unprocessed call to another instance; False if it was sent twice already or is not kept."""
        return False

    def lost(self, call: Call, message: str) -> None:
        """Answer a call whose instance was lost."""

    def idle(self, pool: "Pool") -> None:
        """A pool that is not wanted has no connection any more."""


class _Lane(Owner):
    """A pool as its connections see it."""

    def __init__(self, pool: "Pool") -> None:
        self.pool = pool

    def connected(self, conn: Upstream) -> None:
        self.pool.connected(conn)

    def freed(self, conn: Upstream) -> None:
        self.pool.owner.room()

    def limited(self, conn: Upstream) -> None:
        self.pool.limited()

    def retiring(self, conn: Upstream, reason: str) -> None:
        self.pool.retiring(conn, reason)

    def crowded(self, conn: Upstream) -> None:
        self.pool.crowded()

    def ended(self, conn: Upstream, reason: str) -> None:
        self.pool.ended(conn, reason)

    def replay(self, call: Call, reason: str) -> bool:
        return self.pool.owner.elsewhere(call, self.pool, reason)

    def settle_lost(self, call: Call, reason: str) -> None:
        self.pool.settle_lost(call, reason)

    def count(self, code: i64) -> None:
        self.pool.codes[code] += 1

    def protocol_error(self, code: i64) -> None:
        self.pool.counters.protocol_error("upstream", c.error_name(code))


class Pool(Endpoint):
    """An instance with its connections."""

    def __init__(
        self, instance: Instance, owner: PoolOwner, dialer: Dialer, budget: Budget, counters: Counters
    ) -> None:
        super().__init__(instance, len(GRPC_CODES))
        self.owner = owner
        self.counters = counters
        self.connections: list[Upstream] = []
        self.last_error = ""
        self.leaving = False  # gone from discovery: finishes what it has
        self.wanted = False  # routable: kept connected
        self._lane = _Lane(self)
        self._dialer = dialer
        self._budget = budget
        self._dialing = 0
        self._recovering = False
        self._failures = 0

    @property
    def open_calls(self) -> int:
        """Calls this instance has now."""
        return sum([conn.streams.count for conn in self.connections])

    def available(self) -> bool:
        """Whether a connection takes one more call."""
        return self.free() is not None

    def free(self) -> Upstream | None:
        """The first connection that takes one more call."""
        for conn in self.connections:
            if conn.ready():
                return conn
        return None

    def routable(self) -> bool:
        """Whether discovery lets new calls go there."""
        return self.instance.routable and not self.leaving

    def is_connected(self) -> bool:
        """Whether an instance that speaks HTTP/2 answers, be it busy or not."""
        return any(conn.usable for conn in self.connections)

    def send(self, call: Call) -> bool:
        """Send a call here; False if there is no place."""
        conn = self.free()
        if conn is None:
            return False
        conn.open(call)
        if conn.streams.count >= conn.peer_streams and self.free() is None:
            self._grow()
        return True

    def want(self, wanted: bool) -> None:
        """Keep the instance connected, or let its connections end with their last calls."""
        if wanted == self.wanted:
            self._rest()  # it may have lost its last connection before it left
            return
        self.wanted = wanted
        if wanted:
            self._failures = 0
            for conn in self.connections:
                conn.revive()
            if self._dialing > 0:
                self._dialer.hurry(self)  # it was put off when the instance was down
            elif self.free() is None:
                self._grow()
            return
        for conn in list(self.connections):
            conn.usable = False
            conn.close_if_idle()
        self._rest()

    def _grow(self) -> None:
        # Those that only finish what they have may be many: with streams of hours they must not block new ones.
        growing = sum([not conn.spent() for conn in self.connections])
        if self.wanted and self._dialing == 0 and growing < MAX_CONNECTIONS:
            self._dialing += 1
            delay = 0.0
            if self._failures > 0:
                delay = min(LAST_RETRY, FIRST_RETRY * 2 ** min(self._failures - 1, 10))
            self._dialer.dial(self, delay)

    def attach(self, carrier: Carrier) -> Upstream | None:
        """The dialer reached the instance: the connection to run, or None if it is no longer wanted."""
        self._dialing -= 1
        if not self.wanted:
            self._rest()
            return None
        conn = Upstream(carrier, self._budget, self._lane)
        self.connections.append(conn)
        return conn

    def dial_failed(self, reason: str) -> None:
        """The dialer did not reach the instance."""
        self._dialing -= 1
        self._failures += 1
        self._failed(reason)
        if self.free() is None:
            self._grow()
        self._rest()

    def connected(self, conn: Upstream) -> None:
        """The instance answered with SETTINGS."""
        if self.last_error:
            self.last_error = ""
            self._dialer.report(self, "")
        if self.wanted:
            self.owner.room()
        else:
            conn.usable = False
            conn.close_if_idle()

    def limited(self) -> None:
        """The instance has changed how many streams it allows on a connection."""
        self.owner.room()
        if self.free() is None:
            self._grow()

    def retiring(self, conn: Upstream, reason: str) -> None:
        """A connection takes no more calls: open the next one at once, unless another has a place."""
        if self.free() is None:
            self._grow()

    def ended(self, conn: Upstream, reason: str) -> None:
        """A connection is over; said again when its socket closes."""
        if conn not in self.connections:
            return
        self.connections.remove(conn)
        self._failed(reason)
        # One that worked for a while starts the back-off anew; one that never did, or for a moment only, goes on.
        self._failures = 1 if conn.age() >= STEADY else self._failures + 1
        if self.free() is None:
            self._grow()
        self._rest()

    def _failed(self, reason: str) -> None:
        """Keep why, and say it once; while another connection works, it is nobody's concern."""
        if not self.is_connected():
            if self.wanted and reason != self.last_error:
                self._dialer.report(self, reason)
            self.last_error = reason

    def label(self) -> str:
        """The instance and its address, for people."""
        instance = self.instance
        host = f"[{instance.host}]" if ":" in instance.host else instance.host
        address = f"{host}:{instance.port}"
        return address if instance.key == address else f"{instance.key} at {address}"

    def problem(self) -> str:
        """Why a wanted instance takes no calls, for people; empty if there is nothing to say."""
        if self.last_error or not self.connections or self.is_connected():
            return self.last_error
        return "it accepted the connection, but has not said anything in HTTP/2 yet"

    def crowded(self) -> None:
        """An instance refused a stream, though it should have a place for it."""
        if not self._recovering:
            self._recovering = True
            self._dialer.soon(self)

    def recover(self) -> None:
        """Those that were crowded take calls again."""
        self._recovering = False
        for conn in self.connections:
            conn.crowded = False
        self.owner.room()

    def settle_lost(self, call: Call, reason: str) -> None:
        """A call whose connection broke: nobody knows how far it got, so it is not sent again."""
        if not call.done:
            self.codes[14] += 1
        self.owner.lost(call, f"the connection to instance {self.label()} was lost: {reason}")

    def _rest(self) -> None:
        if not self.wanted and not self.connections and self._dialing == 0:
            self.owner.idle(self)
