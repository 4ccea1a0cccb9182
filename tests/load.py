"""Load on the greeter from a process of its own: ``python -m tests.load --target 127.0.0.1:50051 --unary 500``.

Calls start on time whether or not earlier ones were answered, until SIGTERM. Then the open ones finish, and what
became of each call is printed as one line of JSON. Times are seconds on the monotonic clock, which all processes share.
"""

import argparse
import asyncio
import itertools
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc

from greeter.helloworld_pb2 import HelloRequest
from greeter.helloworld_pb2_grpc import GreeterStub
from tests.stack import Process
from tests.tools import require

SERVED_BY = "x-served-by"
READY = "ready"


class Call(NamedTuple):
    """One call as its client saw it; `server` is empty if no response header came."""

    kind: str
    name: str
    started: float
    ended: float
    server: str
    code: str
    details: str
    messages: int

    @property
    def seconds(self) -> float:
        return self.ended - self.started


@dataclass(frozen=True)
class Ledger:
    """All calls of a load that has ended."""

    calls: list[Call]

    @property
    def failed(self) -> list[Call]:
        return [call for call in self.calls if call.code != "OK"]

    def of(self, kind: str) -> list[Call]:
        return [call for call in self.calls if call.kind == kind]

    def by_server(self) -> Counter[str]:
        return Counter(call.server for call in self.calls if call.code == "OK")

    def rate(self) -> float:
        """Calls started a second."""
        first, last = (pick(call.started for call in self.calls) for pick in (min, max))
        return len(self.calls) / (last - first)

    def slowest(self, kind: str = "unary") -> float:
        """Seconds of the longest call of a kind."""
        return max(call.seconds for call in self.of(kind))

    def none_failed(self, *streams: int) -> None:
        """Assert that all succeeded, and that every stream brought as many messages as it should."""
        assert self.calls
        assert not self.failed, f"{len(self.failed)} of {len(self.calls)} failed: {self.failed[:5]}"
        assert {call.messages for call in self.of("stream")} <= set(streams), "a stream ended early"


class Load(Process):
    """This module in a process, running until `finish`."""

    def __init__(self, target: str, **rates: float) -> None:
        flags = [f"--{name.replace('_', '-')}={value:g}" for name, value in rates.items()]
        super().__init__(sys.executable, "-m", "tests.load", "--target", target, *flags)
        self.line(f"^{READY}$")

    def finish(self) -> Ledger:
        """End the sending, and wait for what is open."""
        assert self.running(), self.output
        self.signal()
        code = self.exit(60)
        assert code == 0, f"the load ended with {code}:\n{self.output}"
        return Ledger([Call(*fields) for fields in json.loads(self.lines[-1])])


class GoLoad(Process):
    """The same from grpc-go, for one kind of calls."""

    def __init__(self, target: str, **flags: str) -> None:
        words = [f"-{name}={value}" for name, value in flags.items()]
        super().__init__(
            str(require("goclient")), "-target", target, "-duration=10m", "-deadline=30s", "-concurrency=1000", *words
        )

    def finish(self) -> dict[str, Any]:
        """End the sending, wait for what is open, and return the counts."""
        assert self.running(), self.output
        self.signal()
        self.exit(60)
        counts: dict[str, Any] = json.loads(self.lines[-1])
        return counts


async def _steadily(rate: float, stop: asyncio.Event, start: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Start calls at `rate` a second until `stop`, then wait for those that are open."""
    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for number in itertools.count():
            wait = began + number / rate - time.monotonic()
            if wait > 0:
                try:
                    async with asyncio.timeout(wait):
                        await stop.wait()
                except TimeoutError:
                    pass
            elif number % 32 == 0:
                await asyncio.sleep(0)  # late: let answers be read all the same
            if stop.is_set():
                return
            tasks.create_task(start())


class _Client:
    def __init__(self, stub: GreeterStub, options: argparse.Namespace) -> None:
        self.calls: list[Call] = []
        self._stub = stub
        self._options = options
        self._numbers = itertools.count()

    async def unary(self) -> None:
        """An answer at once."""
        request = HelloRequest(name=self._name("unary"))
        await self._run("unary", request, self._stub.SayHello(request, timeout=self._options.deadline))

    async def asleep(self) -> None:
        """A handler that sleeps before it answers."""
        request = HelloRequest(name=self._name("asleep"), interval_ms=int(self._options.asleep_ms))
        await self._run("asleep", request, self._stub.SayHello(request, timeout=self._options.deadline))

    async def stream(self) -> None:
        """A server's stream."""
        options = self._options
        request = HelloRequest(
            name=self._name("stream"), count=int(options.messages), interval_ms=int(options.interval_ms)
        )
        await self._run("stream", request, self._stub.SayHelloStream(request, timeout=options.deadline))

    def _name(self, kind: str) -> str:
        return f"{kind}-{next(self._numbers)}"

    async def _run(self, kind: str, request: HelloRequest, call: Any) -> None:
        started = time.monotonic()
        server, code, details, messages = "", "OK", "", 0
        try:
            server = dict(await call.initial_metadata()).get(SERVED_BY, "")
            if kind == "stream":
                async for _ in call:
                    messages += 1
            else:
                await call
                messages = 1
        except grpc.aio.AioRpcError as error:
            code, details = error.code().name, error.details() or ""
        self.calls.append(Call(kind, request.name, started, time.monotonic(), server, code, details, messages))


async def _main(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    # Without the client's own retries: what fails on the way must be seen.
    settings = [("grpc.enable_retries", 0), ("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(options.target, options=settings) as channel:
        client = _Client(GreeterStub(channel), options)  # type: ignore[no-untyped-call]
        await channel.channel_ready()
        print(READY, flush=True)
        async with asyncio.TaskGroup() as tasks:
            kinds = ((options.unary, client.unary), (options.asleep, client.asleep), (options.streams, client.stream))
            for rate, start in kinds:
                if rate:
                    tasks.create_task(_steadily(rate, stop, start))
    print(json.dumps(client.calls), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True, help="where to dial")
    for flag, default, text in (
        ("unary", 0, "calls a second that are answered at once"),
        ("asleep", 0, "calls a second whose handler sleeps"),
        ("asleep-ms", 1000, "how long it sleeps"),
        ("streams", 0, "streams started a second"),
        ("messages", 15, "messages of a stream"),
        ("interval-ms", 100, "pause before each message"),
        ("deadline", 30, "seconds a call may take"),
    ):
        parser.add_argument(f"--{flag}", type=float, default=default, help=text)
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
