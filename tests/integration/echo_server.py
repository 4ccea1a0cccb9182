"""A gRPC server that does what a test asks for, and keeps a ledger of the calls it saw.

``python -m tests.integration.echo_server --streams 5`` serves `helloworld.Greeter` for clients with stubs, and
`test.Echo`, whose messages are octets. `EchoServer` runs it in a process of its own.
"""

import argparse
import asyncio
import json
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from grpc_reflection.v1alpha import reflection

from greeter.helloworld_pb2 import DESCRIPTOR, HelloReply, HelloRequest
from greeter.helloworld_pb2_grpc import GreeterServicer, add_GreeterServicer_to_server
from tests.stack import Process

SERVED_BY = "x-served-by"
FAIL = "fail"
"""A greeter's name that fails with `FAILURE`, a message and details, without initial metadata."""
SLEEP = "sleep"
"""A greeter's name that is never answered."""
FAILURE = grpc.StatusCode.FAILED_PRECONDITION
MESSAGE = "Schnee: \u96ea, 100% \n second line"
DETAIL = HelloReply(message="a detail \u2603")
DETAILS_KEY = "grpc-status-details-bin"
ECHO_PREFIX = "echo-"
"""Request metadata that comes back in initial and in trailing metadata."""
ANY_SIZE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
BIG_METADATA = ("grpc.max_metadata_size", 60_000)
_KEPT_CALLS = 200

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


def status_details(message: str) -> bytes:
    """A google.rpc.Status with `FAILURE`, `message` and `DETAIL`, as it stands in grpc-status-details-bin."""
    detail = AnyMessage()
    detail.Pack(DETAIL)
    text, packed = message.encode(), detail.SerializeToString()
    code = int(FAILURE.value[0])
    return bytes([0x08, code, 0x12, len(text)]) + text + bytes([0x1A, len(packed)]) + packed


class Ledger:
    """What the server saw."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.outcomes: Counter[str] = Counter()
        self.calls: deque[dict[str, Any]] = deque(maxlen=_KEPT_CALLS)
        self.open: Counter[str] = Counter()
        self.peak: dict[str, int] = {}

    @contextmanager
    def call(self, method: str, context: Context) -> Iterator[dict[str, Any]]:
        """Note a call's beginning, and how it ends."""
        peer = context.peer()
        metadata = [(key, value.hex() if isinstance(value, bytes) else value) for key, value in _metadata(context)]
        entry = {"method": method, "peer": peer, "remaining": context.time_remaining(), "metadata": metadata}
        entry["outcome"] = "open"
        self.calls.append(entry)
        self.open[peer] += 1
        self.peak[peer] = max(self.peak.get(peer, 0), self.open[peer])
        try:
            yield entry
            entry["outcome"] = "done"
        except asyncio.CancelledError:
            entry["outcome"] = "cancelled"
            raise
        except grpc.aio.AbortError:
            entry["outcome"] = "failed"
            raise
        finally:
            self.open[peer] -= 1
            self.outcomes[entry["outcome"]] += 1

    def render(self) -> bytes:
        """All of it as JSON."""
        content = {
            "outcomes": self.outcomes,
            "calls": list(self.calls),
            "open": sum(self.open.values()),
            "peak": self.peak,
        }
        return json.dumps(content).encode()


def _metadata(context: Context) -> list[tuple[str, str | bytes]]:
    return [(key, value) for key, value in context.invocation_metadata() or ()]


async def _begin(ledger: Ledger, context: Context) -> None:
    """Send initial metadata and prepare the trailing: what the client asked to have echoed, and who serves."""
    echoed = [(key, value) for key, value in _metadata(context) if key.startswith(ECHO_PREFIX)]
    context.set_trailing_metadata(tuple(echoed))
    await context.send_initial_metadata((*echoed, (SERVED_BY, ledger.name)))


class _Greeter(GreeterServicer):
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def SayHello(self, request: HelloRequest, context: Context) -> HelloReply:
        with self._ledger.call("SayHello", context):
            if request.name == FAIL:
                await context.abort(FAILURE, MESSAGE, ((DETAILS_KEY, status_details(MESSAGE)),))
            await _begin(self._ledger, context)
            await _pause(request)
            return HelloReply(message=f"Hello {request.name}")

    async def SayHelloStream(self, request: HelloRequest, context: Context) -> AsyncIterator[HelloReply]:
        with self._ledger.call("SayHelloStream", context):
            await _begin(self._ledger, context)
            for number in range(request.count or 3):
                await _pause(request)
                yield HelloReply(message=f"Hello {request.name} {number}")

    async def CollectHellos(self, requests: AsyncIterator[HelloRequest], context: Context) -> HelloReply:
        with self._ledger.call("CollectHellos", context):
            await _begin(self._ledger, context)
            names = [request.name async for request in requests]
            return HelloReply(message=f"Hello {', '.join(names)}")

    async def ChatHello(self, requests: AsyncIterator[HelloRequest], context: Context) -> AsyncIterator[HelloReply]:
        with self._ledger.call("ChatHello", context):
            await _begin(self._ledger, context)
            async for request in requests:
                await _pause(request)
                yield HelloReply(message=f"Hello {request.name}")


