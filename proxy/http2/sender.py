"""The writing half of a connection: frames out, send windows, and DATA that waits for room.

Output is kept until the carrier takes it. Control frames and header blocks are always put out at once; DATA
goes out while the windows (RFC 9113 section 5.2) and the socket have room, and otherwise waits in its stream.
"""

from typing import Final

from librt.strings import BytesWriter, write_i32_be
from mypy_extensions import i32, i64, mypyc_attr, u8

from proxy.http2 import constants as c
from proxy.http2.limits import OUTPUT_HIGH, Budget
from proxy.http2.stream import Stream, StreamTable

# Payloads from this size on are handed to writev as views of what was read; smaller ones are cheaper to copy.
_VIEW: Final[i64] = 4096
# Waiting pieces below this size are joined, so that a dribble of tiny frames costs no object each.
_JOIN: Final[i64] = 4096
# Size update to 0 (RFC 7541 section 6.3): what we write never needs the peer's dynamic table.
_NO_TABLE: Final = b"\x20"
# A writer that grew past this is given back after the flush, so that idle connections stay small.
_KEEP_WRITER: Final[i64] = 16_384


@mypyc_attr(allow_interpreted_subclasses=True)
class Carrier:
    """What moves a connection's bytes; `proxy.net` and the tests' recorder are ones."""

    def wake(self) -> None:
        """Output appeared: flush at the end of this read cycle."""

    def wake_soon(self) -> None:
        """Output appeared that may wait for other output, some milliseconds at most."""

    def finish(self) -> None:
        """Nothing follows: flush, then close."""


