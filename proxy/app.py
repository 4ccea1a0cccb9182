"""The composition root: wires the parts, binds, runs until a signal, drains."""

import asyncio
import logging
import random
import signal
import time
from typing import Final

from proxy.admin.server import Admin
from proxy.balance.policy import RoundRobin
from proxy.config import Address, Config
from proxy.discovery import Discovery, absence, discover
from proxy.http2.limits import Budget
from proxy.net.dialer import TcpDialer
from proxy.net.link import Hub
from proxy.net.links import ClientLinks
from proxy.net.listener import Listener, listen
from proxy.relay.cluster import Cluster
from proxy.relay.counters import Counters
from proxy.version import core

log: Final = logging.getLogger(__name__)

_TICK_SECONDS: Final = 1.0
_WAITING_TICK_SECONDS: Final = 0.1


class Sidecar:
    """One running sidecar: one service, one listener, one admin port."""

    def __init__(self, config: Config, discovery: Discovery, tasks: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        budget = Budget()
        counters = Counters()
        self._config = config
        self._discovery = discovery
        self._tasks = tasks
        self._hub = Hub(loop)
        self._dialer = TcpDialer(self._hub, counters, tasks, random.random)
        self._cluster = Cluster(config.service, RoundRobin(), self._dialer, budget, counters, config.wait_for_instances)
        self._cluster.absence = lambda: absence(discovery, config.service)
        self._clients = ClientLinks(self._hub, self._cluster, budget, counters, config.protocol == "grpc")
        self._admin = Admin(self._cluster, discovery, config, lambda: self._signals > 0)
        self._signals = 0
        self._signalled = asyncio.Event()
        self._forced = asyncio.Event()
        self._emptied = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain. Raises BindError."""
        listener = await listen(self._config.listen, self._clients)
        try:
            admin = await self._admin.start(self._config.admin) if self._config.admin else None
            self._watch_signals()
            helpers = [
                self._tasks.create_task(self._discovery.run(self._cluster.apply)),
                self._tasks.create_task(self._tick()),
            ]
            self._log_ready(listener, admin)
            await self._signalled.wait()
            listener.close()
            await self._drain()
        finally:
            listener.close()
        self._dialer.close()
        await self._admin.stop()
        for helper in helpers:
            helper.cancel()
        self._hub.close()

    def _log_ready(self, listener: Listener, admin: Address | None) -> None:
        log.info(
            "ready listen=%s admin=%s service=%s core=%s",
            listener.address,
            admin or "off",
            self._config.service,
            core(),
        )

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        self._signals += 1
        self._signalled.set()
        if self._signals > 1:
            self._forced.set()

    async def _tick(self) -> None:
        """Look at the clocks once a second; more often while calls wait, so that none waits longer than it may."""
        pace = min(_TICK_SECONDS, max(_WAITING_TICK_SECONDS, self._config.wait_for_instances))
        links_due = 0.0
        while True:
            await asyncio.sleep(_WAITING_TICK_SECONDS if self._cluster.waiting else pace)
            now = time.monotonic()
            self._cluster.tick(now)
            if now >= links_due:
                links_due = now + _TICK_SECONDS
                self._hub.tick()

    async def _drain(self) -> None:
        """Let open calls finish, for the drain's time or until a second signal."""
        timeout = self._config.drain_timeout
        began = time.monotonic()
        log.info("draining: %s, up to %g s", _counted(len(self._clients.open), "connection"), timeout)
        self._clients.on_empty = self._emptied.set
        self._clients.drain(began)
        if not self._clients.open:
            self._emptied.set()
        ends = [asyncio.ensure_future(event.wait()) for event in (self._emptied, self._forced)]
        await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        seconds = time.monotonic() - began
        if self._emptied.is_set():
            log.info("drained in %.1f s", seconds)
        else:
            cause = "a second signal" if self._forced.is_set() else "the drain timeout"
            calls = sum(link.open_calls for link in self._clients.open)
            log.warning("ended by %s after %.1f s with %s open", cause, seconds, _counted(calls, "call"))


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


async def _serve(config: Config) -> None:
    async with asyncio.TaskGroup() as tasks:
        await Sidecar(config, discover(config), tasks).run()


def run(config: Config) -> int:
    """Run a sidecar to its end; the exit code. Raises BindError."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        try:
            runner.run(_serve(config))
        except BaseExceptionGroup as group:
            # A task group wraps what its body raised; one error is told as itself.
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from None
            raise
    return 0


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        log.warning("uvloop is not installed: running on asyncio's own loop, which costs more CPU a call")
        return None
    return uvloop.Loop
