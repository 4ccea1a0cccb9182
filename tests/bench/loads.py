"""The loads: what client sends what, and how many units of work it was."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from tests.tools import find

# Pinned away from the proxy, which has processor 0 to itself.
PIN: Final = ["taskset", "-c", "1"]
_MEGABYTE: Final = 1_048_576
FILES: Final = {"small": 100, "kilo16": 16_384, "mega": _MEGABYTE}


class FailedRunError(RuntimeError):
    """Some of a run's calls failed, so it has no figure."""


class Load(Protocol):
    """One row of the table."""

    @property
    def name(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def upstream(self) -> str:
        """Which servers stand behind the proxy: a key of `UPSTREAMS`."""

    def run(self, port: int, directory: Path, scale: float) -> float:
        """Send the load, `scale` times its full length; the units done. Raises FailedRunError."""


@dataclass(frozen=True)
class H2load:
    """h2load in front of nghttpd: header blocks that repeat."""

    name: str
    connections: int
    streams: int
    requests: int
    path: str = "small"
    body: str = ""
    unit: str = "call"
    upstream: str = "nghttpd"

    def run(self, port: int, directory: Path, scale: float) -> float:
        """Send it."""
        requests = max(int(self.requests * scale), self.connections * self.streams)
        command = [*PIN, str(find("h2load")), f"-n{requests}", f"-c{self.connections}", f"-m{self.streams}"]
        if self.body:
            command += ["-d", str(directory / "www" / self.body)]
        command.append(f"http://127.0.0.1:{port}/{self.path}")
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        match = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", done.stdout)
        status = re.search(r"status codes: (\d+) 2xx", done.stdout)
        if match is None or status is None or not int(match[1]) == int(status[1]) == requests:
            raise FailedRunError(match[0] if match else done.stdout + done.stderr)
        octets = FILES[self.path] + (FILES[self.body] if self.body else 0)
        return requests * octets / _MEGABYTE if self.unit == "MB" else requests


@dataclass(frozen=True)
class Ghz:
    """ghz, which is grpc-go: a deadline, a trace id and a request id of its own in every call."""

    name: str
    connections: int
    concurrency: int
    requests: int
    method: str = "SayHello"
    count: int = 0
    unit: str = "call"
    upstream: str = "grpc-go"

    def run(self, port: int, directory: Path, scale: float) -> float:
        """Send it."""
        requests = max(int(self.requests * scale), self.concurrency)
        metadata = '{"traceparent":"00-{{newUUID}}-{{.RequestNumber}}-01","x-request-id":"{{newUUID}}"}'
        data = json.dumps({"name": "x" * 92, **({"count": self.count, "interval_ms": 0} if self.count else {})})
        command = [
            *PIN, str(find("ghz")), "--insecure", "--proto", "greeter/helloworld.proto", "--format", "json",
            "--call", f"helloworld.Greeter.{self.method}", "-d", data, "-m", metadata, "--timeout", "60s",
            "-n", str(requests), "-c", str(self.concurrency), "--connections", str(self.connections),
            f"127.0.0.1:{port}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
        try:
            codes = json.loads(done.stdout)["statusCodeDistribution"]
        except (ValueError, KeyError) as error:
            raise FailedRunError(done.stdout[-500:] + done.stderr[-500:]) from error
        if codes != {"OK": requests}:
            raise FailedRunError(str(codes))
        return requests * (self.count or 1)


# How to start each kind of server; the port follows.
UPSTREAMS: Final = {
    "nghttpd": ("nghttpd", "--no-tls", "-n1", "-d", "www"),
    "grpc-go": ("greeter_server", "-port"),
    "greeter": (sys.executable, "-m", "tests.bench.upstream"),
}

LOADS: Final[tuple[Load, ...]] = (
    H2load("h2load 1x1", 1, 1, 15_000),
    H2load("h2load 4x8", 4, 8, 60_000),
    H2load("h2load 3x64", 3, 64, 120_000),
    Ghz("grpc-go 1x1", 1, 1, 6_000),
    Ghz("grpc-go 2x16", 2, 16, 25_000),
    Ghz("grpc-go 4x128", 4, 128, 25_000),
    H2load("1 MB responses", 2, 2, 1_000, path="mega", unit="MB"),
    H2load("1 MB requests", 2, 2, 1_000, body="mega", unit="MB"),
    H2load("16 kB both ways", 2, 8, 20_000, path="kilo16", body="kilo16", unit="MB"),
    Ghz("streaming, 100 x 1000", 4, 100, 100, method="SayHelloStream", count=1000, unit="message", upstream="greeter"),
)
