"""Blue/green under live traffic, on a real Consul: no call fails, and none is cut short."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import TypeVar

import pytest

from tests.load import Call, GoLoad, Load
from tests.stack import Consul, Greeter, Process, Sidecar, closing

ROUNDS = 10
RATE = 500  # calls a second
# The rest of the drain is as by default; a local agent tells its watchers within milliseconds.
DRAIN = ("--settle", "500ms", "--grace", "10s")
MESSAGES = 15  # of a stream that takes 1.5 s, and so outlives its server's SIGTERM
COLOURS = [f"{('blue', 'green')[number % 2]}-{number}" for number in range(ROUNDS + 1)]

Started = TypeVar("Started", bound=Process)


@pytest.fixture(scope="module")
def consul() -> Iterator[Consul]:
    agent = Consul()
    with closing(agent):
        yield agent


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as processes:
        yield processes


def keep(stack: contextlib.ExitStack, process: Started) -> Started:
    """Let a process end with the test."""
    stack.callback(process.close)
    return process


class Rollout:
    """Ten deployments of the other colour, each stopping the one before."""

    def __init__(self, consul: Consul, stack: contextlib.ExitStack) -> None:
        self.stopped: dict[str, float] = {}
        """When each was told to stop."""
        self.seconds = 0.0
        self._consul = consul
        self._stack = stack
        self._serving = self._deploy(COLOURS[0], 1)

    def run(self) -> None:
        """Deploy, wait for the check, stop the old one and see it go, ten times."""
        began = time.monotonic()
        for colour in COLOURS[1:]:
            new = self._deploy(colour, 2)
            old, self._serving = self._serving, new
            self.stopped[old.name] = time.monotonic()
            old.signal()
            assert old.exit() == 0, old.output
        self.seconds = time.monotonic() - began

    def _deploy(self, colour: str, passing: int) -> Greeter:
        greeter = keep(self._stack, Greeter(colour, self._consul.url, *DRAIN))
        self._consul.passing(passing)
        return greeter

    def served_all(self, by_server: Mapping[str, int]) -> None:
        """Assert that every colour had its share."""
        assert set(by_server) == set(COLOURS)

    def held_over(self, calls: list[Call]) -> None:
        """Assert that each that stopped had some of these calls then, and ended them later."""
        for name, moment in self.stopped.items():
            kept = [call for call in calls if call.server == name and call.started < moment < call.ended]
            assert kept, f"{name} had no such call when it was told to stop"


def sidecar_of(consul: Consul, stack: contextlib.ExitStack) -> Sidecar:
    return keep(stack, Sidecar("--service", "greeter", "--consul", consul.url))


def lost_nothing(sidecar: Sidecar, calls: int) -> None:
    """Assert that the sidecar has counted the calls, and none as lost."""
    assert sidecar.total("sidecar_lost_rpcs_total") == 0
    assert sidecar.total("sidecar_rpcs_started_total") == calls
    assert sidecar.total("sidecar_rpcs_handled_total", grpc_code="OK") == calls
    assert sidecar.total("sidecar_rpcs_in_flight") == 0


def test_ten_rounds_lose_no_call_of_grpcio(consul: Consul, stack: contextlib.ExitStack) -> None:
    rollout = Rollout(consul, stack)
    sidecar = sidecar_of(consul, stack)
    load = keep(stack, Load(sidecar.target, unary=RATE, asleep=8, streams=4, messages=MESSAGES, interval_ms=100))
    rollout.run()
    ledger = load.finish()

    ledger.none_failed(MESSAGES)
    assert ledger.rate() > 0.9 * RATE
    rollout.served_all(ledger.by_server())
    rollout.held_over(ledger.of("asleep"))
    rollout.held_over(ledger.of("stream"))
    lost_nothing(sidecar, len(ledger.calls))
    slowest = ledger.slowest() * 1000
    print(f"{len(ledger.calls)} calls, {ROUNDS} rounds in {rollout.seconds:.1f} s; slowest {slowest:.0f} ms")


def test_ten_rounds_lose_no_call_of_grpc_go(consul: Consul, stack: contextlib.ExitStack) -> None:
    rollout = Rollout(consul, stack)
    sidecar = sidecar_of(consul, stack)
    unary = keep(stack, GoLoad(sidecar.target, mode="unary", rate=str(RATE)))
    asleep = keep(stack, GoLoad(sidecar.target, mode="unary", rate="8", interval="1s"))
    streams = keep(stack, GoLoad(sidecar.target, mode="stream", rate="4", replies=str(MESSAGES), interval="100ms"))
    rollout.run()
    counts = [load.finish() for load in (unary, asleep, streams)]

    for count in counts:
        assert count["failed"] == 0, count["first_failures"]
        rollout.served_all(count["by_server"])
    assert counts[2]["messages"] == MESSAGES * counts[2]["sent"]
    assert counts[0]["sent"] > 0.9 * RATE * rollout.seconds
    calls = sum(count["sent"] for count in counts)
    lost_nothing(sidecar, calls)
    print(f"{calls} calls, {ROUNDS} rounds in {rollout.seconds:.1f} s")
