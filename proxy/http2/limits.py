"""Limits that keep the relay alive. Each says its unit, why it has its value, and what happens past it."""

from typing import Final

from mypy_extensions import i64

# Streams a peer may have open at once, offered in SETTINGS; past it REFUSED_STREAM. As Envoy since 1.36.
OFFERED_STREAMS: Final[i64] = 1024
# New streams in one read; past it REFUSED_STREAM, so that one read cannot buy unbounded work (nginx).
STREAMS_PER_READ: Final[i64] = 2 * OFFERED_STREAMS
# Resets by the peer of streams still open: burst, then a rate per second. CVE-2023-44487 (nghttp2's figures).
RESET_BURST: Final[i64] = 1000
RESET_RATE: Final = 33.0
# Resets we must send for the peer's stream errors: 200 in 30 s. CVE-2025-8671 "MadeYouReset" (Netty's).
FAULT_BURST: Final[i64] = 200
FAULT_RATE: Final = 200 / 30.0
# CONTINUATION frames in one block. CVE-2024-27316 and its kin (nghttp2's).
CONTINUATIONS: Final[i64] = 8
# Octets of a header list as RFC 9113 section 10.5.1 counts it: 32 more for each field. Past it a stream error;
# past four times as much the connection is closed.
HEADER_LIST: Final[i64] = 65_536
# Seconds to complete a header block once begun.
BLOCK_SECONDS: Final = 10.0
# Seconds for a peer to send its preface and first SETTINGS.
PREFACE_SECONDS: Final = 10.0
# Consecutive DATA frames with nothing in them and no END_STREAM. CVE-2019-9518 (hyperium/h2's).
EMPTY_FRAMES: Final[i64] = 100
# Entries in one SETTINGS frame (nghttp2's).
SETTINGS_ENTRIES: Final[i64] = 32
# PING and SETTINGS answers waiting for a peer that does not read. CVE-2019-9512, CVE-2019-9515.
QUEUED_REPLIES: Final[i64] = 1000
# Octets of frames other than DATA waiting for a peer that does not read.
QUEUED_CONTROL: Final[i64] = 4 * 1024 * 1024
# PRIORITY frames: this many for the connection and each stream. CVE-2019-9513 (Envoy's).
PRIORITY_PER_STREAM: Final[i64] = 100
# WINDOW_UPDATE frames: 5 + 2 x (streams + 10 x DATA frames sent). Envoy's.
WINDOW_UPDATES_FREE: Final[i64] = 5
WINDOW_UPDATES_PER_STREAM: Final[i64] = 2
WINDOW_UPDATES_PER_DATA: Final[i64] = 20
# Other oddities that a sane peer does rarely: unknown frames, SETTINGS, a client's late frames. nghttp2's.
GLITCH_BURST: Final[i64] = 10_000
GLITCH_RATE: Final = 330.0
# Octets a stream's receive window starts with and may grow to; the connection's window.
STREAM_WINDOW: Final[i64] = 65_535
MAX_STREAM_WINDOW: Final[i64] = 4 * 1024 * 1024
CONNECTION_WINDOW: Final[i64] = 4 * 1024 * 1024
# Octets of DATA waiting in the whole process; past it no stream gets credit until it falls.
BUFFERED: Final[i64] = 64 * 1024 * 1024
# Octets one connection may put out in one go before the carrier has flushed; DATA past it waits in its stream.
OUTPUT_HIGH: Final[i64] = 512 * 1024
# Seconds to acknowledge our SETTINGS (grpc-core's), and for a blocked write to move at all.
SETTINGS_ACK_SECONDS: Final = 40.0
STALLED_WRITE_SECONDS: Final = 20.0
# Ids of streams we reset, remembered so that late frames on them are dropped and not punished. Section 5.1.
REMEMBERED_RESETS: Final = 2048


class Bucket:
    """A token bucket: `burst` tokens, refilled at `rate` a second."""

    def __init__(self, burst: i64, rate: float) -> None:
        self.burst = float(burst)
        self.rate = rate
        self.tokens = float(burst)
        self.at = 0.0

    def take(self, now: float) -> bool:
        """Take one token at `now` (seconds, monotonic); False when the bucket is empty."""
        if now > self.at:
            self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
            self.at = now
        self.tokens -= 1.0
        return self.tokens >= 0.0


class Budget:
    """Octets of DATA waiting in all connections of the process together."""

    def __init__(self, limit: i64 = BUFFERED) -> None:
        self.limit = limit
        self.held: i64 = 0

    def spent(self) -> bool:
        """Whether streams must go without credit for now."""
        return self.held >= self.limit
