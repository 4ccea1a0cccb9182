"""One stream's state on one connection (RFC 9113 section 5), without any I/O."""

from mypy_extensions import i64

from proxy.http2.limits import STREAM_WINDOW


class Stream:
    """Windows, half-closed flags and output that waits for the receiver.

    `send_window` is what we may still send, in octets, and may go negative (section 6.9.2). `receive_left` is
    what the peer may still send; `window` what it is topped up to; `held` what has arrived and still waits to
    enter the other socket; `passed` how much went straight through since the window last grew.
    """

    def __init__(self, stream_id: i64, send_window: i64) -> None:
        self.id = stream_id
        self.send_window = send_window
        self.receive_left: i64 = STREAM_WINDOW
        self.window: i64 = STREAM_WINDOW
        self.held: i64 = 0
        self.passed: i64 = 0
        # Half-closed flags, section 5.1: what the peer has ended, what we have ended, and a reset by either.
        self.remote_closed = False
        self.local_closed = False
        self.gone = False
        self.headers_seen = False
        self.is_head = False
        self.data_left: i64 = -1  # octets that content-length still promises, -1 if it made no promise
        # DATA that waits for window or for the socket, then how the stream goes on behind it.
        self.pending: list[bytes] | None = None
        self.pending_octets: i64 = 0
        self.pending_end = False
        self.pending_trailers: bytes | None = None
        self.pending_reset: i64 = -1
        self.queued = False


class StreamTable:
    """Open streams by id: a ring indexed by the id, with a dictionary for what does not fit there.

    Ids of live streams are close together as a rule, so the ring answers nearly always, at a tenth of a
    dictionary's cost. It grows with the number of streams and never shrinks.
    """

    def __init__(self) -> None:
        self._ring: list[Stream | None] = [None] * 16
        self._mask: i64 = 15
        self._overflow: dict[int, Stream] = {}
        self.count: i64 = 0

    def get(self, stream_id: i64) -> Stream | None:
        """The open stream of that id."""
        stream = self._ring[(stream_id >> 1) & self._mask]
        if stream is not None and stream.id == stream_id:
            return stream
        if self._overflow:
            return self._overflow.get(stream_id)
        return None

    def put(self, stream: Stream) -> None:
        """Add an opened stream."""
        self.count += 1
        at: i64 = (stream.id >> 1) & self._mask
        if self._ring[at] is None:
            self._ring[at] = stream
            return
        self._overflow[stream.id] = stream
        if self._mask < 4095 and self.count * 2 > self._mask:
            self._grow()

    def remove(self, stream: Stream) -> None:
        """Forget a stream that was put in."""
        self.count -= 1
        at: i64 = (stream.id >> 1) & self._mask
        if self._ring[at] is stream:
            self._ring[at] = None
        else:
            del self._overflow[stream.id]

    def all(self) -> list[Stream]:
        """Every open stream, oldest first."""
        found = [stream for stream in self._ring if stream is not None]
        found.extend(self._overflow.values())
        found.sort(key=_by_id)
        return found

    def _grow(self) -> None:
        streams = self.all()
        size: i64 = (self._mask + 1) * 2
        self._ring = [None] * size
        self._mask = size - 1
        self._overflow = {}
        for stream in streams:
            at: i64 = (stream.id >> 1) & self._mask
            if self._ring[at] is None:
                self._ring[at] = stream
            else:
                self._overflow[stream.id] = stream


def _by_id(stream: Stream) -> int:
    return stream.id
