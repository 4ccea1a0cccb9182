"""What one peer has done so far, counted against `limits`."""

from mypy_extensions import i64

from proxy.http2 import constants as c
from proxy.http2 import limits
from proxy.http2.limits import Bucket


class Guard:
    """Counters and clocks of one connection."""

    def __init__(self) -> None:
        self.resets = Bucket(limits.RESET_BURST, limits.RESET_RATE)
        self.faults = Bucket(limits.FAULT_BURST, limits.FAULT_RATE)
        self.glitches = Bucket(limits.GLITCH_BURST, limits.GLITCH_RATE)
        self.empties: i64 = 0
        self.opened_in_read: i64 = 0
        self.block_since = 0.0
        self._started = 0.0
        self._window_updates: i64 = 0
        self._priorities: i64 = 0
        self._reset_ids: dict[int, None] = {}
        self._forgotten: i64 = 0  # highest id that went from there to make room

    def started(self, now: float) -> None:
        """The connection was begun at `now`."""
        self._started = now

    def late(self, now: float, in_block: bool, settings_seen: bool, settings_acked: bool) -> i64:
        """The error code of whatever has taken too long by `now`, or -1."""
        age = now - self._started
        if in_block and now - self.block_since > limits.BLOCK_SECONDS:
            return c.ENHANCE_YOUR_CALM
        if not settings_seen and age > limits.PREFACE_SECONDS:
            return c.PROTOCOL_ERROR
        if not settings_acked and age > limits.SETTINGS_ACK_SECONDS:
            return c.SETTINGS_TIMEOUT
        return -1

    def window_update(self, streams: i64, data_sent: i64) -> bool:
        """Count a WINDOW_UPDATE; False when they outnumber what was sent by far."""
        self._window_updates += 1
        allowed = (
            limits.WINDOW_UPDATES_FREE
            + limits.WINDOW_UPDATES_PER_STREAM * streams
            + limits.WINDOW_UPDATES_PER_DATA * data_sent
        )
        return self._window_updates <= allowed

    def priority(self, streams: i64) -> bool:
        """Count a PRIORITY frame; False when there are too many for the streams seen."""
        self._priorities += 1
        return self._priorities <= limits.PRIORITY_PER_STREAM * (1 + streams)

    def remember(self, stream_id: i64) -> None:
        """Keep in mind that we reset (or ignore) this stream."""
        ids = self._reset_ids
        ids[stream_id] = None
        if len(ids) > limits.REMEMBERED_RESETS:
            for oldest in ids:
                del ids[oldest]
                if oldest > self._forgotten:
                    self._forgotten = oldest
                break

    def was_reset(self, stream_id: i64) -> bool:
        """Whether late frames on this stream are to be expected, or may be, as too many were reset to tell."""
        return 0 < stream_id <= self._forgotten or stream_id in self._reset_ids
