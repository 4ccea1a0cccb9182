"""Each attack for a moment: the documented answer, a good client that notices nothing, and memory that is bounded.

``python -m tests.hostile`` runs them for longer and measures.
"""

import threading
from collections.abc import Iterator

import grpc
import pytest

from tests.hostile.__main__ import GROWTH, Peak
from tests.hostile.attacks import ATTACKS, CALM, PROTOCOL, Attack, named, run
from tests.hostile.line import KEPT
from tests.integration.echo_server import EchoServer, dial
from tests.stack import Sidecar, closing, until

SECONDS = 0.5
_PAUSE = 0.02


class GoodClient:
    """Calls all the time; `failures` are the codes of those that were not answered as they should be."""

    def __init__(self, target: str) -> None:
        self.calls = 0
        self.failures: list[str] = []
        self._target = target
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._call)
        self._thread.start()

    def _call(self) -> None:
        with dial(self._target) as channel:
            unary = channel.unary_unary("/test.Echo/Unary")
            while not self._done.wait(_PAUSE):
                try:
                    if unary(b"hi", timeout=30) != b"hi":
                        self.failures.append("another answer")
                except grpc.RpcError as error:
                    self.failures.append(str(error))
                self.calls += 1

    def served(self) -> None:
        """Wait for calls that were begun from now on."""
        before = self.calls
        until(lambda: self.calls > before + 2, "calls of the good client", 30)
        assert self.failures == []

    def close(self) -> None:
        self._done.set()
        self._thread.join()


@pytest.fixture(scope="module")
def sidecar() -> Iterator[Sidecar]:
    instances = [EchoServer(name) for name in ("blue", "green")]
    with closing(*instances):
        process = Sidecar(*(word for instance in instances for word in ("--endpoint", instance.address)))
        with closing(process):
            process.connected(2)
            yield process


@pytest.fixture(scope="module")
def good(sidecar: Sidecar) -> Iterator[GoodClient]:
    client = GoodClient(sidecar.target)
    try:
        client.served()
        yield client
    finally:
        client.close()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack(sidecar: Sidecar, good: GoodClient, attack: Attack) -> None:
    peak = Peak(sidecar)
    try:
        answers = run(attack, sidecar.target, SECONDS)
        good.served()
    finally:
        growth = peak.growth()
    assert answers
    assert set(answers) <= attack.allowed(SECONDS), answers
    assert growth <= GROWTH, f"{growth / 1e6:.1f} MB more"
    assert sidecar.running()
    assert "Traceback" not in sidecar.output


def test_nothing_is_left_of_them(sidecar: Sidecar, good: GoodClient) -> None:
    """All that attackers had begun ends with their connections."""
    good.served()
    until(lambda: sidecar.total("sidecar_rpcs_in_flight") <= 1, "the end of all calls but the good client's")


def test_an_attack_that_would_be_noticed() -> None:
    """The check itself: an answer that is not the documented one, and silence where one is due."""
    allowed = named("PING flood").allowed(SECONDS)
    assert {CALM} == allowed - {KEPT}
    assert KEPT not in named("PING flood").allowed(20)
    assert PROTOCOL not in allowed
    assert named("mute").allowed(20) == {PROTOCOL}
