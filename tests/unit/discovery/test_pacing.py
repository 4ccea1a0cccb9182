from proxy.discovery.histogram import Histogram
from proxy.discovery.pacing import Backoff, TokenBucket, next_index


def test_a_burst_is_free_then_turns_come_at_the_rate() -> None:
    bucket = TokenBucket(2, 1.0)
    assert [bucket.delay(10.0), bucket.delay(10.0), bucket.delay(10.0)] == [0.0, 0.0, 1.0]
    assert bucket.delay(11.0) == 1.0
    assert bucket.delay(60.0) == 0.0


def test_tokens_never_exceed_the_burst() -> None:
    bucket = TokenBucket(2, 1.0)
    bucket.delay(0.0)
    assert [bucket.delay(1000.0) for _ in range(3)] == [0.0, 0.0, 1.0]


def test_back_off_doubles_its_bound_up_to_30_seconds_with_full_jitter() -> None:
    backoff = Backoff(lambda low, high: low + high)
    assert [backoff.delay() for _ in range(9)] == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    backoff.reset()
    assert backoff.delay() == 0.25
    assert Backoff(lambda low, high: low).delay() == 0.0


def test_an_index_that_falls_or_is_not_positive_starts_over() -> None:
    assert next_index(0, 7) == 7
    assert next_index(7, 7) == 7
    assert next_index(7, 9) == 9
    assert next_index(9, 7) == 0
    assert next_index(0, 0) == 0


def test_the_histogram_counts_at_and_below_its_bounds() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.5):
        histogram.observe(value)
    assert (histogram.counts, histogram.sum) == ([2, 1, 1], 5.5)
