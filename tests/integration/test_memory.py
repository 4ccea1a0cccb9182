"""What a sidecar costs that does little: memory while a receiver is slow, memory and CPU at rest, time to start."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from tests.integration.echo_server import EchoServer, dial
from tests.stack import Consul, Greeter, Process, Sidecar, closing, until

MESSAGE = 64 * 1024 * 1024
GROWTH = 16 * 1024 * 1024
RESTING = 50_000_000  # octets resident
READY_SECONDS = 0.8
ATTEMPTS = 3
IDLE_SECONDS = 3.0
IDLE_CPU_SECONDS = 0.02
PIECE = 64 * 1024
SLOW = 40e6
"""Octets a second, a fraction of what servers and clients send."""
_STILL_SECONDS = 0.5


class Slope:
    """The most memory a process has had since the beginning, sampled all the time."""

    def __init__(self, process: Sidecar) -> None:
        self._process = process
        self._first = self._most = process.rss()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def _sample(self) -> None:
        while not self._done.wait(0.005):
            self._most = max(self._most, self._process.rss())

    def growth(self) -> int:
        """Stop sampling; octets above the beginning."""
        self._done.set()
        self._thread.join()
        return self._most - self._first


@contextlib.contextmanager
def slow_pipe(target: str, gate: threading.Event, *, back: bool) -> Iterator[str]:
    """An address that leads one connection to `target`, at `SLOW` and with small buffers on the way there, or back.

    Nothing is read on that way while `gate` is not set.
    """
    host, _, port = target.rpartition(":")
    with contextlib.ExitStack() as stack, socket.socket() as listener:
        threads: list[threading.Thread] = []
        # Inherited by what is accepted; the kernel's own choice would take megabytes at once.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def accept() -> None:
            client, _ = listener.accept()
            server = socket.socket()
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)
            server.connect((host, int(port)))
            for end in (client, server):
                stack.callback(end.close)
            for source, sink, slow in ((client, server, not back), (server, client, back)):
                threads.append(threading.Thread(target=_copy, args=(source, sink, gate if slow else None)))
                threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        accepting.join(10)
        for thread in threads:
            thread.join(10)


def _copy(source: socket.socket, sink: socket.socket, gate: threading.Event | None) -> None:
    """Copy until the source ends; slowly if there is a gate."""
    due = time.monotonic()
    with contextlib.suppress(OSError):
        while piece := source.recv(PIECE):
            sink.sendall(piece)
            if gate is not None:
                gate.wait()
                due = max(due + len(piece) / SLOW, time.monotonic() - 0.1)
                time.sleep(max(0.0, due - time.monotonic()))
        sink.shutdown(socket.SHUT_WR)


def stalled(octets: Callable[[], float]) -> float:
    """Wait until nothing moves any more; the octets that did."""
    last, since = octets(), time.monotonic()

    def still() -> bool:
        nonlocal last, since
        now = octets()
        if now != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since > _STILL_SECONDS

    until(still, "a transfer at rest")
    return last


def moved(sidecar: Sidecar, direction: str) -> Callable[[], float]:
    return lambda: sidecar.total("sidecar_bytes_total", direction=direction)


def test_a_client_that_does_not_read_and_then_slowly(sidecar: Sidecar) -> None:
    """A message of 64 MB waits at the server, not in the sidecar, and arrives when the client reads on."""
    gate = threading.Event()
    gate.set()
    with slow_pipe(sidecar.target, gate, back=True) as slow, dial(slow) as channel:
        channel.unary_unary("/test.Echo/Unary")(b"warm", timeout=10)
        slope = Slope(sidecar)
        gate.clear()
        before = moved(sidecar, "upstream_received")()
        stream = channel.unary_stream("/test.Echo/Expand")(b"1 %d" % MESSAGE, timeout=100)
        until(lambda: moved(sidecar, "upstream_received")() > before, "the first of the response")
        arrived = stalled(moved(sidecar, "upstream_received")) - before
        gate.set()
        assert [len(message) for message in stream] == [MESSAGE]
    growth = slope.growth()
    print(f"{growth / 1e6:.1f} MB more with a slow client; {arrived / 1e6:.1f} MB came while it read nothing")
    assert arrived < GROWTH
    assert growth < GROWTH


def test_a_server_that_does_not_read(sidecar: Sidecar, channel: grpc.Channel, echo: EchoServer) -> None:
    """Messages of 64 MB wait at the client until the handler reads them."""
    slope = Slope(sidecar)
    before = moved(sidecar, "downstream_received")()
    collect = channel.stream_unary("/test.Echo/Collect")
    call = collect.future(iter([bytes(MESSAGE)] * 2), timeout=100, metadata=[("closed", "yes")])
    until(lambda: moved(sidecar, "downstream_received")() > before, "the first of the request")
    arrived = stalled(moved(sidecar, "downstream_received")) - before
    echo.ask("Open")
    assert call.result(timeout=60) == b"%d" % (2 * MESSAGE)
    growth = slope.growth()
    print(f"{growth / 1e6:.1f} MB more with a stalled server; {arrived / 1e6:.1f} MB came while it read nothing")
    assert arrived < GROWTH
    assert growth < GROWTH


def test_a_server_behind_a_slow_path(echo: EchoServer) -> None:
    """As from the client's side: the path to the instance is slow."""
    gate = threading.Event()
    gate.set()
    with slow_pipe(echo.address, gate, back=False) as slow:
        sidecar = Sidecar("--endpoint", slow)
        with closing(sidecar), dial(sidecar.target) as channel:
            sidecar.connected(1)
            channel.unary_unary("/test.Echo/Unary")(b"warm", timeout=10)
            slope = Slope(sidecar)
            answer = channel.stream_unary("/test.Echo/Collect")(iter([bytes(MESSAGE)]), timeout=60)
            growth = slope.growth()
            assert answer == b"%d" % MESSAGE
            print(f"{growth / 1e6:.1f} MB more with a slow server")
            assert growth < GROWTH


