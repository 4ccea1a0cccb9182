"""A connection to an instance: calls become its streams, and its responses go back."""

from typing import Final, cast

from mypy_extensions import i64

from proxy.http2 import constants as c
from proxy.http2.connection import Connection
from proxy.http2.limits import OUTPUT_HIGH, Budget
from proxy.http2.sender import Carrier
from proxy.http2.stream import Stream
from proxy.relay import status
from proxy.relay.streams import Call, Leg

# Stream ids are 31 bits and never used twice, so a connection is given up before it runs out; section 5.1.1.
_LAST_ID: Final[i64] = 0x7FFF_0000
# Why a call is sent again that was never written to a socket: that may be done any number of times.
NEVER_SENT: Final = "never_sent"
# Why a call is sent again that an instance refused at its stream limit. It may count a stream for longer than we
# do, as grpc-core does until the write of its end has returned, and so refuses what comes on the heels of an end.
AT_LIMIT: Final = "stream_limit"


class Owner:
    """Whom an upstream connection belongs to: an instance's pool."""

    def connected(self, conn: "Upstream") -> None:
        """The instance's SETTINGS have arrived: calls can go there."""

    def freed(self, conn: "Upstream") -> None:
        """A stream ended, so another may begin."""

    def limited(self, conn: "Upstream") -> None:
        """The instance's SETTINGS changed, and with them perhaps how many streams it allows."""

    def retiring(self, conn: "Upstream", reason: str) -> None:
        """The instance said GOAWAY, or ids run out: no new calls there."""

    def crowded(self, conn: "Upstream") -> None:
        """The instance has no place for a stream that we thought it had: `conn.crowded` is to be unset in a moment."""

    def ended(self, conn: "Upstream", reason: str) -> None:
        """The connection is over; its calls are settled by `settle_lost`."""

    def replay(self, call: Call, reason: str) -> bool:
        """Send an unprocessed call elsewhere; False if that cannot be."""
        return False

    def settle_lost(self, call: Call, reason: str) -> None:
        """Answer a call whose connection was lost while the instance had it."""

    def count(self, code: i64) -> None:
        """The instance finished a call with this gRPC code."""

    def protocol_error(self, code: i64) -> None:
        """The instance broke HTTP/2."""


