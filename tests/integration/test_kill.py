"""An instance that dies by SIGKILL under load: only the calls it had fail, at once, and each is counted."""

import contextlib
import re
import signal
import time

from tests.load import Load
from tests.stack import Consul, Greeter, Process, Sidecar, closing, until

UNARY, ASLEEP = 400, 20  # calls a second
SLOWEST = 1.0  # seconds; every time-out that a call could wait for is longer


def handled(greeter: Process) -> set[str]:
    """Names of the calls that reached a handler."""
    return set(re.findall(r"SayHello (\S+)", greeter.output))


def test_only_calls_of_the_killed_instance_fail() -> None:
    with contextlib.ExitStack() as stack:
        consul = Consul()
        stack.enter_context(closing(consul))
        greeters = [Greeter(f"greeter-{number}", consul.url) for number in range(3)]
        stack.enter_context(closing(*greeters))
        consul.passing(3)
        sidecar = Sidecar("--service", "greeter", "--consul", consul.url)
        stack.enter_context(closing(sidecar))
        sidecar.connected(3)
        load = Load(sidecar.target, unary=UNARY, asleep=ASLEEP, asleep_ms=1000)
        stack.enter_context(closing(load))
        victim = greeters[1]
        until(lambda: "SayHello asleep-" in victim.output, "a handler asleep in the victim")
        until(lambda: len(handled(victim)) > UNARY / 3, "a second of load")

        victim.signal(signal.SIGKILL)
        killed = time.monotonic()
        assert victim.exit() == -signal.SIGKILL
        died = time.monotonic()
        consul.passing(2)  # its check failed, which takes up to a second
        until(lambda: time.monotonic() > died + 2, "two seconds of load without it")
        ledger = load.finish()

        failed = ledger.failed
        assert failed, "nothing was in hand at the kill"
        assert {call.code for call in failed} == {"UNAVAILABLE"}
        assert {call.server for call in failed} <= {victim.name, ""}
        assert all(victim.address in call.details and "was lost" in call.details for call in failed), failed
        # Sent before it died, and failed then: not at a deadline.
        assert all(call.started < died and killed < call.ended < died + SLOWEST for call in failed), failed
        # What its handlers had begun and not answered failed, and what failed was sent there alone.
        answered = {call.name for call in ledger.calls if call.code == "OK"}
        names = {call.name for call in failed}
        assert handled(victim) - answered <= names
        assert any(name.startswith("asleep") for name in names)
        for other in greeters:
            assert other is victim or not names & handled(other)
        # Nobody else noticed.
        assert ledger.slowest("unary") < SLOWEST
        assert ledger.slowest("asleep") < 1.0 + SLOWEST
        assert ledger.rate() > 0.9 * (UNARY + ASLEEP)
        assert not [call for call in ledger.calls if call.started > died and call.server == victim.name]
        # Each is counted once, with its cause, and nothing else is.
        assert sidecar.total("sidecar_lost_rpcs_total", cause="connection_lost") == len(failed)
        assert sidecar.total("sidecar_lost_rpcs_total") == len(failed)
        assert sidecar.total("sidecar_rpcs_handled_total", grpc_code="Unavailable") == len(failed)
        assert sidecar.total("sidecar_rpcs_handled_total", grpc_code="OK") == len(answered)
        print(f"{len(failed)} of {len(ledger.calls)} failed; slowest other {ledger.slowest('unary') * 1000:.0f} ms")