@pytest.fixture(scope="module")
def consul() -> Iterator[Consul]:
    agent = Consul()
    with closing(agent):
        yield agent


def start(consul: Consul) -> Sidecar:
    return Sidecar("--service", "greeter", "--consul", consul.url)


def queued(process: Process) -> float:
    """Seconds that a process was ready to run while others had the CPU; 0 where the kernel does not tell."""
    path = Path(f"/proc/{process.pid}/schedstat")
    return int(path.read_text().split()[1]) / 1e9 if path.exists() else 0.0


def test_ready_within_the_time(consul: Consul) -> None:
    """From the start of the process to its ready line, but for the time in which others had the CPU."""
    seconds: list[float] = []
    for _ in range(ATTEMPTS):
        began = time.monotonic()
        sidecar = start(consul)
        with closing(sidecar):
            seconds.append(time.monotonic() - began - queued(sidecar))
    print("ready in " + ", ".join(f"{taken:.2f} s" for taken in seconds))
    assert min(seconds) <= READY_SECONDS


def test_at_rest(consul: Consul) -> None:
    """With two instances from Consul, a client and a scrape behind it: memory, and CPU beyond the long poll."""
    greeters = [Greeter(name, consul.url) for name in ("blue", "green")]
    with closing(*greeters):
        consul.passing(2)
        sidecar = start(consul)
        with closing(sidecar), dial(sidecar.target) as channel:
            sidecar.connected(2)
            grpc.channel_ready_future(channel).result(10)
            before = sidecar.cpu()
            time.sleep(IDLE_SECONDS)
            cpu = sidecar.cpu() - before
            print(f"{sidecar.rss() / 1e6:.1f} MB resident, {cpu:.2f} s of CPU in {IDLE_SECONDS:g} s")
            assert sidecar.rss() <= RESTING
            assert cpu <= IDLE_CPU_SECONDS
