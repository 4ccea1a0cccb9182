"""The obvious Python proxy: a generic handler on grpc.aio, octets in and out. Unary calls only; for comparison."""

import asyncio
import itertools
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

_Unary = Callable[[bytes, Any], Awaitable[bytes]]


class Forward(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Every method, forwarded in turn to one of the channels."""

    def __init__(self, channels: list[Any]) -> None:
        self._turns = itertools.cycle(channels)
        self._calls: dict[tuple[int, str], Any] = {}

    def service(self, details: Any) -> Any:
        """The handler of one call."""
        return grpc.unary_unary_rpc_method_handler(self._forward(details.method))

    def _forward(self, method: str) -> _Unary:
        async def forward(request: bytes, context: Any) -> bytes:
            channel = next(self._turns)
            call = self._calls.get((id(channel), method))
            if call is None:
                call = self._calls[id(channel), method] = channel.unary_unary(method)
            metadata = context.invocation_metadata()
            reply: bytes = await call(request, metadata=metadata, timeout=context.time_remaining())
            return reply

        return forward


async def serve(port: int, upstreams: list[str]) -> None:
    """Serve until the process is ended."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{upstream}") for upstream in upstreams]
    server.add_generic_rpc_handlers((Forward(channels),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2:]))
