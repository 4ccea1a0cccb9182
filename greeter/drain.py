"""The order in which a server leaves without losing a call."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from greeter.registration import Failure

TOLD_WITHIN_S = 2.0
"""How long each step towards Consul may take, retries included; then the drain goes on without it."""
HURRIED_GRACE_S = 1.0
"""What open calls still get after a second signal."""
POLL_S = 0.02
"""Pause between two questions to Consul."""

log = logging.getLogger("greeter.drain")


class Health(Protocol):
    """The gRPC health service, as far as a drain uses it."""

    async def enter_graceful_shutdown(self) -> None:
        """Answer NOT_SERVING from now on."""


class Server(Protocol):
    """The gRPC server, as far as a drain uses it."""

    async def stop(self, grace: float | None) -> None:
        """Refuse new calls, and end open ones after `grace` seconds."""


class Registered(Protocol):
    """The instance in Consul, as far as a drain uses it."""

    @property
    def registered(self) -> bool:
        """Whether Consul was ever told of it."""

    async def maintenance(self) -> bool:
        """Take it out of traffic; whether that is done."""

    async def gone(self) -> bool:
        """Whether watchers can no longer be told of it."""

    async def deregister(self) -> bool:
        """Remove it; whether that is done."""


async def drain(
    server: Server, health: Health, instance: Registered, grace: float, settle: float, hurry: asyncio.Event
) -> None:
    """Leave: quiesce and tell Consul, serve on until every watcher has heard, then stop, then deregister.

    grpcio answers calls that arrive while it stops with CANCELLED, so it must not stop before the last
    watcher has applied the change: `settle` (seconds) covers the watchers that Consul itself has not told yet.
    Open calls have `grace` seconds; `hurry` cuts both short.
    """
    await health.enter_graceful_shutdown()
    # Asked of an unregistered instance too: a registration cancelled on the way is done first, then this.
    await _attempt("maintenance", instance.maintenance)
    if instance.registered:
        await _attempt("wait for watchers", instance.gone)
        await _unless(hurry, settle)
    log.info("stopping: open calls have %g s", HURRIED_GRACE_S if hurry.is_set() else grace)
    await _stop(server, grace, hurry)
    if instance.registered:
        await _attempt("deregister", instance.deregister)


async def _attempt(what: str, step: Callable[[], Awaitable[bool]]) -> None:
    """Repeat a step towards Consul until it is done, for `TOLD_WITHIN_S` at most."""
    last = "no answer"
    try:
        async with asyncio.timeout(TOLD_WITHIN_S):
            while True:
                try:
                    if await step():
                        return
                    last = "not yet"
                except Failure as error:
                    last = str(error)
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        log.warning("%s: not done within %g s, going on without: %s", what, TOLD_WITHIN_S, last)


async def _unless(event: asyncio.Event, seconds: float) -> None:
    """Wait `seconds`, or less if the event comes."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


async def _stop(server: Server, grace: float, hurry: asyncio.Event) -> None:
    async def shorten() -> None:
        await hurry.wait()
        # A second stop with less grace is how grpcio shortens the first.
        await server.stop(min(grace, HURRIED_GRACE_S))

    async with asyncio.TaskGroup() as tasks:
        shortening = tasks.create_task(shorten())
        await server.stop(grace)
        shortening.cancel()
