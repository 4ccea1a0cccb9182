"""A client agent in front of a server, as deployments have it: what its restart and its leave look like."""

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.integration.test_discovery_consul import Agent, watching
from tests.stack import Process, closing, free_port, get, until
from tests.tools import require


class _Node(Process):
    """One agent with its data in a folder of its own, on fixed ports so that it can be started again."""

    def __init__(self, name: str, folder: Path, ports: dict[str, int], *flags: str) -> None:
        self.url = f"http://127.0.0.1:{ports['http']}"
        numbers = [f"-{kind}-port={number}" for kind, number in ports.items()]
        super().__init__(
            str(require("consul")), "agent", f"-node={name}", f"-data-dir={folder / name}", "-bind=127.0.0.1",
            "-client=127.0.0.1", "-log-level=warn", "-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1",
            "-serf-wan-port=-1", "-hcl", "performance { raft_multiplier = 1 }", *numbers, *flags,
        )  # fmt: skip

    def sees(self, node: str) -> bool:
        """Whether its catalog, as the leader has it, lists the node."""
        try:
            return f'"{node}"' in get(f"{self.url}/v1/catalog/nodes")[1]
        except OSError:
            return False


def _ports() -> dict[str, int]:
    return {kind: free_port() for kind in ("http", "serf-lan", "server")}


@contextmanager
def _server(folder: Path) -> Iterator[int]:
    """A server; its port for agents that join."""
    ports = _ports()
    with closing(server := _Node("server", folder, ports, "-server", "-bootstrap-expect=1")):
        until(lambda: server.sees("server"), "a leader", 30)
        yield ports["serf-lan"]


@pytest.fixture
def serving_port() -> Iterator[int]:
    """A port that a TCP check finds open."""
    with socket.socket() as served:
        served.bind(("127.0.0.1", 0))
        served.listen()
        yield served.getsockname()[1]


async def test_a_client_agent_that_restarts_with_its_data_takes_no_instance_away(
    tmp_path: Path, serving_port: int
) -> None:
    ports = _ports()
    check = {"CheckID": "tcp", "TCP": f"127.0.0.1:{serving_port}", "Interval": "2s", "Status": "passing"}
    async with aiohttp.ClientSession() as session:
        with _server(tmp_path) as join:
            flags = [f"-retry-join=127.0.0.1:{join}", "-retry-interval=1s"]
            with closing(client := _Node("client", tmp_path, ports, *flags)):
                until(lambda: client.sees("client"), "the client in the catalog", 30)
                agent = Agent(client.url, session)
                for name in ("blue", "green"):
                    await agent.register(name, Check=check | {"CheckID": f"tcp-{name}"})
                async with watching(client.url) as watch:
                    await watch.until_up("blue", "green")
                    client.signal(signal.SIGKILL)
                    await watch.until(lambda: bool(watch.discovery.last_error), "the agent's loss")
                    known = len(watch.applied)
                    with closing(again := _Node("client", tmp_path, ports, *flags)):
                        await asyncio.to_thread(until, lambda: again.sees("client"), "the agent again", 30)
                        await watch.until(lambda: not watch.discovery.last_error, "the agent found")
                        # Its first probes come within the interval: passing again, whatever was between.
                        await watch.until(
                            lambda: {item.state for item in watch.applied[-1][1]} == {"passing"}, "probed checks"
                        )
                    for _, instances in watch.applied[known:]:
                        assert [item.key for item in instances if item.routable] == ["client/blue", "client/green"]