async def _pause(request: HelloRequest) -> None:
    if request.name == SLEEP:
        await asyncio.get_running_loop().create_future()
    if request.interval_ms:
        await asyncio.sleep(request.interval_ms / 1000)


class _Echo:
    """`test.Echo`: octets in, octets out."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._gate = asyncio.Event()

    def handler(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            "test.Echo",
            {
                "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
                "Expand": grpc.unary_stream_rpc_method_handler(self.expand),
                "Collect": grpc.stream_unary_rpc_method_handler(self.collect),
                "Chat": grpc.stream_stream_rpc_method_handler(self.chat),
                "HangUp": grpc.stream_stream_rpc_method_handler(self.hang_up),
                "AfterEnd": grpc.stream_stream_rpc_method_handler(self.after_end),
                "Open": grpc.unary_unary_rpc_method_handler(self.open),
                "Ledger": grpc.unary_unary_rpc_method_handler(self.ledger),
            },
        )

    async def unary(self, request: bytes, context: Context) -> bytes:
        """The same octets."""
        with self._ledger.call("Unary", context):
            await _begin(self._ledger, context)
            return request

    async def expand(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """As many messages of as many octets as the request's two numbers say."""
        count, size = map(int, request.split())
        with self._ledger.call("Expand", context):
            await _begin(self._ledger, context)
            for _ in range(count):
                yield bytes(size)

    async def collect(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        """Octets received; with `closed` in the metadata nothing is read before `Open` is called."""
        with self._ledger.call("Collect", context):
            await _begin(self._ledger, context)
            if "closed" in dict(_metadata(context)):
                await self._gate.wait()
            octets = 0
            async for request in requests:
                octets += len(request)
            return str(octets).encode()

    async def chat(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """Each message back as it comes."""
        with self._ledger.call("Chat", context):
            await _begin(self._ledger, context)
            async for request in requests:
                yield request

    async def hang_up(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """The first message back, and OK while the client has not finished."""
        with self._ledger.call("HangUp", context):
            async for request in requests:
                yield request
                return

    async def after_end(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """All messages back, once the client has finished."""
        with self._ledger.call("AfterEnd", context):
            received = [request async for request in requests]
            for request in received:
                yield request

    async def open(self, request: bytes, context: Context) -> bytes:
        """Let `Collect` read."""
        self._gate.set()
        return b""

    async def ledger(self, request: bytes, context: Context) -> bytes:
        """What was seen so far."""
        return self._ledger.render()


async def serve(options: argparse.Namespace) -> None:
    """Serve until the process is ended."""
    settings: list[tuple[str, Any]] = [("grpc.so_reuseport", 0), *ANY_SIZE, BIG_METADATA]
    if options.streams:
        settings.append(("grpc.max_concurrent_streams", options.streams))
    server = grpc.aio.server(options=settings)
    ledger = Ledger(options.name)
    add_GreeterServicer_to_server(_Greeter(ledger), server)  # type: ignore[no-untyped-call]
    server.add_generic_rpc_handlers((_Echo(ledger).handler(),))
    service = DESCRIPTOR.services_by_name["Greeter"].full_name
    reflection.enable_server_reflection((service, reflection.SERVICE_NAME), server)
    port = server.add_insecure_port(f"127.0.0.1:{options.port}")
    await server.start()
    print(f"ready 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


def dial(target: str, *options: tuple[str, Any]) -> grpc.Channel:
    """A grpcio channel with a connection of its own, without the client's own retries: what fails must be seen."""
    own = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]
    return grpc.insecure_channel(target, options=[*own, *ANY_SIZE, *options])


class EchoServer(Process):
    """This module in a process, waited for until it serves."""

    def __init__(self, name: str = "echo", *, port: int = 0, streams: int = 0) -> None:
        flags = [f"--name={name}", f"--port={port}", f"--streams={streams}"]
        super().__init__(sys.executable, "-m", "tests.integration.echo_server", *flags)
        self.name = name
        self.address = self.line(r"ready (\S+)")[1]

    def ask(self, method: str = "Ledger") -> bytes:
        """Call a method of `test.Echo` directly, past any sidecar."""
        with dial(self.address) as channel:
            answer: bytes = channel.unary_unary(f"/test.Echo/{method}")(b"", timeout=10)
        return answer

    def ledger(self) -> dict[str, Any]:
        """What it saw so far."""
        seen: dict[str, Any] = json.loads(self.ask())
        return seen

    def calls(self, method: str) -> list[dict[str, Any]]:
        """The latest calls of a method, the newest last."""
        return [call for call in self.ledger()["calls"] if call["method"] == method]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="echo", help="how it calls itself")
    parser.add_argument("--port", type=int, default=0, help="where to listen, 0 for a free port")
    parser.add_argument("--streams", type=int, default=0, help="MAX_CONCURRENT_STREAMS, 0 for the default")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
