"""A whole HTTP/2 connection: the frame loop, header blocks and control frames on top of `Receiver`.

`receive(data, now)` takes whatever the socket gave, cut anywhere.
"""

from typing import Final

from mypy_extensions import i64

from proxy.http2 import constants as c
from proxy.http2 import limits
from proxy.http2.blocks import BlockReader
from proxy.http2.limits import Budget
from proxy.http2.octets import u31, u32
from proxy.http2.receiver import Receiver
from proxy.http2.sender import Carrier
from proxy.http2.stream import Stream
from proxy.http2.walk import REQUEST, RESPONSE, TRAILERS

# A handshake record, RFC 8446 section 5.1: how TLS begins.
_TLS: Final = b"\x16\x03"
# Octets of a peer's first words that are shown when they are not HTTP/2.
_SHOWN: Final[i64] = 24
# Octets that may come ahead of the end of a line from a client that seems to speak HTTP/1.
_FOREIGN_LINE: Final[i64] = 8192


class Connection(Receiver):
    """One HTTP/2 connection, as server (towards clients) or as client (towards instances)."""

    def __init__(self, carrier: Carrier, budget: Budget, server: bool) -> None:
        super().__init__(carrier, budget, server)
        self._blocks = BlockReader()
        self.walk = self._blocks.walk
        self.goaway_sent = False
        self.goaway_last: i64 = c.MAX_ID  # what our GOAWAY promised
        self.goaway_received = False
        self.settings_seen = False
        self.peer_streams: i64 = c.MAX_ID  # the peer's MAX_CONCURRENT_STREAMS
        self._preface_left = server
        self._introduced = False
        self._tail = b""
        self._need: i64 = 0
        # The header block under way.
        self._block_id: i64 = 0
        self._block = b""
        self._block_end = False
        self._block_parts: i64 = 0

    # Starting and ending.

    def start(self, now: float) -> None:
        """Begin, section 3.4: a client speaks first. Call once, ahead of all else."""
        self.now = now
        self.guard.started(now)
        if not self.server:
            self.send_raw(c.PREFACE)
            self.introduce()

    def introduce(self) -> None:
        """Write SETTINGS, once. A server waits for the client's preface: one that speaks HTTP/1 must not see them."""
        if self._introduced:
            return
        self._introduced = True
        entries: list[tuple[i64, i64]] = [(c.HEADER_TABLE_SIZE, 0)]
        if self.server:
            entries.append((c.MAX_CONCURRENT_STREAMS, limits.OFFERED_STREAMS))
        else:
            entries.append((c.ENABLE_PUSH, 0))
        entries.append((c.MAX_HEADER_LIST_SIZE, limits.HEADER_LIST))
        self.send_settings(entries)
        self.send_credit(0, limits.CONNECTION_WINDOW - c.DEFAULT_WINDOW)

    def tick(self, now: float) -> None:
        """Check what must not take long; call about once a second."""
        self.now = now
        if self.closed:
            return
        self._check_unread()
        if self.over():
            return
        late = self.guard.late(now, self._block_id != 0, self.settings_seen, self._blocks.acknowledged)
        if late >= 0:
            self.fail(late, "a header block, SETTINGS or their acknowledgement took too long")
            return
        self.feed_starved()

    # Reading.

    def receive(self, data: bytes, now: float) -> None:
        """Take what the socket gave at `now` (seconds, monotonic)."""
        self.now = now
        self._check_unread()  # not once a second only: much can be asked for in that time
        if self.over():
            return
        self.guard.opened_in_read = 0
        pos: i64 = 0
        size: i64 = len(data)
        while self._tail or self._preface_left:
            if self._preface_left:
                pos = self._preface(data)
                if pos < 0:
                    return
                continue
            have: i64 = len(self._tail)
            missing: i64 = self._need - have
            if size - pos < missing:
                self._tail += data[pos:]
                return
            unit = self._tail + data[pos : pos + missing]
            pos += missing
            self._tail = b""
            self._frames(unit, 0)
            if self.over():
                return
        self._frames(data, pos)

    def _preface(self, data: bytes) -> i64:
        """Match the client preface, section 3.4; the position behind it, -1 if more is needed or it is not one."""
        before: i64 = len(self._tail)
        seen = self._tail + data[:24]
        if c.PREFACE.startswith(seen[:24]):
            if len(seen) < 24:
                self._tail = seen
                return -1
            self._tail = b""
            self._preface_left = False
            self.introduce()
            return 24 - before
        foreign = self._tail + data
        if foreign[:1].isupper() and b"\n" not in foreign and len(foreign) < _FOREIGN_LINE:
            self._tail = foreign
            return -1
        self.on_foreign(foreign)
        tls = foreign.startswith(_TLS)
        self.fail(c.PROTOCOL_ERROR, "TLS on a plain text port" if tls else "the client preface is not HTTP/2's")
        return -1

    def _frames(self, data: bytes, pos: i64) -> None:
        """Take frame after frame; what is cut goes to `_tail`, with `_need` the octets to go on with."""
        size: i64 = len(data)
        while pos < size:
            if self._data_left > 0 or self._pad_left > 0:
                pos = self._data_piece(data, pos, size)
                continue
            if size - pos < 9:
                self._cut(data, pos, 9)
                return
            head = u32(data, pos)
            length: i64 = head >> 8
            kind: i64 = head & 0xFF
            flags: i64 = data[pos + 4]
            stream_id = u31(data, pos + 5)
            if length > c.MIN_MAX_FRAME_SIZE:
                self._too_long(data, pos)
                return
            if self._block_id != 0 and (kind != c.CONTINUATION or stream_id != self._block_id):
                self.fail(c.PROTOCOL_ERROR, "a header block was interrupted by another frame")
                return
            if kind == c.DATA:
                if flags & c.FLAG_PADDED != 0 and length > 0 and size - pos < 10:
                    self._cut(data, pos, 10)
                    return
                pos = self._data(data, pos + 9, length, flags, stream_id)
            else:
                if size - pos - 9 < length:
                    self._cut(data, pos, 9 + length)
                    return
                self._other(data, pos + 9, length, kind, flags, stream_id)
                pos += 9 + length
            if self.over():
                return

    def _too_long(self, data: bytes, pos: i64) -> None:
        if self.settings_seen or self.server:
            self.fail(c.FRAME_SIZE_ERROR, "a frame is longer than 16384 octets")
        elif data[pos : pos + 5] == b"HTTP/":
            self.fail(c.HTTP_1_1_REQUIRED, "the peer speaks HTTP/1, not gRPC")
        else:
            began = ascii(data[pos : pos + _SHOWN].decode("latin-1"))
            self.fail(c.PROTOCOL_ERROR, f"the peer does not speak HTTP/2; it began with {began}")

    def _cut(self, data: bytes, pos: i64, need: i64) -> None:
        self._tail = data[pos:]
        self._need = need

    def _other(self, data: bytes, pos: i64, length: i64, kind: i64, flags: i64, stream_id: i64) -> None:
        """A whole frame that is not DATA."""
        if not self.settings_seen and kind != c.SETTINGS:
            self.fail(c.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        elif kind == c.HEADERS:
            self._headers(data, pos, length, flags, stream_id)
        elif kind == c.WINDOW_UPDATE:
            self._window_update(data, pos, length, stream_id)
        elif kind == c.RST_STREAM:
            self._rst_stream(data, pos, length, stream_id)
        elif kind == c.PING:
            self._ping(data, pos, length, flags, stream_id)
        elif kind == c.SETTINGS:
            self._settings(data, pos, length, flags, stream_id)
        elif kind == c.CONTINUATION:
            self._continuation(data, pos, length, flags, stream_id)
        elif kind == c.GOAWAY:
            self._goaway(data, pos, length, stream_id)
        elif kind == c.PRIORITY:
            self._priority(data, pos, length, stream_id)
        elif kind == c.PUSH_PROMISE:
            self.fail(c.PROTOCOL_ERROR, "PUSH_PROMISE, though push is off")
        else:
            self._glitch()  # unknown frames are ignored, section 5.5

    # Header blocks, sections 4.3, 6.2 and 6.10.

    def _headers(self, data: bytes, pos: i64, length: i64, flags: i64, stream_id: i64) -> None:
        end = pos + length
        if flags & c.FLAG_PADDED != 0:
            if length == 0:
                self.fail(c.FRAME_SIZE_ERROR, "padded HEADERS without a pad length")
                return
            pad: i64 = data[pos]
            end -= pad
            pos += 1
        if flags & c.FLAG_PRIORITY != 0:
            if pos + 5 > end:
                self.fail(c.FRAME_SIZE_ERROR, "HEADERS too short for its padding and priority")
                return
            if u31(data, pos) == stream_id:
                self.fail(c.PROTOCOL_ERROR, "a stream that depends on itself")
                return
            pos += 5
        if pos > end:
            self.fail(c.PROTOCOL_ERROR, "more padding than HEADERS")
            return
        if stream_id == 0:
            self.fail(c.PROTOCOL_ERROR, "HEADERS on stream 0")
            return
        block = data[pos:end]
        end_stream = flags & c.FLAG_END_STREAM != 0
        if flags & c.FLAG_END_HEADERS != 0:
            self._whole_block(stream_id, block, end_stream)
            return
        self._block_id = stream_id
        self._block = block
        self._block_end = end_stream
        self._block_parts = 0
        self.guard.block_since = self.now

    def _continuation(self, data: bytes, pos: i64, length: i64, flags: i64, stream_id: i64) -> None:
        if self._block_id == 0:
            self.fail(c.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
            return
        self._block_parts += 1
        if self._block_parts > limits.CONTINUATIONS:
            self.fail(c.ENHANCE_YOUR_CALM, "too many CONTINUATION frames")
            return
        self._block += data[pos : pos + length]
        if len(self._block) > 4 * limits.HEADER_LIST:
            self.fail(c.ENHANCE_YOUR_CALM, "a header block is far too long")
        elif flags & c.FLAG_END_HEADERS != 0:
            block = self._block
            self._block_id = 0
            self._block = b""
            self._whole_block(stream_id, block, self._block_end)

    def _whole_block(self, stream_id: i64, block: bytes, end_stream: bool) -> None:
        stream = self.streams.get(stream_id)
        if stream is None:
            if self.server and stream_id & 1 == 1 and stream_id > self.last_remote:
                self._request(stream_id, block, end_stream)
            elif self._late(stream_id, None, "HEADERS") and self._sound(block, TRAILERS) is None:
                return  # decoded all the same, to keep the table in step; section 4.3
        elif stream.remote_closed:
            self._late(stream_id, stream, "HEADERS")
        elif stream.headers_seen:
            self._trailers(stream, block, end_stream)
        else:
            self._response(stream, block, end_stream)

    def _request(self, stream_id: i64, block: bytes, end_stream: bool) -> None:
        self.last_remote = stream_id
        sound = self._sound(block, REQUEST)
        if self.closed:
            return
        if self.goaway_sent and stream_id > self.goaway_last:
            # We said that we will not process it, so the client knows; section 6.8.
            self.guard.remember(stream_id)
            return
        self.guard.opened_in_read += 1
        if self.streams.count >= limits.OFFERED_STREAMS or self.guard.opened_in_read > limits.STREAMS_PER_READ:
            self.write_reset(stream_id, c.REFUSED_STREAM)
            self._glitch()
            return
        self.streams_seen += 1
        stream = self.opened(stream_id)
        self.streams.put(stream)
        if sound is None:
            self._broken(stream, c.PROTOCOL_ERROR)
            return
        stream.is_head = self.walk.head
        self._begin(stream, sound, end_stream, self.walk.content_length)

    def _response(self, stream: Stream, block: bytes, end_stream: bool) -> None:
        sound = self._sound(block, RESPONSE)
        if self.over():
            return
        if sound is None:
            self._broken(stream, c.PROTOCOL_ERROR)
            return
        status = self.walk.status
        if 100 <= status < 200:
            # Interim responses are dropped: gRPC clients fail on them, and say to skip them.
            if end_stream or status == 101:
                self._broken(stream, c.PROTOCOL_ERROR)
            return
        length = self.walk.content_length
        if stream.is_head or status == 204 or status == 304:
            length = -1  # a length without a body, RFC 9110 section 8.6
        self._begin(stream, sound, end_stream, length)

    def _begin(self, stream: Stream, block: bytes, end_stream: bool, length: i64) -> None:
        if end_stream and length > 0:
            self._broken(stream, c.PROTOCOL_ERROR)  # content-length, section 8.1.1
            return
        stream.data_left = length
        stream.headers_seen = True
        if end_stream:
            stream.remote_closed = True
        self.on_head(stream, block, end_stream)
        if end_stream and stream.local_closed:
            self.retire(stream)

    def _trailers(self, stream: Stream, block: bytes, end_stream: bool) -> None:
        sound = self._sound(block, TRAILERS)
        if self.over():
            return
        if sound is None or not end_stream or stream.data_left > 0:
            self._broken(stream, c.PROTOCOL_ERROR)
            return
        stream.remote_closed = True
        self.on_trailers(stream, sound)
        if stream.local_closed:
            self.retire(stream)

    def _sound(self, block: bytes, kind: i64) -> bytes | None:
        """The block as it can be forwarded; None if it is malformed, or the connection has failed over it."""
        sound = self._blocks.read(block, kind)
        if self._blocks.corrupt:
            self.fail(c.COMPRESSION_ERROR, "a header block cannot be decoded")
        return sound

    # The other frames.

    def _rst_stream(self, data: bytes, pos: i64, length: i64, stream_id: i64) -> None:
        """Section 6.4."""
        if length != 4:
            self.fail(c.FRAME_SIZE_ERROR, "RST_STREAM of a length other than 4")
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            if self._idle(stream_id):
                self.fail(c.PROTOCOL_ERROR, "RST_STREAM for a stream that nobody opened")
            elif self.server:
                self._glitch()
            return
        if self.server and not self.guard.resets.take(self.now):
            self.fail(c.ENHANCE_YOUR_CALM, "too many resets")
            return
        code = u32(data, pos)
        if code == c.REFUSED_STREAM:
            self.on_refused()
        self.retire(stream)
        self.on_reset(stream, code, False)

    def _settings(self, data: bytes, pos: i64, length: i64, flags: i64, stream_id: i64) -> None:
        """Section 6.5."""
        if stream_id != 0:
            self.fail(c.PROTOCOL_ERROR, "SETTINGS on a stream")
        elif flags & c.FLAG_ACK != 0:
            if length != 0:
                self.fail(c.FRAME_SIZE_ERROR, "a SETTINGS acknowledgement with a payload")
                return
            if self._blocks.acknowledged:
                self._glitch()
            self._blocks.acknowledged = True
        elif length % 6 != 0:
            self.fail(c.FRAME_SIZE_ERROR, "SETTINGS of a length that is no multiple of 6")
        elif length // 6 > limits.SETTINGS_ENTRIES or not self._reply_allowed():
            self.fail(c.ENHANCE_YOUR_CALM, "too many settings")
        else:
            self.settings_seen = True
            # Acknowledged ahead of anything that follows from them, section 6.5.3.
            self.ack_settings()
            end = pos + length
            window = self.peer_window
            while pos < end and not self.over():
                key: i64 = data[pos + 1]
                key |= data[pos] << 8
                if key == c.INITIAL_WINDOW_SIZE:
                    # Of several the last counts: each would be a walk over all streams.
                    window = u32(data, pos + 2)
                    if window > c.MAX_WINDOW:
                        self.fail(c.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE above 2^31-1")
                else:
                    self._setting(key, u32(data, pos + 2))
                pos += 6
            if window != self.peer_window and not self.over():
                self._resize_windows(window)
            if not self.over():
                self.on_settings()
                self.pump()

    def _setting(self, key: i64, value: i64) -> None:
        if key == c.MAX_FRAME_SIZE:
            if not c.MIN_MAX_FRAME_SIZE <= value <= c.MAX_MAX_FRAME_SIZE:
                self.fail(c.PROTOCOL_ERROR, "MAX_FRAME_SIZE out of range")
                return
            self.peer_max_frame = value
        elif key == c.MAX_CONCURRENT_STREAMS:
            self.peer_streams = value
        elif key == c.ENABLE_PUSH and (value > 1 or (value == 1 and not self.server)):
            self.fail(c.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1, or a server's 1")

    def _ping(self, data: bytes, pos: i64, length: i64, flags: i64, stream_id: i64) -> None:
        """Section 6.7: answered here, never forwarded."""
        if stream_id != 0:
            self.fail(c.PROTOCOL_ERROR, "PING on a stream")
        elif length != 8:
            self.fail(c.FRAME_SIZE_ERROR, "PING of a length other than 8")
        elif flags & c.FLAG_ACK != 0:
            self._glitch()  # we hardly ever ask
            self.on_ping_ack()
        elif self.replies < limits.QUEUED_REPLIES:
            # However many: gRPC peers measure the path with one for nearly every message.
            self.ack_ping(data[pos : pos + 8])
        else:
            self.fail(c.ENHANCE_YOUR_CALM, "too many PINGs")

    def _reply_allowed(self) -> bool:
        """Whether the peer has read enough of our answers, and not asked too often."""
        return self.replies < limits.QUEUED_REPLIES and self.guard.glitches.take(self.now)

    def _goaway(self, data: bytes, pos: i64, length: i64, stream_id: i64) -> None:
        """Section 6.8."""
        if stream_id != 0:
            self.fail(c.PROTOCOL_ERROR, "GOAWAY on a stream")
        elif length < 8:
            self.fail(c.FRAME_SIZE_ERROR, "GOAWAY shorter than 8")
        else:
            self.goaway_received = True
            self.on_goaway(u31(data, pos), u32(data, pos + 4), data[pos + 8 : pos + length])

    def _window_update(self, data: bytes, pos: i64, length: i64, stream_id: i64) -> None:
        """Section 6.9. Zero and overflow end the connection even on a stream: CVE-2025-8671."""
        if length != 4:
            self.fail(c.FRAME_SIZE_ERROR, "WINDOW_UPDATE of a length other than 4")
            return
        credit = u31(data, pos)
        if credit == 0:
            self.fail(c.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
            return
        if not self.guard.window_update(self.streams_seen, self.data_sent):
            self.fail(c.ENHANCE_YOUR_CALM, "too many WINDOW_UPDATE frames")
            return
        if stream_id == 0:
            self.send_window += credit
            if self.send_window > c.MAX_WINDOW:
                self.fail(c.FLOW_CONTROL_ERROR, "WINDOW_UPDATE overflows the connection window")
                return
        else:
            stream = self.streams.get(stream_id)
            if stream is None:
                if self._idle(stream_id):
                    self.fail(c.PROTOCOL_ERROR, "WINDOW_UPDATE for a stream that nobody opened")
                return
            stream.send_window += credit
            if stream.send_window > c.MAX_WINDOW:
                self.write_reset(stream_id, c.FLOW_CONTROL_ERROR)
                self.fail(c.FLOW_CONTROL_ERROR, "WINDOW_UPDATE overflows a stream's window")
                return
            if stream.pending is not None:
                self._enqueue(stream)
        self.pump()

    def _priority(self, data: bytes, pos: i64, length: i64, stream_id: i64) -> None:
        """Section 5.3.2: deprecated, so checked and dropped."""
        if stream_id == 0:
            self.fail(c.PROTOCOL_ERROR, "PRIORITY on stream 0")
        elif length != 5:
            self.fail(c.FRAME_SIZE_ERROR, "PRIORITY of a length other than 5")
        elif u31(data, pos) == stream_id:
            self.fail(c.PROTOCOL_ERROR, "a stream that depends on itself")
        elif not self.guard.priority(self.streams_seen):
            self.fail(c.ENHANCE_YOUR_CALM, "too many PRIORITY frames")
