"""Connects to instances."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final, cast

from proxy.net.link import Hub
from proxy.net.links import InstanceLink
from proxy.relay.counters import Counters
from proxy.relay.pool import CROWDED, Dialer, Pool

log: Final = logging.getLogger(__name__)

# Seconds for TCP to connect; the host may be gone without a word.
CONNECT_SECONDS: Final = 3.0


class TcpDialer(Dialer):
    """Dials over TCP, in tasks of the group it is given."""

    def __init__(self, hub: Hub, counters: Counters, tasks: asyncio.TaskGroup, random: Callable[[], float]) -> None:
        self._hub = hub
        self._counters = counters
        self._tasks = tasks
        self._random = random
        self._dials: set[asyncio.Task[None]] = set()
        self._hurries: dict[Pool, asyncio.Event] = {}
        self._closed = False

    def close(self) -> None:
        """Dial no more."""
        self._closed = True
        for dial in self._dials:
            dial.cancel()

    def dial(self, pool: Pool, delay: float) -> None:
        """Connect after `delay` seconds, give or take half, so that many sidecars do not come at once."""
        if not self._closed:
            task = self._tasks.create_task(self._dial(pool, delay * (0.5 + self._random())))
            self._dials.add(task)
            task.add_done_callback(self._dials.discard)

    def hurry(self, pool: Pool) -> None:
        """Wait no longer to dial: the instance is known to be up again."""
        if pool in self._hurries:
            self._hurries[pool].set()

    def soon(self, pool: Pool) -> None:
        """Let a crowded pool recover in a moment."""
        self._hub.loop.call_later(CROWDED, pool.recover)

    def report(self, pool: Pool, reason: str) -> None:
        """Log that an instance cannot be used, or can be again."""
        if self._closed:
            return  # we are leaving: no loss that anyone need look at
        if reason:
            log.warning("instance %s takes no calls: %s", pool.label(), reason)
        else:
            log.info("instance %s takes calls again", pool.label())

    async def _dial(self, pool: Pool, delay: float) -> None:
        if delay > 0:
            await self._pause(pool, delay)
        instance = pool.instance
        # A link has the shape of a protocol, but as a compiled class it does not inherit asyncio's.
        link = InstanceLink(self._hub, self._counters, pool)
        protocol = cast("Callable[[], asyncio.Protocol]", lambda: link)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._hub.loop.create_connection(protocol, instance.host, instance.port)
        except TimeoutError:
            self._failed(link, f"no connection within {CONNECT_SECONDS:g} s")
        except OSError as error:
            self._failed(link, error.strerror or str(error))
        except (ValueError, OverflowError) as error:
            # The registry takes any text for an address: what is no name, and a port out of range.
            self._failed(link, str(error))

    async def _pause(self, pool: Pool, delay: float) -> None:
        """Wait for `delay` seconds, or until there is a hurry; a pool has one dial at a time."""
        hurry = self._hurries[pool] = asyncio.Event()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await hurry.wait()
        finally:
            del self._hurries[pool]

    def _failed(self, link: InstanceLink, reason: str) -> None:
        pool = link.pool
        if link.reached:
            return  # the pool has the connection, though the word of it came too late
        log.debug("cannot connect to %s: %s", pool.label(), reason)
        pool.dial_failed(reason)
