"""The stack as local processes: registry or Consul, greeters, sidecar."""

import asyncio
import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from compose.consul import find_consul, start_consul
from compose.process import Process, StackError, environment, python, usual_or_free

SERVICE = "greeter"
HOST = "127.0.0.1"
CONSUL_PORT, SIDECAR_PORT, ADMIN_PORT = 8500, 50051, 9464
"""The ports that users know; a free one is taken where one of them is not."""
GREETER_PORTS = {"green": 50000, "blue": 50001}
SETTLE = "1s"
"""How long a greeter serves on after the registry was told: with one local sidecar, ample."""


@dataclass(frozen=True, slots=True)
class Greeter:
    """A running greeter."""

    name: str
    address: str
    process: Process


@dataclass(frozen=True, slots=True)
class Sidecar:
    """A running sidecar and what it bound."""

    listen: str
    admin: str
    process: Process


class Stack:
    """Starts the processes, and stops them when its block ends: nobody is left behind.

    Every method raises `StackError` when a process does not come up.
    """

    def __init__(self) -> None:
        self.logs = Path(tempfile.mkdtemp(prefix="grpc-sidecar-"))
        self.url = ""
        self._registry: Process | None = None
        self._others: list[Process] = []

    async def __aenter__(self) -> "Stack":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The registry goes last: a greeter that drains talks to it.
        await asyncio.gather(*(process.stop() for process in self._others))
        if self._registry:
            await self._registry.stop()

    async def start_registry(self) -> None:
        """Start the development registry."""
        port = usual_or_free(CONSUL_PORT)
        command = python("-m", "compose", "registry", "--listen", f"{HOST}:{port}")
        self._registry = await Process.start("registry", command, self.logs, environment())
        bound = await self._registry.logged(r"ready listen=(\S+)")
        self.url = f"http://{bound[1]}"

    async def start_consul(self) -> None:
        """Start a real Consul from PATH or from the built tools."""
        binary = find_consul()
        if binary is None:
            raise StackError("there is no consul on PATH and none in tests/tools/bin: make tools builds one")
        port = usual_or_free(CONSUL_PORT)
        self._registry = await start_consul(binary, port, self.logs)
        self.url = f"http://{HOST}:{port}"

    async def start_greeter(self, tag: str, sleep: str = "0s") -> Greeter:
        """Start the greeter ``greeter-server-TAG`` and wait until it is registered."""
        name = f"greeter-server-{tag}"
        command = python("-m", "greeter.server", "--name", name, "--tag", tag, "--service", SERVICE)
        command += ["--host", HOST, "--port", str(usual_or_free(GREETER_PORTS[tag])), "--consul", self.url]
        command += ["--sleep", sleep, "--settle", SETTLE]
        process = await self._start(name, command)
        bound = await process.logged(r"ready .*listen=(\S+)")
        await process.logged(r" registered ")
        return Greeter(name, bound[1], process)

    async def start_sidecar(self) -> Sidecar:
        """Start the sidecar and wait until it is ready."""
        listen, admin = (f"{HOST}:{usual_or_free(port)}" for port in (SIDECAR_PORT, ADMIN_PORT))
        command = python("-m", "proxy", "--service", SERVICE, "--consul", self.url)
        process = await self._start("sidecar", [*command, "--listen", listen, "--admin", admin])
        bound = await process.logged(r"listen=(\S+).* admin=(\S+)")
        return Sidecar(bound[1], bound[2], process)

    def forget_logs(self) -> None:
        """Remove the logs."""
        for log in self.logs.iterdir():
            log.unlink()
        with contextlib.suppress(OSError):
            self.logs.rmdir()

    async def _start(self, name: str, command: list[str]) -> Process:
        process = await Process.start(name, command, self.logs, environment())
        self._others.append(process)
        return process
