"""A plain gRPC client that knows nothing of Consul: ``python -m greeter.client --name foo``."""

import argparse
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from signal import SIGINT, SIGTERM, signal

import grpc

from greeter.flags import Parser, count, duration
from greeter.helloworld_pb2 import HelloRequest
from greeter.helloworld_pb2_grpc import GreeterStub

SERVED_BY = "x-served-by"


def flags(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> argparse.Namespace:
    """Read the flags; exits 64 on a wrong one."""
    parser = Parser(environ, prog="greeter.client", description="Greets a name through gRPC.")
    parser.flag("name", default="world", text="whom to greet")
    parser.flag("target", default="127.0.0.1:50051", text="where to dial")
    parser.flag("count", default="1", parse=count, text="how many calls, 0 for no end")
    parser.flag("interval", default="1s", parse=duration, text="pause between two calls")
    parser.flag("deadline", default="5s", parse=duration, text="how long a call may take")
    return parser.parse(argv)


def call(stub: GreeterStub, options: argparse.Namespace) -> bool:
    """Make one call and print what came of it; returns whether it succeeded."""
    started = time.monotonic()
    try:
        reply, finished = stub.SayHello.with_call(HelloRequest(name=options.name), timeout=options.deadline)
    except grpc.RpcError as error:
        elapsed = (time.monotonic() - started) * 1000
        print(f"failed: {error.code().name}: {error.details()} ({elapsed:.1f} ms)", file=sys.stderr, flush=True)
        return False
    elapsed = (time.monotonic() - started) * 1000
    served_by = dict(finished.initial_metadata()).get(SERVED_BY, "unknown")
    print(f"{reply.message} (served by {served_by}, {elapsed:.1f} ms)", flush=True)
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Make the calls; returns 1 if any failed."""
    options = flags(argv)
    stopped = threading.Event()
    for number in (SIGINT, SIGTERM):
        signal(number, lambda _number, _frame: stopped.set())
    made = failed = 0
    # A sidecar is dialled directly, whatever proxy the environment names for the way out.
    with grpc.insecure_channel(options.target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = GreeterStub(channel)  # type: ignore[no-untyped-call]
        while not stopped.is_set():
            failed += not call(stub, options)
            made += 1
            if made == options.count or stopped.wait(options.interval):
                break
    if made != 1:
        print(f"{made} calls, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