class Sender:
    """Frames out. A `Connection` is a Sender that also reads."""

    def __init__(self, carrier: Carrier, budget: Budget) -> None:
        self.carrier = carrier
        self.budget = budget
        self.streams = StreamTable()
        self.now = 0.0
        self.closed = False
        # Set by the carrier while the socket takes nothing more.
        self.paused = False
        self.send_window: i64 = c.DEFAULT_WINDOW
        self.peer_window: i64 = c.DEFAULT_WINDOW
        self.peer_max_frame: i64 = c.MIN_MAX_FRAME_SIZE
        self.streams_seen: i64 = 0
        self.data_sent: i64 = 0  # DATA frames
        self.replies: i64 = 0  # PING and SETTINGS answers not yet taken
        self.out_octets: i64 = 0
        self._awake = False
        self._writer = BytesWriter()
        self._chunks: list[bytes | memoryview] = []
        self._first_block = True
        self._waiting: list[Stream] = []

    # Hooks.

    def on_sent(self, stream: Stream, octets: i64) -> None:
        """DATA that had waited in `stream` went out."""

    def on_stream_end(self, stream: Stream) -> None:
        """The stream is closed in both directions or reset; what it still held is about to be dropped."""

    # Output.

    def take(self) -> list[bytes | memoryview]:
        """All output so far, in order; the caller writes it at once."""
        chunks = self._chunks
        if len(self._writer):
            chunks.append(self._take_writer())
        self._chunks = []
        self.out_octets = 0
        self.replies = 0
        self._awake = False
        return chunks

    def _take_writer(self) -> bytes:
        small = self._writer.getvalue()
        if len(small) > _KEEP_WRITER:
            self._writer = BytesWriter()
        else:
            self._writer.truncate(0)
        return small

    def has_output(self) -> bool:
        """Whether there is something to take."""
        return self.out_octets > 0

    def _frame(self, length: i64, kind: i64, flags: i64, stream_id: i64) -> None:
        """Write a frame header, section 4.1."""
        writer = self._writer
        head: i64 = (length << 8) | kind
        self.out_octets += length + 9
        if not self._awake:
            self._awake = True
            self.carrier.wake()
        _write_head(writer, head, flags, stream_id)

    def send_block(self, stream: Stream, block: bytes, end_stream: bool) -> None:
        """Send a header block on `stream`: behind its waiting DATA if there is any, else at once."""
        if stream.gone:
            return
        if stream.pending is not None:
            stream.pending_trailers = block
            return
        self._write_block(stream.id, block, end_stream)
        if end_stream:
            self._end_local(stream)

    def _write_block(self, stream_id: i64, block: bytes, end_stream: bool) -> None:
        if self._first_block:
            self._first_block = False
            block = _NO_TABLE + block
        flags: i64 = c.FLAG_END_STREAM if end_stream else 0
        length: i64 = len(block)
        limit = self.peer_max_frame
        if length <= limit:
            self._frame(length, c.HEADERS, flags | c.FLAG_END_HEADERS, stream_id)
            self._writer.write(block)
            return
        self._frame(limit, c.HEADERS, flags, stream_id)
        self._writer.write(block[:limit])
        pos = limit
        while pos < length:
            size: i64 = min(limit, length - pos)
            last: i64 = c.FLAG_END_HEADERS if pos + size == length else 0
            self._frame(size, c.CONTINUATION, last, stream_id)
            self._writer.write(block[pos : pos + size])
            pos += size

    def _take_back(self, at: i64, octets: i64, first_block: bool) -> None:
        """Forget what was written last: the writer had `at` octets before that, and `octets` were waiting in all."""
        self._writer.truncate(at)
        self.out_octets = octets
        self._first_block = first_block
        if octets == 0:
            self._awake = False  # the flush that is due takes nothing, so it does not say so

    def send_data(self, stream: Stream, data: bytes, start: i64, end: i64, end_stream: bool) -> i64:
        """Send data[start:end]; the octets that went out now. The rest waits, and `on_sent` tells when it goes.

        The piece is at most one frame of the smallest MAX_FRAME_SIZE long. `stream` must be open to write.
        """
        length: i64 = end - start
        if stream.pending is None:
            room = stream.send_window
            if self.send_window < room:
                room = self.send_window
            if self.paused or self.out_octets >= OUTPUT_HIGH:
                room = 0
            if length <= room or length == 0:
                self._write_data(stream, data, start, end, end_stream)
                return length
            if room > 0:
                self._write_data(stream, data, start, start + room, False)
                self._hold(stream, data[start + room : end], end_stream)
                return room
        self._hold(stream, data[start:end], end_stream)
        return 0

    def _write_data(self, stream: Stream, data: bytes, start: i64, end: i64, end_stream: bool) -> None:
        length: i64 = end - start
        stream.send_window -= length
        self.send_window -= length
        self.data_sent += 1
        self._frame(length, c.DATA, c.FLAG_END_STREAM if end_stream else 0, stream.id)
        if length >= _VIEW:
            self._chunks.append(self._take_writer())
            self._chunks.append(memoryview(data)[start:end])
        elif length > 0:
            self._writer.write(data[start:end])
        if end_stream:
            self._end_local(stream)

    def _hold(self, stream: Stream, piece: bytes, end_stream: bool) -> None:
        """Keep DATA until there is room for it."""
        size: i64 = len(piece)
        pending = stream.pending
        if pending is None:
            stream.pending = [piece]
            self._enqueue(stream)
        elif size > 0:
            if len(pending) > 0 and len(pending[-1]) < _JOIN and size < _JOIN:
                pending[-1] += piece
            else:
                pending.append(piece)
        stream.pending_octets += size
        self.budget.held += size
        if end_stream:
            stream.pending_end = True

    def _enqueue(self, stream: Stream) -> None:
        if not stream.queued:
            stream.queued = True
            self._waiting.append(stream)

    def pump(self) -> None:
        """Send what waits, in turn, as far as the windows and the socket allow."""
        if not self._waiting or self.paused:
            return
        waiting = self._waiting
        self._waiting = []
        unserved: list[Stream] = []
        for stream in waiting:
            if stream.gone or stream.pending is None:
                stream.queued = False
            elif self.out_octets >= OUTPUT_HIGH or self.send_window <= 0:
                unserved.append(stream)
            else:
                stream.queued = False
                self._drain(stream)
        if unserved:
            # First in the next turn, or a busy stream could take all the window there is each time.
            self._waiting = unserved + self._waiting

    def _drain(self, stream: Stream) -> None:
        """Send one stream's waiting DATA until something is short; a stream without window leaves the queue."""
        pending = stream.pending
        assert pending is not None
        done = 0
        sent: i64 = 0
        while done < len(pending):
            piece = pending[done]
            size: i64 = len(piece)
            room = min(size, stream.send_window, self.send_window)
            if self.out_octets >= OUTPUT_HIGH or (room <= 0 and size > 0):
                break
            last = done == len(pending) - 1 and room == size
            stream.pending_octets -= room
            self.budget.held -= room
            sent += room
            end_stream = last and stream.pending_end
            if size > 0 or end_stream:
                self._write_data(stream, piece, 0, room, end_stream)
            if room < size:
                pending[done] = piece[room:]
                break
            done += 1
        del pending[:done]
        if not pending:
            self._drained(stream)
        elif stream.send_window > 0:
            self._enqueue(stream)
        if sent > 0:
            self.on_sent(stream, sent)

    def _drained(self, stream: Stream) -> None:
        """All waiting DATA is out: go on with what was to follow it."""
        stream.pending = None
        trailers = stream.pending_trailers
        if trailers is not None:
            stream.pending_trailers = None
            self._write_block(stream.id, trailers, True)
            self._end_local(stream)
        if stream.pending_reset >= 0 and not stream.gone:
            self.reset_stream(stream, stream.pending_reset)

    def _drop_pending(self, stream: Stream) -> None:
        if stream.pending is not None:
            self.budget.held -= stream.pending_octets
            stream.pending = None
            stream.pending_octets = 0
            stream.pending_trailers = None

    # Streams.

    def _end_local(self, stream: Stream) -> None:
        stream.local_closed = True
        if stream.remote_closed:
            self.retire(stream)

    def retire(self, stream: Stream) -> None:
        """Forget a closed stream."""
        if not stream.gone:
            stream.gone = True
            self.streams.remove(stream)
            self.on_stream_end(stream)
            self._drop_pending(stream)

    def reset_stream(self, stream: Stream, code: i64) -> None:
        """End a stream at once with RST_STREAM; DATA still waiting is dropped. Section 6.4."""
        if stream.gone:
            return
        self.write_reset(stream.id, code)
        self.retire(stream)

    def reset_behind(self, stream: Stream, code: i64) -> None:
        """End a stream with RST_STREAM, but behind waiting DATA that END_STREAM or trailers complete."""
        if stream.pending is not None and (stream.pending_end or stream.pending_trailers is not None):
            stream.pending_reset = code
        else:
            self.reset_stream(stream, code)

    def write_reset(self, stream_id: i64, code: i64) -> None:
        """Write RST_STREAM; subclasses remember the id."""
        self._frame(4, c.RST_STREAM, 0, stream_id)
        _write_u32(self._writer, code)

    # Connection frames.

    def send_settings(self, entries: list[tuple[i64, i64]]) -> None:
        """Send SETTINGS, section 6.5."""
        self._frame(6 * len(entries), c.SETTINGS, 0, 0)
        for key, value in entries:
            self._writer.append(0)
            self._writer.append(u8(key))
            _write_u32(self._writer, value)

    def ack_settings(self) -> None:
        """Acknowledge SETTINGS."""
        self.replies += 1
        self._frame(0, c.SETTINGS, c.FLAG_ACK, 0)

    def send_ping(self, payload: bytes) -> None:
        """Send PING with 8 octets, section 6.7."""
        self._frame(8, c.PING, 0, 0)
        self._writer.write(payload)

    def ack_ping(self, payload: bytes) -> None:
        """Answer a PING; it may ride on other output for a few milliseconds (peers measure bandwidth with it)."""
        self.replies += 1
        self.out_octets += 17
        _write_head(self._writer, (8 << 8) | c.PING, c.FLAG_ACK, 0)
        self._writer.write(payload)
        if not self._awake:
            self.carrier.wake_soon()

    def send_goaway(self, last_id: i64, code: i64, debug: bytes) -> None:
        """Send GOAWAY, section 6.8."""
        self._frame(8 + len(debug), c.GOAWAY, 0, 0)
        _write_u32(self._writer, last_id)
        _write_u32(self._writer, code)
        self._writer.write(debug)

    def send_credit(self, stream_id: i64, octets: i64) -> None:
        """Send WINDOW_UPDATE, section 6.9; stream 0 is the connection."""
        self._frame(4, c.WINDOW_UPDATE, 0, stream_id)
        _write_u32(self._writer, octets)

    def send_raw(self, octets: bytes) -> None:
        """Put out octets that are no frame: the preface, or an answer in HTTP/1.1."""
        self.out_octets += len(octets)
        self._writer.write(octets)
        if not self._awake:
            self._awake = True
            self.carrier.wake()


def _write_head(writer: BytesWriter, head: i64, flags: i64, stream_id: i64) -> None:
    _write_u32(writer, head)
    writer.append(u8(flags))
    _write_u32(writer, stream_id)


def _write_u32(writer: BytesWriter, value: i64) -> None:
    if value > 0x7FFF_FFFF:  # the writer takes signed numbers only
        value -= 0x1_0000_0000
    write_i32_be(writer, i32(value))
