"""A histogram as plain numbers, read when Prometheus scrapes."""

from typing import Final

# Upper bounds in seconds. A change is to be applied within a few milliseconds; 50 ms is the promise.
PROPAGATION_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class Histogram:
    """Counts by bucket, the last one for all above `bounds`."""

    def __init__(self, bounds: tuple[float, ...] = PROPAGATION_BUCKETS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.sum += value
        self.counts[sum(value > bound for bound in self.bounds)] += 1
