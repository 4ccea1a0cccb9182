"""A client's connection: its requests become calls."""

from typing import Final, cast

from mypy_extensions import i64

from proxy.http2 import constants as c
from proxy.http2 import huffman
from proxy.http2.connection import Connection
from proxy.http2.fields import string
from proxy.http2.limits import Budget
from proxy.http2.sender import Carrier
from proxy.http2.stream import Stream
from proxy.http2.walk import text
from proxy.relay import answers, status
from proxy.relay.counters import Counters, MethodCounters
from proxy.relay.dispatch import Dispatcher
from proxy.relay.streams import Call
from proxy.relay.upstream import Upstream

_GRPC: Final = b"application/grpc"
_GRPC_PLAIN: Final = string(_GRPC)
_GRPC_CODED: Final = bytes([0x80 | len(huffman.encode(_GRPC))]) + huffman.encode(_GRPC)
# Seconds to wait for the answer to the PING between the two GOAWAYs.
_DRAIN_PING_SECONDS: Final = 1.0


class Downstream(Connection):
    """The server's side of one client connection."""

    def __init__(
        self, carrier: Carrier, budget: Budget, dispatcher: Dispatcher, counters: Counters, grpc: bool
    ) -> None:
        super().__init__(carrier, budget, True)
        self.dispatcher = dispatcher
        self.counters = counters
        self.grpc = grpc
        self._drain_since = -1.0

    def opened(self, stream_id: i64) -> Stream:
        """Make a call of the client's new stream."""
        return Call(stream_id, self.peer_window, self)

    def on_head(self, stream: Stream, block: bytes, end_stream: bool) -> None:
        """A request: route it."""
        call = cast(Call, stream)
        call.started = self.now
        row = self._row(block)
        row.started += 1
        call.row = row
        if not self._is_grpc(block):
            call.grpc = False
            if self.grpc:
                self.answer_http(call, 415, "This is a gRPC proxy; content-type has to begin with application/grpc.")
                return
        call.block = block
        self.dispatcher.route(call)

    def _row(self, block: bytes) -> MethodCounters:
        walk = self.walk
        if walk.path_end == 0:
            return self.counters.other
        spelling = block[walk.path_at - walk.start : walk.path_end - walk.start]
        row = self.counters.known(spelling)
        if row is None:
            row = self.counters.learn(spelling, text(spelling).decode("latin-1"))
        return row

    def _is_grpc(self, block: bytes) -> bool:
        walk = self.walk
        value = block[walk.type_at - walk.start : walk.type_end - walk.start]
        if value == _GRPC_CODED or value == _GRPC_PLAIN:  # noqa: SIM109 - compiled, a tuple would cost a loop
            return True
        return len(value) > 0 and text(value).startswith(_GRPC)

    def on_data(self, stream: Stream, data: bytes, start: i64, end: i64, end_stream: bool) -> None:
        """Part of a request: on to the instance, kept as long as a replay may need it."""
        call = cast(Call, stream)
        leg = call.leg
        octets = end - start
        if leg is None:
            if call.waiting:
                call.keep(data[start:end])
                self.holding(call, octets)
            else:
                self.passed_on(call, octets)  # answered already
            return
        if leg.gone or leg.local_closed:
            self.passed_on(call, octets)
            return
        if call.replayable:
            call.keep(data[start:end])
        sent = leg.conn.send_data(leg, data, start, end, end_stream)
        if sent > 0:
            self.passed_on(call, sent)
        if sent < octets:
            self.holding(call, octets - sent)

    def on_trailers(self, stream: Stream, block: bytes) -> None:
        """The end of a request, with fields."""
        call = cast(Call, stream)
        leg = call.leg
        if leg is not None and not leg.local_closed:
            leg.conn.send_block(leg, block, True)
        if call.replayable:
            call.kept_trailers = block

    def on_reset(self, stream: Stream, code: i64, ours: bool) -> None:
        """The client cancelled, or broke its stream: the instance is told, and what it was not sent is dropped."""
        call = cast(Call, stream)
        if call.waiting:
            self.dispatcher.abandon(call)
        outcome = status.of_reset(code)
        leg = call.leg
        if leg is not None:
            if not call.done:
                cast(Upstream, leg.conn).owner.count(outcome)
            call.leg = None
            leg.call = None
            leg.conn.reset_stream(leg, c.CANCEL if ours else code)
        call.forget()
        call.finish(outcome, self.now)

    def on_sent(self, stream: Stream, octets: i64) -> None:
        """Part of a response that had waited went out."""
        leg = cast(Call, stream).leg
        if leg is not None:
            leg.conn.released(leg, octets)

    def on_stream_end(self, stream: Stream) -> None:
        """The client's side is over."""
        if stream.local_closed and stream.remote_closed:
            # An ordinary end: let go of the leg, so that the pair is freed without the cycle collector.
            call = cast(Call, stream)
            leg = call.leg
            call.leg = None
            if leg is not None and not leg.local_closed:
                # The client has its answer, so what the instance has not read of the request is not needed.
                leg.conn.reset_stream(leg, c.NO_ERROR)
        if self.goaway_sent and self.streams.count == 0:
            self._finish_drain()

    def on_foreign(self, data: bytes) -> None:
        """Answer HTTP/1 in HTTP/1; anything else gets GOAWAY alone."""
        answer = answers.http_1(data)
        if answer:
            self.send_raw(answer)
            self.closed = True
            self.carrier.finish()

    def on_failed(self, code: i64, reason: str) -> None:
        """The client broke the protocol: its calls end here."""
        self.counters.protocol_error("downstream", c.error_name(code))
        self.lost(self.now)

    def lost(self, now: float) -> None:
        """The connection is gone: cancel its calls."""
        self.closed = True
        self.now = now
        streams = self.streams.all()
        for stream in streams:
            # First those that wait, or they would be sent to the places that the others leave.
            call = cast(Call, stream)
            if call.waiting:
                self.dispatcher.abandon(call)
        for stream in streams:
            self.retire(stream)
            self.on_reset(stream, c.CANCEL, True)

    # Answers of the relay's own.

    def answer(self, call: Call, code: i64, message: str) -> None:
        """End a call with a gRPC status, as trailers if its response has begun. gRPC PROTOCOL-HTTP2."""
        if call.gone:
            return
        call.finish(code, self.now)
        if not self.grpc:
            if call.answered:
                self.reset_behind(call, c.INTERNAL_ERROR)
            else:
                self.answer_http(call, 503, message)
            return
        if call.answered:
            self.send_block(call, answers.grpc_trailers(code, message), True)
        else:
            self.send_block(call, answers.grpc_only(code, message), True)
        self._stop_request(call)

    def answer_http(self, call: Call, code: i64, message: str) -> None:
        """End a call with an HTTP status and a line of text."""
        call.finish(status.of_http(code), self.now)
        call.answered = True
        body = message.encode() + b"\n"
        self.send_block(call, answers.http_head(code), False)
        self.send_data(call, body, 0, len(body), True)
        self._stop_request(call)

    def _stop_request(self, call: Call) -> None:
        """The answer is complete: the rest of the request is not needed. RFC 9113 section 8.1."""
        if not call.remote_closed:
            self.reset_behind(call, c.NO_ERROR)

    # Draining, section 6.8.

    def drain(self, now: float) -> None:
        """Ask the client to go elsewhere and let its calls finish: GOAWAY in two steps around a PING."""
        if self.closed or self._drain_since >= 0:
            return
        self.now = now
        self._drain_since = now
        self.introduce()
        self.send_goaway(c.MAX_ID, c.NO_ERROR, b"draining")
        self.send_ping(b"draining")

    def on_ping_ack(self) -> None:
        """The client has read the first GOAWAY, and all it opened before that is here."""
        self._last_goaway()

    def tick(self, now: float) -> None:
        """Once a second: do not wait long for that PING."""
        super().tick(now)
        if self._drain_since >= 0 and now - self._drain_since > _DRAIN_PING_SECONDS:
            self._last_goaway()

    def _last_goaway(self) -> None:
        if self._drain_since < 0 or self.goaway_sent or self.closed:
            return
        self.goaway_sent = True
        self.goaway_last = self.last_remote
        self.send_goaway(self.last_remote, c.NO_ERROR, b"draining")
        if self.streams.count == 0:
            self._finish_drain()

    def _finish_drain(self) -> None:
        if not self.closed:
            self.closed = True
            self.carrier.finish()
