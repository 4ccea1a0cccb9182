"""A cluster whose instances are connected by the test's word, and a discovery that says what it is told."""

from collections.abc import Callable, Sequence

from proxy.balance.instance import Instance
from proxy.balance.policy import RoundRobin
from proxy.discovery.histogram import Histogram
from proxy.http2.limits import Budget
from proxy.http2.sender import Carrier
from proxy.relay.cluster import Cluster
from proxy.relay.counters import Counters
from proxy.relay.pool import Dialer


class ScriptedDiscovery:
    """As `Discovery`."""

    def __init__(self) -> None:
        self.source = "Consul at X"
        self.last_error = ""
        self.errors: dict[str, int] = {}
        self.propagation = Histogram()
        self.seconds: float | None = None

    async def run(self, apply: Callable[[Sequence[Instance]], None]) -> None:
        """Bring nothing."""

    def age(self) -> float | None:
        return self.seconds


def cluster() -> Cluster:
    return Cluster("greeter", RoundRobin(), Dialer(), Budget(), Counters(), 5.0)


def instance(name: str, state: str = "passing", port: int = 50000, host: str = "10.0.0.1") -> Instance:
    return Instance(f"vm/{name}", host, port, state, state in ("passing", "warning"), ("blue",), f"note of {name}")


def connect(target: Cluster, name: str) -> None:
    """Give the instance one connection that works."""
    (pool,) = [pool for pool in target.endpoints if pool.instance.key == f"vm/{name}" and not pool.leaving]
    connection = pool.attach(Carrier())
    assert connection is not None
    connection.usable = True


def busy() -> tuple[Cluster, ScriptedDiscovery]:
    """A sidecar that has seen everything that is counted."""
    target, discovery = cluster(), ScriptedDiscovery()
    target.apply([instance("a"), instance("b", "warning"), instance("gone"), instance("moved")])
    for name in ("a", "gone", "moved"):
        connect(target, name)
    target.endpoints[0].codes[0] = 5
    target.endpoints[0].codes[14] = 2
    target.endpoints[3].codes[0] = 3
    target.apply(
        [
            instance("a"),
            instance("b", "warning"),
            instance("c", "critical"),
            instance("d", "maintenance"),
            instance("moved", port=50001),
        ]
    )
    counters = target.counters
    row = counters.learn(b"1", "/helloworld.Greeter/SayHello")
    row.started += 3
    row.finish(0, 0.0004)
    row.finish(5, 0.3)
    odd = counters.learn(b"2", '/a"b\\c/d\ne')
    odd.started += 1
    odd.finish(16, 99.0)
    counters.replayed("goaway")
    counters.lose("connection_lost")
    counters.protocol_error("downstream", "PROTOCOL_ERROR")
    counters.downstream.read += 10
    counters.downstream.written += 20
    counters.upstream.read += 30
    counters.upstream.written += 40
    discovery.seconds = 1.5
    discovery.errors["acl"] = 2
    discovery.propagation.observe(0.002)
    return target, discovery
