"""The greeter server: ``python -m greeter.server --name greeter-server-blue --port 50000 --tag blue``."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from greeter.drain import drain
from greeter.flags import Parser, duration, port
from greeter.helloworld_pb2 import DESCRIPTOR
from greeter.helloworld_pb2_grpc import add_GreeterServicer_to_server
from greeter.registration import ConsulAddress, Instance, Registration, bind_address, own_address
from greeter.service import Greeter

CANNOT_BIND_EXIT = 69
"""Exit code when the port is taken, EX_UNAVAILABLE of sysexits.h."""

log = logging.getLogger("greeter")


def _consul(text: str) -> ConsulAddress:
    try:
        return ConsulAddress.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def flags(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> argparse.Namespace:
    """Read the flags; exits 64 on a wrong one."""
    consul = (os.environ if environ is None else environ).get("CONSUL_HTTP_ADDR") or "http://127.0.0.1:8500"
    parser = Parser(environ, prog="greeter.server", description="Greets over gRPC, registered in Consul.")
    parser.flag("name", default="greeter-server", text="how the instance is called")
    parser.flag("service", default="greeter", text="service to register as")
    parser.flag("port", default="50000", parse=port, text="where to listen, 0 for a free port")
    parser.flag("host", default=None, text="address to register, otherwise the one that reaches Consul")
    parser.flag("tag", default="", text="tag to register with")
    parser.flag("consul", default=consul, parse=_consul, text="HTTP address of the Consul agent")
    parser.flag("sleep", default="0s", parse=duration, text="how long a call takes that names no interval")
    parser.flag("grace", default="30s", parse=duration, text="how long open calls may take after SIGTERM")
    parser.flag("settle", default="3s", parse=duration, text="how long to serve on after Consul was told")
    return parser.parse(argv)


async def serve(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT, drain, and return the exit code: 0, or 69 if the port is taken."""
    host = options.host or own_address(options.consul)
    # Without so_reuseport a second server on the port fails instead of taking half of the connections.
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    greeter = Greeter(options.name, options.sleep)
    states = health.aio.HealthServicer()
    service = DESCRIPTOR.services_by_name["Greeter"].full_name
    add_GreeterServicer_to_server(greeter, server)  # type: ignore[no-untyped-call]
    health_pb2_grpc.add_HealthServicer_to_server(states, server)
    reflection.enable_server_reflection((service, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    await states.set(service, health_pb2.HealthCheckResponse.SERVING)
    try:
        bound = server.add_insecure_port(f"{bind_address(host)}:{options.port}")
    except RuntimeError as error:  # how grpcio says that the port is taken
        log.error("cannot listen on port %d: %s", options.port, error)
        return CANNOT_BIND_EXIT
    await server.start()

    stop, hurry = _signals()
    registration = Registration(Instance(options.service, options.name, host, bound, options.tag), options.consul)
    log.info("ready name=%s listen=%s:%d", options.name, host, bound)
    async with asyncio.TaskGroup() as tasks:
        keeping = tasks.create_task(registration.keep())
        await stop.wait()
        keeping.cancel()
    log.info("draining: %d calls open", greeter.open_calls)
    await drain(server, states, registration, options.grace, options.settle, hurry)
    registration.close()
    log.info("drained: %d calls served", greeter.served)
    return 0


def _signals() -> tuple[asyncio.Event, asyncio.Event]:
    """Return the events that the first and the second SIGTERM or SIGINT set."""
    stop, hurry = asyncio.Event(), asyncio.Event()

    def received() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, received)
    return stop, hurry


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server; returns the exit code."""
    options = flags(argv)
    # One line is logged per call, so what the line does not show is not looked up.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {options.name} %(message)s")
    return asyncio.run(serve(options))


if __name__ == "__main__":
    sys.exit(main())
