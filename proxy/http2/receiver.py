"""The reading half of a connection, as far as streams go: DATA, receive windows, errors of the peer.

Events are calls of the `on_...` methods, which a subclass overrides. Errors follow RFC 9113 section 5.4; what a
hostile peer can do cheaply in numbers is a connection error (CVE-2025-8671), so that it cannot make the relay
reset streams for it.
"""

from typing import Final

from mypy_extensions import i64

from proxy.http2 import constants as c
from proxy.http2 import limits
from proxy.http2.guard import Guard
from proxy.http2.limits import Budget
from proxy.http2.sender import Carrier, Sender
from proxy.http2.stream import Stream

_CREDIT_AT: Final[i64] = limits.CONNECTION_WINDOW // 2


class Receiver(Sender):
    """DATA in, and the credit the peer gets for it. `Connection` adds the other frames."""

    def __init__(self, carrier: Carrier, budget: Budget, server: bool) -> None:
        super().__init__(carrier, budget)
        self.server = server
        self.guard = Guard()
        self.last_remote: i64 = 0  # highest stream id the peer has opened (server)
        self.last_local: i64 = 0  # highest stream id we have opened (client)
        self.fault = ""
        self._receive_left: i64 = limits.CONNECTION_WINDOW
        self._unreturned: i64 = 0
        self._starved = False
        # The DATA frame under way: octets still to come (padding apart), its stream (None: discard), its end.
        self._data_left: i64 = 0
        self._pad_left: i64 = 0
        self._data_stream: Stream | None = None
        self._data_end = False

    # Hooks for a subclass. None of them may raise.

    def opened(self, stream_id: i64) -> Stream:
        """Make the stream that the peer has opened."""
        return Stream(stream_id, self.peer_window)

    def on_head(self, stream: Stream, block: bytes, end_stream: bool) -> None:
        """A request's or response's header block arrived and is sound; `walk` says what it holds."""

    def on_trailers(self, stream: Stream, block: bytes) -> None:
        """Trailers arrived; the peer has ended the stream."""

    def on_data(self, stream: Stream, data: bytes, start: i64, end: i64, end_stream: bool) -> None:
        """A piece of DATA arrived; call `passed_on` or `holding` for its octets."""

    def on_reset(self, stream: Stream, code: i64, ours: bool) -> None:
        """The peer has reset the stream, or broken it (`ours`, with the code it was told); it is gone already."""

    def on_refused(self) -> None:
        """The peer refuses a stream; `on_reset` follows, once the stream is gone."""

    def on_goaway(self, last_id: i64, code: i64, debug: bytes) -> None:
        """The peer takes no new streams and will not process those above `last_id`."""

    def on_settings(self) -> None:
        """The peer's SETTINGS were applied."""

    def on_ping_ack(self) -> None:
        """The peer answered a PING."""

    def on_foreign(self, data: bytes) -> None:
        """What a client sent is not HTTP/2's preface; the connection ends after this."""

    def on_failed(self, code: i64, reason: str) -> None:
        """The connection is over with an error of ours; GOAWAY is written."""

    def over(self) -> bool:
        """Whether the connection has failed or ended; asked anew, as a type checker trusts a tested attribute."""
        return self.closed

    def fail(self, code: i64, reason: str) -> None:
        """A connection error, section 5.4.1: GOAWAY with the code, then close."""
        if self.closed:
            return
        self.closed = True
        self.fault = reason
        self.send_goaway(self.last_remote, code, reason.encode())
        self.on_failed(code, reason)
        self.carrier.finish()

    def _glitch(self) -> None:
        if not self.guard.glitches.take(self.now):
            self.fail(c.ENHANCE_YOUR_CALM, "too many frames that do nothing")

    def _check_unread(self) -> None:
        if self.paused and self.out_octets > limits.QUEUED_CONTROL:
            self.fail(c.ENHANCE_YOUR_CALM, "the peer does not read what it asks for")

    def _resize_windows(self, size: i64) -> None:
        """Apply INITIAL_WINDOW_SIZE to all streams, which may go below 0. Section 6.9.2."""
        delta = size - self.peer_window
        self.peer_window = size
        for stream in self.streams.all():
            stream.send_window += delta
            if stream.send_window > c.MAX_WINDOW:
                self.fail(c.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE overflows a stream's window")
                return
            if stream.pending is not None:
                self._enqueue(stream)

    # DATA, section 6.1.

    def _data(self, data: bytes, pos: i64, length: i64, flags: i64, stream_id: i64) -> i64:
        """The frame behind its header: account for all of it; the position to go on from."""
        self._receive_left -= length
        if self._receive_left < 0:
            self.fail(c.FLOW_CONTROL_ERROR, "DATA beyond the connection window")
            return pos
        # Connection credit goes back on receipt, stream credit only once the octets have moved on, so a slow
        # receiver stalls its own stream and no other. Padding and discarded DATA count too, section 6.9.
        self._unreturned += length
        if self._unreturned >= _CREDIT_AT:
            self.send_credit(0, self._unreturned)
            self._receive_left += self._unreturned
            self._unreturned = 0
        stream = self.streams.get(stream_id)
        if stream is None or stream.remote_closed:
            if not self._late(stream_id, stream, "DATA"):
                return pos
            stream = None
        elif not stream.headers_seen:
            self.fail(c.PROTOCOL_ERROR, "DATA ahead of HEADERS")
            return pos
        else:
            stream.receive_left -= length
            if stream.receive_left < 0:
                self.fail(c.FLOW_CONTROL_ERROR, "DATA beyond the stream's window")
                return pos
        pad: i64 = 0
        if flags & c.FLAG_PADDED != 0:
            if length == 0:
                self.fail(c.FRAME_SIZE_ERROR, "padded DATA without a pad length")
                return pos
            pad = data[pos]
            pos += 1
            length -= 1
            if pad > length:
                self.fail(c.PROTOCOL_ERROR, "more padding than DATA")
                return pos
            length -= pad
            if stream is not None and not stream.remote_closed:
                self._credit(stream)  # padding goes nowhere; it is no sign of a receiver that keeps up either
        self._data_left = length
        self._pad_left = pad
        self._data_stream = stream
        self._data_end = flags & c.FLAG_END_STREAM != 0
        if length == 0:
            self._empty_data(stream)
        else:
            self.guard.empties = 0
        return pos

    def _empty_data(self, stream: Stream | None) -> None:
        if self._data_end:
            if stream is not None:
                self._deliver(stream, b"", 0, 0, True)
            return
        self.guard.empties += 1
        if self.guard.empties > limits.EMPTY_FRAMES:
            self.fail(c.ENHANCE_YOUR_CALM, "too many empty DATA frames")

    def _data_piece(self, data: bytes, pos: i64, size: i64) -> i64:
        """As much of the DATA frame under way as this read holds; the position behind it."""
        left = self._data_left
        if left > 0:
            piece = left
            if piece > size - pos:
                piece = size - pos
            self._data_left = left - piece
            stream = self._data_stream
            if stream is not None and not stream.gone:
                self._deliver(stream, data, pos, pos + piece, self._data_end and piece == left)
            pos += piece
        if self._data_left == 0 and self._pad_left > 0:
            skip = self._pad_left
            if skip > size - pos:
                skip = size - pos
            self._pad_left -= skip
            pos += skip
        return pos

    def _deliver(self, stream: Stream, data: bytes, start: i64, end: i64, end_stream: bool) -> None:
        if stream.data_left >= 0:
            stream.data_left -= end - start
            if stream.data_left < 0 or (end_stream and stream.data_left > 0):
                self._broken(stream, c.PROTOCOL_ERROR)  # content-length, section 8.1.1
                return
        if end_stream:
            stream.remote_closed = True
        self.on_data(stream, data, start, end, end_stream)
        if end_stream and stream.local_closed:
            self.retire(stream)

    def passed_on(self, stream: Stream, octets: i64) -> None:
        """Octets of `stream` have entered the other socket, or were dropped: the peer may send as many more."""
        stream.passed += octets
        if not stream.remote_closed and not stream.gone:
            self._credit(stream)

    def holding(self, stream: Stream, octets: i64) -> None:
        """Octets of `stream` wait for their receiver; `released` gives them back."""
        stream.held += octets
        stream.passed = 0

    def released(self, stream: Stream, octets: i64) -> None:
        """Octets that had waited have entered the other socket."""
        stream.held -= octets
        if not stream.remote_closed and not stream.gone:
            self._credit(stream)

    def _credit(self, stream: Stream) -> None:
        """Top the stream's window up when half of it is used. It doubles whenever a whole window passed unhindered,
        and goes no higher than where it started while octets wait."""
        if stream.passed >= stream.window:
            stream.passed = 0
            if stream.window < limits.MAX_STREAM_WINDOW:
                stream.window = min(2 * stream.window, limits.MAX_STREAM_WINDOW)
        target = stream.window
        if stream.held > 0 and target > limits.STREAM_WINDOW:
            target = limits.STREAM_WINDOW
        credit = target - stream.held - stream.receive_left
        if credit * 2 < target:
            return
        if self.budget.spent():
            self._starved = True
            return
        stream.receive_left += credit
        self.send_credit(stream.id, credit)

    def feed_starved(self) -> None:
        """Give the credit that was withheld while too much was buffered, if that has fallen."""
        if self._starved and not self.budget.spent():
            self._starved = False
            for stream in self.streams.all():
                if not stream.remote_closed:
                    self._credit(stream)

    def _late(self, stream_id: i64, stream: Stream | None, what: str) -> bool:
        """Whether a frame for a stream that takes none is to be dropped; else the connection fails. Section 5.1."""
        if stream is None and self.guard.was_reset(stream_id):
            if self.server:
                self._glitch()  # an instance cannot help it: its clients reset those streams
            return not self.over()
        if self._idle(stream_id):
            self.fail(c.PROTOCOL_ERROR, what + " for a stream that nobody opened")
        else:
            self.fail(c.STREAM_CLOSED, what + " behind END_STREAM")
        return False

    def _idle(self, stream_id: i64) -> bool:
        """Whether no one has opened that stream yet. Section 5.1.1."""
        if stream_id == 0:
            return True
        if self.server:
            return stream_id & 1 == 0 or stream_id > self.last_remote
        return stream_id & 1 == 0 or stream_id > self.last_local

    def _broken(self, stream: Stream, code: i64) -> None:
        """A stream error of the peer's, section 5.4.2."""
        if not self.guard.faults.take(self.now):
            self.fail(c.ENHANCE_YOUR_CALM, "too many malformed messages")
            return
        self.reset_stream(stream, code)
        self.on_reset(stream, code, True)

    def write_reset(self, stream_id: i64, code: i64) -> None:
        """Write RST_STREAM and remember the id, for frames of the peer already under way."""
        super().write_reset(stream_id, code)
        self.guard.remember(stream_id)
