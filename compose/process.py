"""Child processes: started in order, ready when their log says so, stopped by SIGTERM, never left behind."""

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

READY_S = 20.0
"""How long a process may take until it is ready; generous, as the machine may be busy."""
STOP_S = 10.0
"""How long a process may take to end after SIGTERM before it is killed."""
POLL_S = 0.02
TAIL_LINES = 15


class StackError(Exception):
    """The stack cannot run; the message says which process and why."""


class Process:
    """One child with its log in a file."""

    def __init__(self, name: str, log: Path, child: asyncio.subprocess.Process) -> None:
        self.name = name
        self.log = log
        self.child = child

    @classmethod
    async def start(
        cls, name: str, command: Sequence[str], logs: Path, environ: Mapping[str, str] | None = None
    ) -> "Process":
        """Start `command` with its output in ``logs/NAME.log``; raises `StackError`."""
        log = logs / f"{name}.log"
        try:
            with log.open("wb") as output:
                child = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environ,
                    # Ctrl-C is for the parent alone, which then stops its children in order.
                    start_new_session=True,
                )
        except OSError as error:
            raise StackError(f"cannot start {name}: {error}") from error
        return cls(name, log, child)

    async def logged(self, pattern: str, within: float = READY_S) -> re.Match[str]:
        """Wait for a line that `pattern` matches; raises `StackError` if the process ends or time is up."""
        compiled = re.compile(pattern)
        deadline = asyncio.get_running_loop().time() + within
        while True:
            ended = self.child.returncode
            match = compiled.search(self.log.read_text(errors="replace"))
            if match:
                return match
            if ended is not None:
                raise StackError(f"{self.name} ended with exit code {ended}:\n{self.tail()}")
            if asyncio.get_running_loop().time() > deadline:
                raise StackError(f"{self.name} was not ready within {within:g} s:\n{self.tail()}")
            await asyncio.sleep(POLL_S)

    def terminate(self, number: int = signal.SIGTERM) -> None:
        """Send a signal, by default SIGTERM; nothing if the process has ended."""
        if self.child.returncode is None:
            self.child.send_signal(number)

    async def ended(self, within: float) -> int:
        """Wait for the end; returns the exit code, negative for a signal. Raises `StackError` when time is up."""
        try:
            async with asyncio.timeout(within):
                return await self.child.wait()
        except TimeoutError as error:
            raise StackError(f"{self.name} did not end within {within:g} s:\n{self.tail()}") from error

    async def stop(self) -> int:
        """End the process, by force if SIGTERM does not do it in time; returns the exit code."""
        self.terminate()
        try:
            return await self.ended(STOP_S)
        except StackError:
            self.terminate(signal.SIGKILL)
            return await self.child.wait()

    def tail(self) -> str:
        """Return the last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])


def python(*arguments: str) -> list[str]:
    """Return the command that runs a module of the project: ``python("-m", "proxy", ...)``."""
    return [sys.executable, *arguments]


def environment() -> dict[str, str]:
    """Return this process's environment without the settings that would change what the stack's flags say."""
    hidden = ("GRPC_SIDECAR_", "GREETER_", "CONSUL_")
    return {name: value for name, value in os.environ.items() if not name.startswith(hidden)}


def usual_or_free(port: int) -> int:
    """Return `port` if it can be bound on loopback, else a free one."""
    return port if _bindable(port) else free_port()


def free_port() -> int:
    """Return a port that is free on loopback right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do, so that connections of an earlier run in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
