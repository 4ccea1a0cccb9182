"""Consul agents that can be killed, frozen and started again: one alone, or three servers with a client agent.

Each agent has a loopback address of its own, so that its ports are still free when it comes back.
"""

import contextlib
import json
import secrets
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.stack import Process, get, until
from tests.tools import require

# Below the ports the kernel gives to clients, and not Consul's usual ones, which something may hold on 0.0.0.0.
_HTTP_PORT, _SERVER_PORT, _SERF_PORT = 18500, 18300, 18301
_COMMON = """
performance { raft_multiplier = 1 }
retry_interval = "1s"
disable_update_check = true
"""


def _own_address() -> str:
    return "127." + ".".join(str(1 + secrets.randbelow(254)) for _ in range(3))


class Agent:
    """One Consul agent; `process` is the running one."""

    process: Process

    def __init__(self, name: str, *flags: str) -> None:
        self.name = name
        self.address = _own_address()
        self.server = f"{self.address}:{_SERVER_PORT}"
        self.join = f"{self.address}:{_SERF_PORT}"
        self.url = f"http://{self.address}:{_HTTP_PORT}"
        self.flags = [
            str(require("consul")), "agent", f"-node={name}", f"-bind={self.address}", f"-client={self.address}",
            f"-http-port={_HTTP_PORT}", f"-server-port={_SERVER_PORT}", f"-serf-lan-port={_SERF_PORT}",
            "-serf-wan-port=-1", "-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1", "-log-level=warn",
            f"-hcl={_COMMON}", *flags,
        ]  # fmt: skip

    def start(self) -> None:
        """Start it, again if it ran before."""
        self.process = Process(*self.flags)

    def stop(self, number: int = signal.SIGKILL) -> None:
        """End it by a signal, and wait for the end."""
        self.process.signal(number)
        self.process.exit()
        self.process.close()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """It takes connections in the kernel, but answers nothing."""
        self.process.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.signal(signal.SIGCONT)

    def ready(self) -> None:
        """Wait until it answers, with a leader."""
        until(self.leader, f"a leader known to {self.name}", 30)

    def leader(self) -> str:
        """Address of the leader it knows; empty if there is none, or no answer."""
        try:
            status, body = get(f"{self.url}/v1/status/leader")
        except OSError:
            return ""
        return body.strip('"\n') if status == 200 else ""

    def read(self, path: str) -> Any:
        """The JSON of an answer; None while there is none."""
        try:
            status, body = get(f"{self.url}{path}")
        except OSError:
            return None
        return json.loads(body) if status == 200 else None

    def put(self, path: str, body: object = None) -> Any:
        """PUT, which has to succeed; the JSON of the answer, if there is any."""
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"{self.url}{path}", data, method="PUT")
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read().decode()
        return json.loads(text) if text else None

    def delete(self, path: str) -> None:
        """DELETE, which has to succeed."""
        status, body = get(f"{self.url}{path}", method="DELETE")
        assert status == 200, body

    def instances(self, service: str) -> list[dict[str, Any]]:
        """What /v1/health says of a service; empty also while there is no answer."""
        return self.read(f"/v1/health/service/{service}") or []

    def passing(self, service: str, count: int) -> None:
        """Wait until `count` instances of a service pass."""
        path = f"/v1/health/service/{service}?passing"
        until(lambda: len(self.read(path) or []) == count, f"{count} passing instances at {self.name}")

    def maintenance(self, instance: str, enable: bool) -> None:
        """Take an instance out of traffic, or back."""
        self.put(f"/v1/agent/service/maintenance/{instance}?enable={'true' if enable else 'false'}")


class Cluster:
    """Three servers, and a client agent for those who use Consul."""

    def __init__(self, data: Path) -> None:
        self.servers = [
            Agent(f"server-{number}", "-server", "-bootstrap-expect=3", f"-data-dir={data / f'server-{number}'}")
            for number in range(3)
        ]
        self.client = Agent("client", f"-data-dir={data / 'client'}")
        for agent in self.agents:
            agent.flags += [f"-retry-join={server.join}" for server in self.servers]

    @property
    def agents(self) -> list[Agent]:
        return [*self.servers, self.client]

    def leader(self) -> Agent:
        """The server that leads."""
        address = self.client.leader()
        return next(server for server in self.servers if server.server == address)

    def start(self) -> None:
        """Start all, and wait until the client agent reaches three servers with a leader."""
        for agent in self.agents:
            agent.start()
        for agent in self.agents:
            agent.ready()
        self.healthy()

    def healthy(self) -> None:
        """Wait until all three servers have joined Raft and all four agents are alive."""

        def whole() -> bool:
            peers = self.client.read("/v1/status/peers") or []
            nodes = self.client.read("/v1/health/state/passing") or []
            return len(peers) == 3 and sum(check["CheckID"] == "serfHealth" for check in nodes) == 4

        until(whole, "three servers and a client agent", 30)


@contextlib.contextmanager
def running(agents: list[Agent]) -> Iterator[None]:
    """End the agents, those that run, whatever happens."""
    try:
        yield
    finally:
        for agent in agents:
            if hasattr(agent, "process"):
                with contextlib.suppress(ProcessLookupError):
                    agent.process.signal(signal.SIGCONT)
                agent.process.close()
