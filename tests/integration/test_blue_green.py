"""Blue/green under live traffic, on a real Consul: no call fails, and none is cut short."""

import contextlib
import time
from collections.abc import Iterator
from typing import TypeVar

import pytest

from tests.load import Call, GoLoad, Load
from tests.stack import Consul, Greeter, Process, Sidecar, closing

ROUNDS = 10
RATE = 500  # calls a second, of each client
# The rest of the drain is as by default; a local agent tells its watchers within milliseconds.
DRAIN = ("--settle", "500ms", "--grace", "10s")
MESSAGES = 15  # of a stream that takes 1.5 s, and so outlives the server's SIGTERM
Started = TypeVar("Started", bound=Process)

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def consul() -> Iterator[Consul]:
    with closing(Consul()) as (agent,):
        assert isinstance(agent, Consul)
        yield agent


def held_over(calls: list[Call], server: str, moment: float) -> list[Call]:
    """Calls that `server` had when it was told to stop at `moment`, and answered later."""
    return [call for call in calls if call.server == server and call.started < moment < call.ended]


def test_ten_rounds_lose_no_call(consul: Consul) -> None:
    """At 500 calls/s from grpcio and from grpc-go each, with handlers asleep and streams open in what stops."""
    stopped: dict[str, float] = {}
    colours = [f"{('blue', 'green')[number % 2]}-{number}" for number in range(ROUNDS + 1)]
    with contextlib.ExitStack() as stack:

        def start(process: Started) -> Started:
            stack.callback(process.close)
            return process

        old = start(Greeter(colours[0], consul.url, *DRAIN))
        consul.passing(1)
        sidecar = start(Sidecar("--service", "greeter", "--consul", consul.url))
        load = start(Load(sidecar.target, unary=RATE, asleep=8, streams=4, messages=MESSAGES, interval_ms=100))
        unary = start(GoLoad(sidecar.target, mode="unary", rate=str(RATE)))
        streams = start(GoLoad(sidecar.target, mode="stream", rate="4", replies=str(MESSAGES), interval="100ms"))
        for colour in colours[1:]:
            new = start(Greeter(colour, consul.url, *DRAIN))
            consul.passing(2)
            stopped[old.name] = time.monotonic()
            old.signal()
            assert old.exit() == 0, old.output
            old = new
        ledger, go_unary, go_streams = load.finish(), unary.finish(), streams.finish()

        ledger.none_failed(MESSAGES)
        for counts in (go_unary, go_streams):
            assert counts["failed"] == 0, counts["first_failures"]
            assert counts["sent"] == counts["ok"]
        assert go_streams["messages"] == MESSAGES * go_streams["ok"]
        seconds = max(call.ended for call in ledger.calls) - min(call.started for call in ledger.calls)
        assert ledger.rate() > 0.9 * RATE
        assert go_unary["sent"] / seconds > 0.9 * RATE
        # Every colour served all three loads, and each that stopped had calls of both kinds in hand.
        for counted in (ledger.by_server(), go_unary["by_server"], go_streams["by_server"]):
            assert set(counted) == set(colours)
        for name, moment in stopped.items():
            assert held_over(ledger.of("asleep"), name, moment), f"no handler was asleep in {name}"
            assert held_over(ledger.of("stream"), name, moment), f"no stream was open in {name}"
        assert sidecar.total("sidecar_lost_rpcs_total") == 0
        print(f"{len(ledger.calls)} + {go_unary['sent']} + {go_streams['sent']} calls in {seconds:.1f} s")
