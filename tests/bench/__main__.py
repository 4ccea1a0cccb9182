"""`python -m tests.bench`: every load on every proxy, interleaved; CPU of the proxy per unit, and ratios.

QUICK=1 in the environment makes fewer and shorter rounds. ROUNDS sets their number, ONLY a part of a load's name.
"""

import contextlib
import json
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from tests.bench.loads import FILES, LOADS, UPSTREAMS, FailedRunError, Load
from tests.bench.peers import GENERIC, PEERS, SIDECAR, Peer, program
from tests.stack import ROOT, Process, closing, free_port, until
from tests.tools import find

RESULTS: Final = ROOT / "tests" / "bench" / "results"
# What a row has to reach: the sidecar's cost as a ratio to the best HTTP/2 peer's.
TARGETS: Final = {
    "h2load 1x1": 0.85, "h2load 4x8": 0.7, "h2load 3x64": 0.45,
    "grpc-go 1x1": 0.85, "grpc-go 2x16": 0.7, "grpc-go 4x128": 0.55,
    "1 MB responses": 0.75, "1 MB requests": 0.75, "16 kB both ways": 0.75, "streaming, 100 x 1000": 0.7,
}  # fmt: skip


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, its threads and its children; to the nanosecond, where `times` knows 10 ms only."""
    process = psutil.Process(pid)
    nanoseconds = 0
    for one in [process, *process.children(recursive=True)]:
        for task in Path(f"/proc/{one.pid}/task").iterdir():
            nanoseconds += int((task / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


@dataclass
class Bench:
    """The proxies that run, and what was measured: microseconds by load, peer and round (None: failed)."""

    directory: Path
    scale: float
    figures: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def measure(self, load: Load, peer: Peer, process: Process, port: int) -> None:
        """One run."""
        before = cpu_seconds(process.pid)
        figure: float | None = None
        try:
            units = load.run(port, self.directory, self.scale)
            figure = (cpu_seconds(process.pid) - before) / units * 1e6
        except FailedRunError as error:
            self.failures.append(f"{load.name}, {peer.name}: {error}")
        self.figures.setdefault(load.name, {}).setdefault(peer.name, []).append(figure)


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _pinned(core: int, *command: str) -> Process:
    return Process("taskset", "-c", str(core), *command)


def _upstreams(kind: str, stack: contextlib.ExitStack, directory: Path) -> list[int]:
    ports = [free_port(), free_port()]
    for port in ports:
        name, *flags = UPSTREAMS[kind]
        words = [str(directory / word) if word == "www" else word for word in flags]
        stack.enter_context(closing(_pinned(1, str(find(name)), *words, str(port))))
        until(lambda port=port: _listening(port), f"{kind} on port {port}")  # type: ignore[misc]
    return ports


@contextlib.contextmanager
def _running(peers: list[Peer], upstreams: list[int], directory: Path) -> Iterator[dict[str, tuple[Process, int]]]:
    with contextlib.ExitStack() as stack:
        running = {}
        for peer in peers:
            port = free_port()
            process = _pinned(0, *peer.command(directory, port, upstreams))
            stack.enter_context(closing(process))
            until(lambda port=port: _listening(port), f"{peer.name} on port {port}\n{process.output}")  # type: ignore[misc]
            running[peer.name] = (process, port)
        # One that has no connection to its upstreams yet would be measured making them.
        time.sleep(1)
        yield running


def _table(bench: Bench, peers: list[Peer]) -> str:
    names = [peer.name for peer in peers]
    lines = ["| CPU us | " + " | ".join(names) + " | best | ratio | target | |", "|---" * (len(names) + 5) + "|"]
    for load in LOADS:
        rows = bench.figures.get(load.name)
        if rows is None:
            continue
        medians = {name: _median(rows.get(name, [])) for name in names}
        cells = ["-" if medians[name] is None else f"{medians[name]:.1f}" for name in names]
        lines.append(
            f"| {load.name}, per {load.unit} | " + " | ".join(cells) + " | " + _verdict(load, rows, peers) + " |"
        )
    return "\n".join(lines) + "\n"


def _median(values: list[float | None]) -> float | None:
    """The median, unless a run failed."""
    good = [value for value in values if value is not None]
    return statistics.median(good) if good and len(good) == len(values) else None


def _verdict(load: Load, rows: dict[str, list[float | None]], peers: list[Peer]) -> str:
    medians = {peer.name: _median(rows.get(peer.name, [])) for peer in peers if peer.http2 and peer is not SIDECAR}
    best = (
        min((value, name) for name, value in medians.items() if value is not None)[1] if any(medians.values()) else ""
    )
    own = rows[SIDECAR.name]
    if not best or _median(own) is None:
        return "failed runs | - | - | ✗"
    ratios = [a / b for a, b in zip(own, rows[best], strict=True) if a is not None and b is not None]
    ratio, target = statistics.median(ratios), TARGETS[load.name]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    return f"{best} | {ratio:.2f} ({spread}) | {target} | {'✓' if ratio <= target else '✗'}"


def _versions(peers: list[Peer]) -> dict[str, str]:
    found = {}
    for peer in peers:
        command = [program(peer.program) or peer.program, *peer.version]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        # The first number that looks like a version: some programs print their path beside it.
        match = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
        found[peer.name] = match[0] if match else "unknown"
    return found


def main() -> int:
    """Run all rounds, print the table, and keep it with the figures under results/."""
    quick = os.environ.get("QUICK") == "1"
    rounds = int(os.environ.get("ROUNDS", "2" if quick else "5"))
    only = os.environ.get("ONLY", "")
    loads = [load for load in LOADS if only in load.name]
    peers = [peer for peer in PEERS if program(peer.program)]
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        (directory / "www").mkdir()
        for file, octets in FILES.items():
            (directory / "www" / file).write_bytes(os.urandom(octets))
        bench = Bench(directory, 0.3 if quick else 1.0)
        for kind in UPSTREAMS:
            chosen = [load for load in loads if load.upstream == kind]
            if not chosen:
                continue
            known = [*peers, GENERIC] if kind == "grpc-go" else peers
            with _running(known, _upstreams(kind, stack, directory), directory) as running:
                _rounds(bench, chosen, known, running, rounds)
    return _report(bench, [*peers, GENERIC], rounds)


def _rounds(
    bench: Bench, loads: list[Load], peers: list[Peer], running: dict[str, tuple[Process, int]], rounds: int
) -> None:
    for number in range(rounds):
        for load in loads:
            for peer in peers:
                process, port = running[peer.name]
                bench.measure(load, peer, process, port)
            print(f"round {number + 1} of {rounds}: {load.name}", file=sys.stderr)


def _report(bench: Bench, peers: list[Peer], rounds: int) -> int:
    versions = _versions(peers)
    machine = (
        f"{platform.system()} {platform.release()}, {os.cpu_count()} processors, Python {platform.python_version()}"
    )
    text = (
        f"Medians of {rounds} interleaved rounds; {machine}; the proxy alone on processor 0, client and servers on 1.\n"
        "Ratios are to the best HTTP/2 peer, round by round; in brackets the lowest and the highest.\n\n"
        + _table(bench, peers)
        + "\n"
        + "\n".join(f"- {name}: {version}" for name, version in versions.items())
        + "\n"
    )
    if bench.failures:
        text += "\nFailed runs, so no figure there:\n" + "\n".join(f"- {failure}" for failure in bench.failures) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "table.md").write_text(text)
    figures: dict[str, Any] = {"machine": machine, "rounds": rounds, "versions": versions, "us": bench.figures}
    (RESULTS / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(text)
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())
