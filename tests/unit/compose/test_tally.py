import pytest

from compose.tally import Latency, Switch, Tally, problems, quantile, summary

SWITCH = Switch("g-green", "g-blue", new_visible=10, sigterm=20, old_hidden=21, old_exit=0, old_ended=25)
LATENCY = Latency(sidecar=[0.003, 0.004], direct=[0.001, 0.001])


def tally(*calls: tuple[str, float, float, str, str]) -> Tally:
    made = Tally()
    made.add({"sent": len(calls), "ended": [list(call) for call in calls], "asleep": {}})
    return made


GOOD = (
    ("unary", 9.0, 9.1, "g-green", ""),
    ("unary", 10.5, 10.6, "g-blue", ""),
    ("sleep", 19.0, 22.0, "g-green", ""),
    ("stream", 19.5, 21.5, "g-green", ""),
    ("unary", 21.25, 21.3, "g-green", ""),
    ("unary", 22.0, 22.1, "g-blue", ""),
)


def test_what_an_instance_finished_after_sigterm() -> None:
    assert tally(*GOOD).finished_after("g-green", 20) == {"sleep": 1, "stream": 1}


def test_routing_after_a_change() -> None:
    calls = tally(*GOOD)
    assert calls.first_after("g-blue", 10) == 0.5
    assert calls.first_after("g-blue", 30) is None
    assert calls.last_after("g-green", 21, until=30) == 0.25
    assert calls.last_after("g-green", 21, until=21.1) is None


def test_rate_by_instance() -> None:
    assert tally(*GOOD).rate(2.0, now=22.5) == {"g-green": 1.5, "g-blue": 0.5}


def test_all_was_well() -> None:
    assert problems(tally(*GOOD), [SWITCH], seconds=3, wanted_rate=2) == []


@pytest.mark.parametrize(
    ("calls", "switch", "rate", "problem"),
    [
        ((*GOOD, ("unary", 1, 2, "", "UNAVAILABLE: gone")), SWITCH, 2, "1 of 7 calls failed"),
        ((*GOOD, ("unary", 1, 2, "", "UNAVAILABLE: gone")), SWITCH, 2, "  unary call: UNAVAILABLE: gone"),
        (GOOD[:2], SWITCH, 0, "g-green had no call asleep at SIGTERM"),
        (GOOD, SWITCH, 3, "only 2 calls/s were sent, 3 were wanted"),
        (GOOD, Switch("g-green", "g-blue", 10, 20, 21, -9, 25), 2, "g-green exited with -9"),
    ],
)
def test_what_was_not_well(
    calls: tuple[tuple[str, float, float, str, str], ...], switch: Switch, rate: float, problem: str
) -> None:
    assert problem in problems(tally(*calls), [switch], seconds=3, wanted_rate=rate)


def test_calls_without_a_result_are_a_problem() -> None:
    lost = tally(*GOOD)
    lost.sent += 2
    assert problems(lost, [SWITCH], seconds=3, wanted_rate=2) == ["2 calls have no result"]


def test_summary() -> None:
    lines = dict(summary(tally(*GOOD), [SWITCH], LATENCY, seconds=3))
    assert lines["calls sent"].startswith("6 in 3 s (2/s): 4 unary, 1 asleep")
    assert (lines["failed"], lines["by instance"]) == ("0", "g-blue 2, g-green 4")
    assert (
        "2 calls by green after SIGTERM (1 asleep, 1 streams), exit 0 after 5.0 s" in lines["green -> blue, finished"]
    )
    assert lines["green -> blue, followed"].endswith("first call to blue 500 ms, last call to green 250 ms")
    assert lines["call, p50"].endswith("+2.00 ms")
    assert lines["call, p99"].endswith("+3.00 ms")


def test_quantiles() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert (quantile(values, 0.5), quantile(values, 0.99), quantile([7.0], 0.99)) == (50.0, 99.0, 7.0)
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)
