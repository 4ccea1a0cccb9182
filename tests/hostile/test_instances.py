"""All hostile instances at once beside a good one: its calls are untouched, and each of the others gets its answer."""

import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.hostile.__main__ import GROWTH, Peak, spoiled
from tests.hostile.instances import BEHAVIOURS, Behaviour, serve
from tests.integration.echo_server import EchoServer
from tests.load import Load
from tests.stack import Sidecar, closing, until

DEADLINE = 1.0
GOOD_CALLS = 20


class Hostile:
    """An instance in a thread."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.answers: Counter[str] = Counter()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._listener.getsockname())
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        self.answers = serve(self.behaviour, self._listener, lambda: not self._done.is_set())

    def close(self) -> None:
        self._done.set()
        self._thread.join()
        self._listener.close()


@pytest.fixture(scope="module")
def hostile() -> Iterator[list[Hostile]]:
    instances = [Hostile(behaviour) for behaviour in BEHAVIOURS]
    with contextlib.ExitStack() as stack:
        for instance in instances:
            stack.callback(instance.close)
        yield instances


def test_hostile_instances_spoil_their_own_calls_alone(hostile: list[Hostile]) -> None:
    with closing(good := EchoServer()):
        addresses = [good.address, *(instance.address for instance in hostile)]
        sidecar = Sidecar(*(word for address in addresses for word in ("--endpoint", address)))
        with closing(sidecar):
            sidecar.connected(1)
            peak = Peak(sidecar)
            try:
                load = Load(sidecar.target, unary=100, deadline=DEADLINE)
                with closing(load):

                    def served() -> bool:
                        finished = sidecar.total("sidecar_upstream_rpcs_total", instance=good.address)
                        return finished >= GOOD_CALLS

                    until(served, "calls of the good instance", 30)
                    ledger = load.finish()
            finally:
                growth = peak.growth()
            for instance in hostile:
                instance.close()
            assert spoiled(sidecar, [good.address]) == 0
            assert len(ledger.failed) <= spoiled(sidecar, [instance.address for instance in hostile])
            assert growth <= GROWTH, f"{growth / 1e6:.1f} MB more"
            assert "Traceback" not in sidecar.output
    wrong = {
        instance.behaviour.name: instance.answers
        for instance in hostile
        if not instance.answers or set(instance.answers) - {*instance.behaviour.answers}
    }
    assert wrong == {}
