"""Watches the registry as any client of it may, and notes when it showed what."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp

WAIT = "30s"
ANSWER_S = 40.0
"""How long a blocking query of `WAIT` may take, with Consul's own delay on top."""
RETRY_S = 0.2


def states(entries: list[dict[str, Any]]) -> dict[str, str]:
    """Return the state of each instance by its name: maintenance, else the worst of its checks."""
    found = {}
    for entry in entries:
        service, checks = entry["Service"], entry["Checks"]
        worst = "passing"
        for check in checks:
            if "_maintenance" in check["CheckID"]:
                worst = "maintenance"
                break
            if check["Status"] == "critical" or worst == "passing":
                worst = check["Status"]
        found[(service["Meta"] or {}).get("name", service["ID"])] = worst
    return found


class RegistryWatch:
    """A blocking query in a loop. `states` is what the registry last said, `since` when it first said so."""

    def __init__(self, url: str, service: str, changed: Callable[[], None]) -> None:
        self._path = f"{url}/v1/health/service/{service}"
        self._changed = changed
        self.states: dict[str, str] = {}
        self.since: dict[str, float] = {}

    async def run(self) -> None:
        """Watch until cancelled."""
        index = 0
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                try:
                    async with session.get(f"{self._path}?index={index}&wait={WAIT}") as answer:
                        answer.raise_for_status()
                        fresh = int(answer.headers["X-Consul-Index"])
                        entries = json.loads(await answer.read())
                except (aiohttp.ClientError, TimeoutError):
                    index = 0
                    await asyncio.sleep(RETRY_S)
                    continue
                # An index that went back says nothing about changes: start anew.
                index = fresh if fresh >= index else 0
                self._apply(states(entries), time.monotonic())

    def _apply(self, fresh: Mapping[str, str], now: float) -> None:
        for name in fresh.keys() | self.states.keys():
            if fresh.get(name) != self.states.get(name):
                self.since[name] = now
        self.states = dict(fresh)
        self._changed()
