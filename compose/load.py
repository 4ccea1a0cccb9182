"""A client under load, a process of its own: ``python -m compose.load run|measure``. Plain grpcio, no Consul.

``run`` prints a line of JSON every `REPORT_S`: the calls that ended since the last one, and those that are open.
It ends when its standard input does, after the open calls. ``measure`` compares the same call made through the sidecar
and directly. Times are seconds of the monotonic clock, which all processes of a machine share.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import grpc

from greeter.helloworld_pb2 import HelloReply, HelloRequest
from greeter.helloworld_pb2_grpc import GreeterStub
from greeter.service import SERVED_BY

REPORT_S = 0.1
DEADLINE_S = 15.0
"""Of each call; far above what one takes, so that only a call that hangs reaches it."""
SLEEPERS = 6
"""Calls that are asleep in a handler at any time, and streams that are open."""
SLEEP_MS = 2000
STREAMS = 6
STREAM_REPLIES = 20
STREAM_INTERVAL_MS = 100
WARM_UP_CALLS = 50

# The proxies of the environment are for the way out, not for a sidecar on loopback.
OPTIONS = [("grpc.enable_http_proxy", 0)]


class Load:
    """Calls at a steady rate, whether or not earlier ones are answered, beside sleepers and streams."""

    def __init__(self, channel: grpc.aio.Channel, rate: float) -> None:
        self._stub: Any = GreeterStub(channel)  # type: ignore[no-untyped-call]
        # SayHello, on the wire the same. grpc.aio gives the initial metadata of a unary call only with its reply.
        self._early = channel.unary_stream(
            "/helloworld.Greeter/SayHello", HelloRequest.SerializeToString, HelloReply.FromString
        )
        self._rate = rate
        self._ended: list[list[Any]] = []
        self._asleep: Counter[str] = Counter()
        self._running: set[asyncio.Task[None]] = set()
        self.sent = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Start calls until `stop` is set, then wait for the open ones."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._unary(stop))
            for _ in range(STREAMS):
                tasks.create_task(self._repeat(self._stream, stop))
            for _ in range(SLEEPERS):
                tasks.create_task(self._repeat(self._sleeper, stop))
                # Out of step, so that there is always one which has just begun.
                await asyncio.sleep(SLEEP_MS / 1000 / SLEEPERS)

    def report(self) -> str:
        """Return what happened since the last report, as one line."""
        ended, self._ended = self._ended, []
        asleep = {name: count for name, count in self._asleep.items() if count}
        return json.dumps({"at": time.monotonic(), "sent": self.sent, "ended": ended, "asleep": asleep})

    async def _unary(self, stop: asyncio.Event) -> None:
        start = time.monotonic()
        number = 0
        while not stop.is_set():
            await asyncio.sleep(max(0.0, start + number / self._rate - time.monotonic()))
            number += 1
            call = asyncio.ensure_future(self._one("unary", self._hello))
            self._running.add(call)
            call.add_done_callback(self._running.discard)
        await asyncio.gather(*self._running)

    async def _repeat(self, make: Any, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self._one("sleep" if make == self._sleeper else "stream", make)

    async def _one(self, kind: str, make: Any) -> None:
        """Make one call and keep [kind, start, end, instance, problem]; the problem is empty for a good one."""
        self.sent += 1
        started = time.monotonic()
        by, problem = "", ""
        try:
            by = await make()
        except grpc.aio.AioRpcError as error:
            problem = f"{error.code().name}: {error.details()}"
        except WrongReplyError as error:
            problem = str(error)
        self._ended.append([kind, started, time.monotonic(), by, problem])

    async def _hello(self) -> str:
        call = self._stub.SayHello(HelloRequest(name="demo"), timeout=DEADLINE_S)
        reply = await call
        if reply.message != "Hello demo":
            raise WrongReplyError(f"wrong reply {reply.message!r}")
        return _served_by(await call.initial_metadata())

    async def _sleeper(self) -> str:
        call = self._early(HelloRequest(name="sleeper", interval_ms=SLEEP_MS), timeout=DEADLINE_S)
        # The server sends its name before it sleeps.
        by = _served_by(await call.initial_metadata())
        self._asleep[by] += 1
        try:
            replies = [reply.message async for reply in call]
        finally:
            self._asleep[by] -= 1
        if replies != ["Hello sleeper"]:
            raise WrongReplyError(f"wrong replies {replies}")
        return by

    async def _stream(self) -> str:
        request = HelloRequest(name="stream", count=STREAM_REPLIES, interval_ms=STREAM_INTERVAL_MS)
        call = self._stub.SayHelloStream(request, timeout=DEADLINE_S)
        replies = 0
        async for _ in call:
            replies += 1
        if replies != STREAM_REPLIES:
            raise WrongReplyError(f"{replies} replies instead of {STREAM_REPLIES}")
        return _served_by(await call.initial_metadata())


class WrongReplyError(Exception):
    """A call that ended well with something else than was asked for."""


def _served_by(metadata: Any) -> str:
    return str(dict(metadata or ()).get(SERVED_BY, "unknown"))


async def _run(target: str, rate: float) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with grpc.aio.insecure_channel(target, options=OPTIONS) as channel:
        load = Load(channel, rate)
        running = asyncio.ensure_future(load.run(stop))
        stdin_end = asyncio.ensure_future(reader.read())
        stdin_end.add_done_callback(lambda _: stop.set())
        while not running.done():
            await asyncio.wait([running], timeout=REPORT_S)
            print(load.report(), flush=True)
        await running
        stdin_end.cancel()


async def _measure(target: str, direct: str, pairs: int) -> None:
    """Print the seconds of each call, made through the sidecar and directly in turn, so that both see the same."""
    names = {"sidecar": target, "direct": direct}
    times: dict[str, list[float]] = {name: [] for name in names}
    channels = {name: grpc.aio.insecure_channel(address, options=OPTIONS) for name, address in names.items()}
    stubs: dict[str, Any] = {name: GreeterStub(each) for name, each in channels.items()}  # type: ignore[no-untyped-call]
    for number in range(WARM_UP_CALLS + pairs):
        for name, stub in stubs.items():
            started = time.perf_counter()
            await stub.SayHello(HelloRequest(name="measure"), timeout=DEADLINE_S)
            if number >= WARM_UP_CALLS:
                times[name].append(time.perf_counter() - started)
    for channel in channels.values():
        await channel.close()
    print(json.dumps(times))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="compose.load")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--target", required=True)
    run.add_argument("--rate", type=float, required=True)
    measure = commands.add_parser("measure")
    measure.add_argument("--target", required=True)
    measure.add_argument("--direct", required=True)
    measure.add_argument("--pairs", type=int, required=True)
    options = parser.parse_args(argv)
    if options.command == "run":
        asyncio.run(_run(options.target, options.rate))
    else:
        asyncio.run(_measure(options.target, options.direct, options.pairs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
