import pytest

from compose.registry.definitions import RefusedError, check_from, notation, seconds, service_from


@pytest.mark.parametrize(
    ("text", "value"),
    [("1s", 1.0), ("500ms", 0.5), ("1m30s", 90.0), ("2h", 7200.0), ("1.5s", 1.5), (".5s", 0.5), ("0", 0.0)],
)
def test_durations_in_the_notation_of_go(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "2", "s", "1x", "1s ", "-"])
def test_wrong_durations(text: str) -> None:
    with pytest.raises(ValueError, match="invalid duration"):
        seconds(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0s"), (0.5, "500ms"), (1, "1s"), (1.5, "1.5s"), (90, "1m30s"), (60, "1m0s"), (3600, "1h0m0s")],
)
def test_printed_durations(value: float, text: str) -> None:
    assert notation(value) == text


def test_a_check_by_itself() -> None:
    check = check_from({"Name": "n", "TCP": "h:1", "Interval": 2_000_000_000, "FailuresBeforeCritical": 3})
    assert (check.id, check.kind, check.target, check.interval, check.status) == ("n", "tcp", "h:1", 2.0, "critical")
    assert (check.failures_before_warning, check.failures_before_critical) == (3, 3)


def test_reaping_has_a_minimum() -> None:
    body = {"Name": "n", "TTL": "1s", "DeregisterCriticalServiceAfter": "1s"}
    assert check_from(body).reap_after == 60.0
    assert check_from({"Name": "n", "TTL": "1s"}).reap_after == 0.0


@pytest.mark.parametrize("field", [{"Tags": "x"}, {"Meta": {"a": 1}}, {"Checks": {}}, {"EnableTagOverride": 1}])
def test_wrong_types(field: dict[str, object]) -> None:
    with pytest.raises(RefusedError, match="cannot unmarshal"):
        service_from({"Name": "a", **field})
