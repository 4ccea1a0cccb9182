"""Dialling over real sockets, on uvloop and on asyncio's own loop."""

import asyncio
import socket
from collections.abc import Callable, Coroutine

import pytest
import uvloop

from proxy.balance.instance import Instance
from proxy.balance.policy import RoundRobin
from proxy.http2.limits import Budget
from proxy.net import dialer
from proxy.net.dialer import TcpDialer
from proxy.net.link import Hub
from proxy.relay.cluster import Cluster
from proxy.relay.counters import Counters
from tests.wire import settings, settings_ack

Scenario = Callable[[Cluster], Coroutine[None, None, None]]
LOOPS = {"uvloop": uvloop.Loop, "asyncio": asyncio.SelectorEventLoop}


def played(loop: str, scenario: Scenario, random: float = 0.5) -> None:
    """Run a scenario with a cluster whose dialer is the real one; 0.5 neither adds to its delays nor takes away."""

    async def run() -> None:
        counters = Counters()
        hub = Hub(asyncio.get_running_loop())
        async with asyncio.TaskGroup() as tasks:
            dials = TcpDialer(hub, counters, tasks, lambda: random)
            cluster = Cluster("x", RoundRobin(), dials, Budget(), counters, 5.0)
            async with asyncio.timeout(10):
                await scenario(cluster)
            dials.close()
        hub.close()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(run())


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, for as long as `played` allows."""
    while not condition():  # noqa: ASYNC110 - what is waited for says nothing
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("loop", LOOPS)
def test_an_instance_is_reached(loop: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(settings() + settings_ack())
            writers.append(writer)

        writers: list[asyncio.StreamWriter] = []
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        cluster.apply([Instance("a", "127.0.0.1", port, "passing", True)])
        await until(lambda: cluster.endpoints[0].is_connected())
        for writer in writers:
            writer.close()
        server.close()

    played(loop, scenario)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("host", "reason"),
    [("127.0.0.1", ""), ("a..b", "label empty or too long"), ("x" * 70, "label too long")],
)
def test_an_address_that_leads_nowhere_is_that_instances_matter(loop: str, host: str, reason: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    async def scenario(cluster: Cluster) -> None:
        cluster.apply([Instance("a", host, port, "passing", True)])
        await until(lambda: cluster.endpoints[0].last_error)
        assert reason in cluster.endpoints[0].last_error

    played(loop, scenario)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_port_out_of_range_is_too(loop: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.apply([Instance("a", "127.0.0.1", 70_000, "passing", True)])
        await until(lambda: cluster.endpoints[0].last_error)

    played(loop, scenario)


@pytest.mark.parametrize("loop", LOOPS)
def test_an_instance_that_is_up_again_is_reached_at_once(loop: str) -> None:
    """Its dials failed while it was down, and the next is minutes away; discovery knows better."""

    async def scenario(cluster: Cluster) -> None:
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            port = reserved.getsockname()[1]
            cluster.apply([Instance("a", "127.0.0.1", port, "passing", True)])
            await until(lambda: cluster.endpoints[0].last_error)
        server = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", port)
        cluster.apply([Instance("a", "127.0.0.1", port, "critical", False)])
        cluster.apply([Instance("a", "127.0.0.1", port, "passing", True)])
        try:
            await until(lambda: writers)
        finally:  # uvloop does not end with a server open
            for writer in writers:
                writer.close()
            server.close()

    writers: list[asyncio.StreamWriter] = []
    played(loop, scenario, random=5000.0)


class LateLoop:
    """A loop whose connections are made, but whose word of it comes too late."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    async def create_connection(self, factory: Callable[[], asyncio.Protocol], host: str, port: int) -> object:
        made = await self.loop.create_connection(factory, host, port)
        await asyncio.sleep(1)
        return made

    def __getattr__(self, name: str) -> object:
        return getattr(self.loop, name)


def test_a_connection_made_as_time_runs_out_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialer, "CONNECT_SECONDS", 0.05)

    async def scenario() -> None:
        writers: list[asyncio.StreamWriter] = []
        server = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        counters = Counters()
        hub = Hub(LateLoop(asyncio.get_running_loop()))  # type: ignore[arg-type]
        async with asyncio.TaskGroup() as tasks:
            dials = TcpDialer(hub, counters, tasks, lambda: 0.5)
            cluster = Cluster("x", RoundRobin(), dials, Budget(), counters, 5.0)
            async with asyncio.timeout(10):
                cluster.apply([Instance("a", "127.0.0.1", port, "passing", True)])
                pool = cluster.endpoints[0]
                await until(lambda: pool.connections and not dials._dials)
                assert pool.last_error == ""
                assert len(pool.connections) == 1
                # Once that is lost, it is dialled again: the count of dials is right.
                writers[0].close()
                await until(lambda: len(writers) == 2)
            dials.close()
        hub.close()
        for writer in writers:
            writer.close()
        server.close()

    asyncio.run(scenario())
