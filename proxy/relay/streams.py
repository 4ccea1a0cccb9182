"""The two streams of a relayed call: `Call` towards the client, `Leg` towards the instance."""

from typing import Final

from mypy_extensions import i64

from proxy.balance.endpoint import Endpoint
from proxy.http2.connection import Connection
from proxy.http2.limits import STREAM_WINDOW
from proxy.http2.stream import Stream
from proxy.relay.counters import MethodCounters

# Octets of a request kept until the response begins, so that it can go to another instance unseen by the
# client. One window's worth: a call that still waits for an instance can never have sent more.
REPLAY_OCTETS: Final[i64] = STREAM_WINDOW
# Kept pieces below this size are joined, so that a dribble of tiny frames costs no object each.
_JOIN: Final[i64] = 4096


class Call(Stream):
    """The client's stream, and all that the relay knows of the call."""

    def __init__(self, stream_id: i64, send_window: i64, conn: Connection) -> None:
        super().__init__(stream_id, send_window)
        self.conn = conn
        self.leg: Leg | None = None
        self.row: MethodCounters | None = None
        self.started = 0.0
        # The request so far, while it can still be sent (again): header block, DATA, trailers.
        self.block = b""
        self.kept: list[bytes] = []
        self.kept_octets: i64 = 0  # in the budget as well
        self.kept_trailers: bytes | None = None
        self.replayable = True
        self.grpc = True
        self.replays: i64 = 0  # of what left and was not processed
        self.refusals: i64 = 0  # by instances at their stream limit
        self.avoid: Endpoint | None = None
        # In the cluster's queue, until `give_up_at` (seconds, monotonic) if no instance is connected by then.
        self.waiting = False
        self.give_up_at = 0.0
        self.answered = False  # response headers went out
        self.done = False  # counted as handled

    def keep(self, piece: bytes) -> None:
        """Keep a piece of the request; past a limit the call cannot be replayed.

        A call that waits has not been sent, so it keeps all that its window let in.
        """
        size: i64 = len(piece)
        budget = self.conn.budget
        if not self.waiting and (self.kept_octets + size > REPLAY_OCTETS or budget.spent()):
            self.forget()
            return
        self.kept_octets += size
        budget.held += size
        if self.kept and len(self.kept[-1]) + size <= _JOIN:
            self.kept[-1] += piece
        else:
            self.kept.append(piece)

    def forget(self) -> None:
        """The request will not be sent again."""
        if self.replayable:
            self.replayable = False
            self.conn.budget.held -= self.kept_octets
            self.block = b""
            self.kept = []
            self.kept_trailers = None

    def finish(self, code: i64, now: float) -> None:
        """Count the call as handled with a gRPC code, once."""
        if not self.done:
            self.done = True
            row = self.row
            if row is not None:
                row.finish(code, now - self.started)


class Leg(Stream):
    """The instance's stream of a call; `call` is None once the client's side has nothing more to do with it."""

    def __init__(self, stream_id: i64, send_window: i64, conn: Connection, call: Call) -> None:
        super().__init__(stream_id, send_window)
        self.conn = conn
        self.call: Call | None = call
        self.status: i64 = 200  # HTTP's, of the response so far
