"""The command line: ``demo`` runs the scenario, ``up`` the stack until Ctrl-C, ``registry`` the registry alone."""

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from compose.demo import demo
from compose.registry.api import serving
from compose.up import up

USAGE_EXIT = 64
CANNOT_BIND_EXIT = 69

log = logging.getLogger("compose")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_EXIT, f"{self.prog}: {message}\n{self.prog}: --help lists the flags\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = _Parser(prog="compose", description="The stack of compose/docker-compose.yaml as local processes.")
    commands = top.add_subparsers(dest="command", required=True, metavar="demo|up|registry")
    demo_parser = commands.add_parser("demo", help="blue/green under live traffic, then a summary")
    demo_parser.add_argument("--consul", action="store_true", help="on a real Consul, of PATH or of make tools")
    commands.add_parser("up", help="the whole stack until Ctrl-C")
    registry = commands.add_parser("registry", help="the development registry alone, until Ctrl-C")
    registry.add_argument(
        "--listen", type=_address, default=("127.0.0.1", 8500), metavar="HOST:PORT", help="default 127.0.0.1:8500"
    )
    return top


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no HOST:PORT")
    return host.strip("[]"), int(port)


def _on_signal(react: Callable[[], object]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, react)


def _stopped() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    _on_signal(stop.set)
    return stop


async def _demo(with_consul: bool) -> int:
    """Run the scenario; a signal ends it early, its processes included."""
    scenario = asyncio.ensure_future(demo(with_consul))
    _on_signal(scenario.cancel)
    try:
        return await scenario
    except asyncio.CancelledError:
        print("interrupted")
        return 1


async def _up() -> int:
    return await up(_stopped())


async def _registry(host: str, port: int) -> int:
    stop = _stopped()
    async with contextlib.AsyncExitStack() as stack:
        try:
            bound = await stack.enter_async_context(serving(host, port))
        except OSError as error:
            log.error("cannot listen on %s:%d: %s", host, port, error)
            return CANNOT_BIND_EXIT
        log.info("ready listen=%s", bound)
        await stop.wait()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    options = parser().parse_args(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {options.command} %(message)s")
    if options.command == "demo":
        return asyncio.run(_demo(options.consul))
    if options.command == "up":
        return asyncio.run(_up())
    return asyncio.run(_registry(*options.listen))