class Upstream(Connection):
    """The client's side of one connection to an instance."""

    def __init__(self, carrier: Carrier, budget: Budget, owner: Owner) -> None:
        super().__init__(carrier, budget, False)
        self.owner = owner
        self.usable = False  # SETTINGS seen, and neither GOAWAY nor an end since
        self.crowded = False  # at its limit by the instance's count, if not by ours
        self._filled = False  # has had as many streams as the instance allows
        self._crowded = False
        self._handed_over: i64 = 0  # highest stream id that the carrier has taken
        self._usable_since = 0.0
        # The call opened last, and the output around its header block, to take it back while nothing has followed.
        self._fresh_id: i64 = 0
        self._fresh_last: i64 = 0  # `last_local` before it
        self._fresh_at: i64 = 0
        self._fresh_from: i64 = 0
        self._fresh_to: i64 = 0
        self._fresh_first = False

    def take(self) -> list[bytes | memoryview]:
        """All output so far; from here on nobody knows how far it gets."""
        self._handed_over = self.last_local
        taken = super().take()
        if self._crowded:
            self._crowded = False
            self.owner.freed(self)
        return taken

    def ready(self) -> bool:
        """Whether one more call can be opened now."""
        if not self.usable or self.crowded or self.streams.count >= self.peer_streams:
            return False
        if self.out_octets < OUTPUT_HIGH:
            return True
        # A frozen instance: what more is opened there would only fill memory. `take` says when that is over.
        self._crowded = True
        return False

    def age(self) -> float:
        """Seconds since the instance's SETTINGS came, 0 if they never did."""
        return self.now - self._usable_since if self.settings_seen else 0.0

    def open(self, call: Call) -> None:
        """Open a stream for the call and send what there is of its request."""
        self.now = call.conn.now
        before = self.last_local
        stream_id: i64 = before + 2 if before > 0 else 1
        self.last_local = stream_id
        self._fresh_id = 0
        leg = Leg(stream_id, self.peer_window, self, call)
        leg.is_head = call.is_head
        self.streams_seen += 1
        self.streams.put(leg)
        if self.streams.count >= self.peer_streams:
            self._filled = True
        call.leg = leg
        if stream_id >= _LAST_ID:
            self.retire_connection("stream ids are used up")
        if not call.kept and call.kept_trailers is None:
            self._fresh_id = stream_id
            self._fresh_last = before
            self._fresh_at = len(self._writer)
            self._fresh_from = self.out_octets
            self._fresh_first = self._first_block
            self.send_block(leg, call.block, call.remote_closed)
            self._fresh_to = self.out_octets
            return
        self._send_kept(call, leg)

    def reset_stream(self, stream: Stream, code: i64) -> None:
        """End a stream; one whose header block is the last of the output that nobody took was never there.

        Or a client that opens and resets in one go, CVE-2023-44487, would do to the instance what it cannot do to us.
        """
        fresh = stream.id == self._fresh_id and self.out_octets == self._fresh_to
        if fresh and stream.id > self._handed_over and self.usable and not stream.gone:
            self._fresh_id = 0
            self.last_local = self._fresh_last
            self._take_back(self._fresh_at, self._fresh_from, self._fresh_first)
            self.retire(stream)
        else:
            super().reset_stream(stream, code)

    def _send_kept(self, call: Call, leg: Leg) -> None:
        """The request as kept so far; its octets count as held by the call."""
        self.send_block(leg, call.block, False)
        last = len(call.kept) - 1
        ends = call.remote_closed and call.kept_trailers is None
        for index, piece in enumerate(call.kept):
            size: i64 = len(piece)
            sent = self.send_data(leg, piece, 0, size, ends and index == last)
            if sent > 0:
                call.conn.released(call, sent)
        if call.kept_trailers is not None:
            self.send_block(leg, call.kept_trailers, True)

    def retire_connection(self, reason: str) -> None:
        """Open no more calls here; it ends when those it has are done."""
        if self.usable:
            self.usable = False
            self.owner.retiring(self, reason)

    def spent(self) -> bool:
        """Whether no new call will ever be opened here."""
        return self.closed or self.goaway_received or self.last_local >= _LAST_ID

    def revive(self) -> None:
        """Open calls again on a connection that only finished what it had."""
        if self.settings_seen and not self.spent():
            self.usable = True

    def close_if_idle(self) -> None:
        """End a connection that is no longer wanted once its last call is done."""
        if not self.usable and self.streams.count == 0 and not self.closed:
            self.send_goaway(0, c.NO_ERROR, b"")
            self.closed = True
            self.carrier.finish()

    # Events.

    def on_settings(self) -> None:
        """The first SETTINGS make the connection usable; later ones may allow more streams, or fewer."""
        if not self.usable and not self.goaway_received and not self.closed and self.last_local == 0:
            self.usable = True
            self._usable_since = self.now
            self.owner.connected(self)
        else:
            self.owner.limited(self)

    def on_head(self, stream: Stream, block: bytes, end_stream: bool) -> None:
        """A response begins, or is whole in one block (Trailers-Only)."""
        leg = cast(Leg, stream)
        call = leg.call
        if call is None:
            return
        leg.status = self.walk.status
        if end_stream:
            code = self._code(call, leg)
            if code == status.CANCELLED and self.goaway_received and self.owner.replay(call, "cancelled_by_goaway"):
                # grpcio's server answers so without running the handler, while it stops.
                leg.call = None
                if not leg.local_closed:
                    self.reset_stream(leg, c.NO_ERROR)
                return
            self._finish(call, code)
        call.answered = True
        call.forget()
        call.conn.send_block(call, block, end_stream)

    def _code(self, call: Call, leg: Leg) -> i64:
        """The gRPC code of a response that the block just walked has ended."""
        code: i64 = self.walk.grpc_status
        if 0 <= code <= status.LAST:
            return code
        return _of_http(call, leg)

    def _finish(self, call: Call, code: i64) -> None:
        call.finish(code, self.now)
        self.owner.count(code)

    def on_trailers(self, stream: Stream, block: bytes) -> None:
        """A response ends with its status."""
        leg = cast(Leg, stream)
        call = leg.call
        if call is not None:
            self._finish(call, self._code(call, leg))
            call.conn.send_block(call, block, True)

    def on_data(self, stream: Stream, data: bytes, start: i64, end: i64, end_stream: bool) -> None:
        """Part of a response: on to the client."""
        leg = cast(Leg, stream)
        call = leg.call
        octets = end - start
        if call is None or call.gone or call.local_closed:
            self.passed_on(leg, octets)
            return
        if end_stream:
            self._finish(call, _of_http(call, leg))
        sent = call.conn.send_data(call, data, start, end, end_stream)
        if sent > 0:
            self.passed_on(leg, sent)
        if sent < octets:
            self.holding(leg, octets - sent)

    def on_sent(self, stream: Stream, octets: i64) -> None:
        """Part of a request that had waited went out."""
        call = cast(Leg, stream).call
        if call is not None:
            call.conn.released(call, octets)

    def on_refused(self) -> None:
        """The instance may count streams that have ended; trying again at once would only be refused again."""
        if self._filled:
            self.crowded = True
            self.owner.crowded(self)

    def on_reset(self, stream: Stream, code: i64, ours: bool) -> None:
        """The instance reset a stream: again elsewhere if it refused, else the client gets the same code."""
        leg = cast(Leg, stream)
        call = leg.call
        if call is None:
            return
        leg.call = None
        reason = AT_LIMIT if self._filled else "refused_stream"
        if code == c.REFUSED_STREAM and not ours and self.owner.replay(call, reason):
            return
        call.leg = None
        if not call.done:
            self._finish(call, status.of_reset(code))
        call.forget()
        call.conn.reset_behind(call, code)

    def on_stream_end(self, stream: Stream) -> None:
        """The stream is closed: what still waited in it will not go out, and another call may come."""
        leg = cast(Leg, stream)
        call = leg.call
        if call is not None and leg.pending_octets > 0:
            call.conn.released(call, leg.pending_octets)
        self.owner.freed(self)
        if not self.usable:
            self.close_if_idle()

    def on_goaway(self, last_id: i64, code: i64, debug: bytes) -> None:
        """The instance takes no more: what is above its last id was not processed and goes elsewhere."""
        self.retire_connection("GOAWAY " + c.error_name(code))
        for stream in self.streams.all():
            leg = cast(Leg, stream)
            call = leg.call
            if leg.id > last_id and call is not None:
                self.retire(leg)
                self.guard.remember(leg.id)  # an answer would be odd, but no reason to cut the other calls
                leg.call = None
                if not self.owner.replay(call, "goaway"):
                    self.owner.settle_lost(call, "the instance went away before it took the call")
        self.close_if_idle()

    def on_failed(self, code: i64, reason: str) -> None:
        """The instance broke the protocol."""
        self.owner.protocol_error(code)
        self.lost(self.now, f"{c.error_name(code)}: {reason}")

    def lost(self, now: float, reason: str) -> None:
        """The connection is gone: its calls are, too, as nobody knows how far they got."""
        self.closed = True
        self.now = now
        self.usable = False
        self.owner.ended(self, reason)
        for stream in self.streams.all():
            leg = cast(Leg, stream)
            call = leg.call
            self.retire(leg)
            if call is not None:
                leg.call = None
                if leg.id <= self._handed_over or not self.owner.replay(call, NEVER_SENT):
                    self.owner.settle_lost(call, reason)


def _of_http(call: Call, leg: Leg) -> i64:
    """The gRPC code of a response without grpc-status; for one to a request that is not gRPC, whether it failed."""
    if not call.grpc and leg.status < 400:
        return status.OK
    return status.of_http(leg.status)
