import io

import pytest
from rich.console import Console

from compose import view as module
from compose.view import LiveView, PlainView, Status

STATUS = Status(12, 1, {"g-blue": "passing"}, {"g-green": 5.0, "g-blue": 7.0}, {"g-green": 2, "old": 0})
LINES = [("failed", "1"), ("calls sent", "12")]


def test_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PLAIN_INTERVAL_S", 0)
    written: list[str] = []
    with PlainView(written.append) as view:
        view.step("a step")
        view.update(STATUS)
        view.summary(LINES, ["it failed"])
    assert written[0].endswith("s] a step")
    assert written[1].endswith("12 sent, 1 failed; g-blue passing 7/s, 0 asleep; g-green gone 5/s, 2 asleep")
    assert written[-3:] == ["failed      1", "calls sent  12", "PROBLEM: it failed"]


def test_plain_lines_are_not_too_many() -> None:
    written: list[str] = []
    with PlainView(written.append) as view:
        view.update(STATUS)
    assert written == []


def test_live_view() -> None:
    screen = io.StringIO()
    with LiveView(Console(file=screen, force_terminal=True, width=100)) as view:
        view.step("a step")
        view.update(STATUS)
        view.summary(LINES, ["it failed"])
    shown = screen.getvalue()
    for text in ("a step", "12 calls sent", "g-green", "passing", "it failed"):
        assert text in shown
