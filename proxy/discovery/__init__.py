"""Where the instances of a service come from."""

from collections.abc import Callable, Sequence
from typing import Protocol

from proxy.balance.instance import Instance
from proxy.config import Config
from proxy.discovery.histogram import Histogram
from proxy.discovery.static import StaticList


class Discovery(Protocol):
    """A source of instances, with what the admin side shows of it."""

    source: str
    """Names the source for people, without secrets."""
    last_error: str
    """Why the source is not available now; empty while it is."""
    errors: dict[str, int]
    """Failed attempts by reason."""
    propagation: Histogram
    """Seconds from an answer's arrival until its change was applied."""

    async def run(self, apply: Callable[[Sequence[Instance]], None]) -> None:
        """Call `apply` with the full list at every change, until cancelled."""

    def age(self) -> float | None:
        """Seconds since the source last confirmed the list; None before the first time."""


def absence(discovery: Discovery, service: str) -> str:
    """Return why no instance of `service` is known, and what to look at, for people."""
    error = discovery.last_error
    if discovery.age() is None:
        if not error:
            return f"nothing heard from {discovery.source} yet"
        hint = "; is --consul right, and an agent there?" if error.startswith(("connection", "timeout")) else ""
        return f"nothing heard from {discovery.source} yet: {error}{hint}"
    lost = f", which is lost: {error}" if error else "; is the name right, and an instance registered?"
    return f"no instance of {service} is known to {discovery.source}{lost}"


def discover(config: Config) -> Discovery:
    """Return the source that the configuration asks for. Raises UsageError for unusable certificates."""
    if config.consul is None:
        return StaticList(config.endpoints)
    # Imported here as it brings aiohttp, which `--check-config` and a fixed list do not need.
    from proxy.discovery.health import ConsulHealth
    from proxy.discovery.watcher import ConsulWatcher

    query = ConsulHealth(config.consul, config.service, config.datacenter)
    return ConsulWatcher(query, f"Consul at {config.consul.url}", config.service, config.tag)
