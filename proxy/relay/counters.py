"""What the hot path counts: plain integers on plain slots, read when Prometheus scrapes.

Nothing here locks or looks up a label per call. A call keeps its `MethodCounters` row; an endpoint keeps
its own codes. The admin side turns these into metric families.
"""

from typing import Final

from mypy_extensions import i64

# Upper bounds in seconds: OpenTelemetry's rpc buckets with three finer ones below (a sidecar adds < 1 ms).
BUCKETS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
GRPC_CODES: Final = (
    "OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists",
    "PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented",
    "Internal", "Unavailable", "DataLoss", "Unauthenticated",
)  # fmt: skip
OTHER: Final = "_OTHER"
# Paths come from clients, so the number of rows has a cap; the rest share one row.
MAX_METHODS: Final = 256
# Two spellings (plain and Huffman) of each path may both be met, and unknown paths must not fill memory.
MAX_SPELLINGS: Final = 4 * MAX_METHODS
# Octets of a path that may be remembered, for the same reason: header lists may be a hundred times as long.
MAX_PATH: Final = 512


class MethodCounters:
    """One method's row: calls started, calls handled by gRPC code, durations by bucket (seconds)."""

    def __init__(self, grpc_service: str, grpc_method: str) -> None:
        self.grpc_service = grpc_service
        self.grpc_method = grpc_method
        self.started: i64 = 0
        self.handled: i64 = 0
        self.codes: list[int] = [0] * len(GRPC_CODES)
        self.buckets: list[int] = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    def finish(self, code: i64, seconds: float) -> None:
        """Count a finished call by its gRPC code and its duration in seconds."""
        self.handled += 1
        self.codes[code] += 1
        self.seconds += seconds
        # Most calls are short, so walking up from the smallest bound beats a bisection.
        slot = 0
        for bound in BUCKETS:
            if seconds <= bound:
                break
            slot += 1
        self.buckets[slot] += 1


class Traffic:
    """Octets read from and written to the sockets of one side."""

    def __init__(self) -> None:
        self.read: i64 = 0
        self.written: i64 = 0


class Counters:
    """All that the relay counts for one service."""

    def __init__(self) -> None:
        self.other = MethodCounters(OTHER, OTHER)
        self.rows: list[MethodCounters] = [self.other]
        self._by_spelling: dict[bytes, MethodCounters] = {}
        self._by_path: dict[str, MethodCounters] = {}
        self.replays: dict[str, int] = {}
        self.lost: dict[str, int] = {}
        self.protocol_errors: dict[tuple[str, str], int] = {}
        self.downstream = Traffic()
        self.upstream = Traffic()

    def known(self, spelling: bytes) -> MethodCounters | None:
        """The row for a `:path` as it stood in a header block (length byte and all), if met before."""
        return self._by_spelling.get(spelling)

    def learn(self, spelling: bytes, path: str) -> MethodCounters:
        """The row for a path met in a new spelling: `/package.Service/Method`, else the shared row."""
        if len(path) > MAX_PATH:
            return self.other
        row = self._by_path.get(path)
        if row is None:
            row = self._new_row(path)
        if len(self._by_spelling) < MAX_SPELLINGS:
            self._by_spelling[spelling] = row
        return row

    def _new_row(self, path: str) -> MethodCounters:
        parts = path.split("/")
        if len(parts) != 3 or parts[0] or not parts[1] or not parts[2] or len(self.rows) >= MAX_METHODS:
            return self.other
        row = MethodCounters(parts[1], parts[2])
        self.rows.append(row)
        self._by_path[path] = row
        return row

    def replayed(self, reason: str) -> None:
        """A call that was provably not processed went to another instance."""
        self.replays[reason] = self.replays.get(reason, 0) + 1

    def lose(self, cause: str) -> None:
        """A call failed for want of an instance or a connection, not by the application's answer."""
        self.lost[cause] = self.lost.get(cause, 0) + 1

    def protocol_error(self, side: str, code: str) -> None:
        """A peer broke HTTP/2: `side` is downstream or upstream, `code` the RFC 9113 error's name."""
        key = (side, code)
        self.protocol_errors[key] = self.protocol_errors.get(key, 0) + 1
