"""Real processes for tests: started, waited for by what they say, and ended by their id."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.tools import require

ROOT = Path(__file__).resolve().parent.parent
DEADLINE = 15.0  # seconds for a condition that should hold within one


def until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE) -> Any:
    """Wait for `condition` to give something true, and return that; fails with `what` when it never does."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"within {seconds:g} s there was no sign of: {what}")
        time.sleep(0.01)


def free_port() -> int:
    """A TCP port of loopback that nobody has right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(url: str, timeout: float = 5.0, method: str = "GET") -> tuple[int, str]:
    """Status and body of an HTTP answer, be it good or bad."""
    request = urllib.request.Request(url, method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class Process:
    """A started program whose output is read line by line."""

    def __init__(self, *command: str, env: dict[str, str] | None = None) -> None:
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("CONSUL_", "GRPC_"))}
        environ |= {"PYTHONUNBUFFERED": "1", **(env or {})}
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A group of its own, so that what a wrapper script started ends with it.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """End the program if what is waited for inside does not come."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def line(self, pattern: str, seconds: float = DEADLINE) -> re.Match[str]:
        """Wait for a line that has `pattern`."""

        def found() -> re.Match[str] | None:
            for line in list(self.lines):
                if match := re.search(pattern, line):
                    return match
            if self._process.poll() is not None:
                self._reader.join(5)
                if not any(re.search(pattern, line) for line in self.lines):
                    raise AssertionError(f"ended with {self._process.returncode} before {pattern!r}:\n{self.output}")
            return None

        try:
            match: re.Match[str] = until(found, f"a line with {pattern!r}", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output}") from None
        return match

    def signal(self, number: int = signal.SIGTERM) -> None:
        self._process.send_signal(number)

    def exit(self, seconds: float = 30.0) -> int:
        """Wait for the end; the exit code."""
        code = self._process.wait(seconds)
        self._reader.join(5)
        return code

    def running(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """End it, gently or not, and release the pipe."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.exit()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def rss(self) -> int:
        """Resident memory in octets."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        match = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert match is not None
        return int(match[1]) * 1024

    def cpu(self) -> float:
        """CPU seconds used so far, user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Sidecar(Process):
    """`python -m proxy`, waited for until it is ready."""

    def __init__(self, *flags: str, env: dict[str, str] | None = None) -> None:
        addresses = []
        for flag in ("--listen", "--admin"):
            if not any(given.split("=")[0] == flag for given in flags):
                addresses += [flag, "127.0.0.1:0"]
        super().__init__(sys.executable, "-m", "proxy", *addresses, *flags, env=env)
        with self.starting():
            ready = self.line(r"listen=(\S+) admin=(\S+)")
        self.target, self.admin = ready[1], ready[2]

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics, by name and labels as they are written."""
        _, text = get(f"http://{self.admin}/metrics")
        samples = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in samples}

    def total(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that bear `labels`."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(
            value
            for sample, value in self.metrics().items()
            if sample.split("{")[0] == name and all(label in sample for label in wanted)
        )

    def status(self) -> dict[str, Any]:
        """The JSON of /status."""
        answer: dict[str, Any] = json.loads(get(f"http://{self.admin}/status")[1])
        return answer

    def connected(self, count: int, seconds: float = DEADLINE) -> None:
        """Wait until `count` instances are connected."""
        until(lambda: self.total("sidecar_upstream_connections") >= count, f"{count} connected instances", seconds)


class Greeter(Process):
    """A greeter server, waited for until it serves."""

    def __init__(self, name: str, consul: str, *flags: str) -> None:
        command = ["--name", name, "--port", "0", "--host", "127.0.0.1", "--consul", consul]
        super().__init__(sys.executable, "-m", "greeter.server", *command, *flags)
        self.name = name
        with self.starting():
            self.address = self.line(r"ready name=\S+ listen=(\S+)")[1]


class Consul(Process):
    """A real `consul agent -dev` on free ports of loopback."""

    def __init__(self, *flags: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        ports = [f"-{name}-port={free_port()}" for name in ("serf-lan", "serf-wan", "server")]
        super().__init__(
            str(require("consul")), "agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1", "-log-level=warn",
            f"-http-port={self.port}", "-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1", *ports, *flags,
        )  # fmt: skip
        with self.starting():
            until(self._has_leader, "Consul's leader", 30)

    def _has_leader(self) -> bool:
        try:
            return get(f"{self.url}/v1/status/leader")[1].strip() not in ("", '""')
        except OSError:
            return False

    def instances(self, service: str = "greeter", passing: bool = True) -> list[dict[str, Any]]:
        """What /v1/health says of a service."""
        suffix = "?passing" if passing else ""
        entries: list[dict[str, Any]] = json.loads(get(f"{self.url}/v1/health/service/{service}{suffix}")[1])
        return entries

    def passing(self, count: int, service: str = "greeter") -> None:
        """Wait until `count` instances pass."""
        until(lambda: len(self.instances(service)) == count, f"{count} passing instances of {service}")


@contextlib.contextmanager
def closing(*processes: Process) -> Iterator[Sequence[Process]]:
    """End the processes, last started first, whatever happens."""
    with contextlib.ExitStack() as stack:
        for process in processes:
            stack.callback(process.close)
        yield processes
