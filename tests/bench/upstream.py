"""A greeter without registration, for the loads: `python -m tests.bench.upstream PORT`."""

import asyncio
import sys

import grpc

from greeter.helloworld_pb2_grpc import add_GreeterServicer_to_server
from greeter.service import Greeter


async def serve(port: int) -> None:
    """Serve until the process is ended."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_GreeterServicer_to_server(Greeter(f"upstream-{port}", 0.0), server)  # type: ignore[no-untyped-call]
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
