"""Shows a running scenario: live where there is a terminal, plain lines otherwise."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

PLAIN_INTERVAL_S = 2.0
"""How often the plain view says how it goes."""

COLOURS = {"passing": "green", "warning": "yellow", "critical": "red", "maintenance": "cyan"}


@dataclass(slots=True)
class Status:
    """What there is to show: per instance its state in the registry, calls per second, calls asleep."""

    sent: int = 0
    failed: int = 0
    states: Mapping[str, str] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    asleep: Mapping[str, int] = field(default_factory=dict)

    def instances(self) -> list[str]:
        """Return the names of the instances that have a state or calls."""
        return sorted({*self.states, *self.rates, *(name for name, count in self.asleep.items() if count)})


class View(Protocol):
    """Either view; used as a context manager."""

    def __enter__(self) -> "View":
        """Start to show."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop to show."""

    def step(self, text: str) -> None:
        """Say that a step of the scenario is done or begins."""

    def update(self, status: Status) -> None:
        """Show how it goes."""

    def summary(self, lines: Sequence[tuple[str, str]], problems: Sequence[str]) -> None:
        """Show the end."""


class PlainView:
    """A line for each step, and one every few seconds in between."""

    def __init__(self, write: Callable[[str], object] = print) -> None:
        self._write = write
        self._started = time.monotonic()
        self._shown = self._started

    def __enter__(self) -> "PlainView":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def step(self, text: str) -> None:
        """Write the step with the seconds since the start."""
        self._write(f"[{time.monotonic() - self._started:5.1f} s] {text}")

    def update(self, status: Status) -> None:
        """Write a line if the last one is old enough."""
        now = time.monotonic()
        if now - self._shown < PLAIN_INTERVAL_S:
            return
        self._shown = now
        parts = [f"{status.sent} sent, {status.failed} failed"]
        for name in status.instances():
            state, rate = status.states.get(name, "gone"), status.rates.get(name, 0)
            parts.append(f"{name} {state} {rate:.0f}/s, {status.asleep.get(name, 0)} asleep")
        self.step("        " + "; ".join(parts))

    def summary(self, lines: Sequence[tuple[str, str]], problems: Sequence[str]) -> None:
        """Write the lines of the summary."""
        width = max(len(label) for label, _ in lines) if lines else 0
        self._write("")
        for label, value in lines:
            self._write(f"{label:<{width}}  {value}")
        for problem in problems:
            self._write(f"PROBLEM: {problem}")


class LiveView:
    """A table that is drawn in place, with the steps above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> "LiveView":
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.update(Text(""), refresh=True)
        self._live.stop()

    def step(self, text: str) -> None:
        """Print the step above the table."""
        elapsed = Text(f"{time.monotonic() - self._started:5.1f} s  ", style="dim")
        self._console.print(elapsed + Text(text))

    def update(self, status: Status) -> None:
        """Draw the table anew."""
        table = Table("instance", "registry", "calls/s", "", "asleep")
        for name in status.instances():
            state, rate = status.states.get(name, "gone"), status.rates.get(name, 0.0)
            bar = Text("█" * round(rate / 10), style="blue" if name.endswith("blue") else "green")
            style = COLOURS.get(state, "dim")
            table.add_row(name, Text(state, style), f"{rate:.0f}", bar, str(status.asleep.get(name, 0)))
        failed = Text(f"{status.failed} failed", style="red bold" if status.failed else "green")
        self._live.update(Group(Text(f"{status.sent} calls sent, ") + failed, table), refresh=True)

    def summary(self, lines: Sequence[tuple[str, str]], problems: Sequence[str]) -> None:
        """Print the summary as a table of two columns."""
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for label, value in lines:
            bad = label == "failed" and value != "0"
            table.add_row(Text(label, "dim"), Text(value, "red bold" if bad else "bold"))
        self._console.print(Text(""), table)
        for problem in problems:
            self._console.print(Text(f"PROBLEM: {problem}", "red"))


def choose_view() -> View:
    """Return the live view where standard output is a terminal, else the plain one."""
    if not sys.stdout.isatty():
        return PlainView(lambda line: print(line, flush=True))
    return LiveView(Console())
