"""Keeps one instance registered in Consul through python-consul2, and takes it out of traffic."""

import asyncio
import ipaddress
import json
import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from consul import ConsulException
from consul.base import CB
from consul.base import Consul as BaseConsul
from consul.std import HTTPClient

CHECK_INTERVAL = "1s"
"""How often Consul probes; it takes nothing shorter."""
CHECK_TIMEOUT = "500ms"
"""How long Consul waits for the answer to a probe; its default of 10 s would hide a frozen instance."""
REAP_AFTER = "1m"
"""When Consul forgets an instance that crashed; its minimum."""
REQUEST_TIMEOUT_S = 2.0
"""To connect to Consul, and to read its answer; python-consul2 itself waits without end."""
WATCH_INTERVAL_S = 2.0
"""How often the instance looks whether its agent still knows it; a read the agent answers by itself."""
DEFAULT_ROUTE = ("192.0.2.1", 9)
"""An address that no interface has (TEST-NET-1 of RFC 5737), so that the route to it is the default one."""
RETRY_S = (0.25, 5.0)
"""First and longest pause between attempts to register while Consul is away."""

log = logging.getLogger("greeter.consul")

T = TypeVar("T")
Failure = (ConsulException, requests.RequestException)
"""What a request to Consul raises when Consul is away or says no."""


@dataclass(frozen=True, slots=True)
class ConsulAddress:
    """Where the agent answers HTTP."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> "ConsulAddress":
        """Read ``http://HOST:PORT``, ``https://...`` or ``HOST:PORT``; raises `ValueError`."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address of Consul; write http://HOST:PORT")
        if parts.path not in ("", "/") or parts.query:
            raise ValueError(f"{url!r} has a path; write http://HOST:PORT")
        return cls(parts.scheme, parts.hostname, parts.port or 8500)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def own_address(consul: ConsulAddress) -> str:
    """Return the local IP address that packets to Consul leave from.

    Where its name is not known (yet), that of the default route, else 127.0.0.1. Sends nothing: connecting a UDP
    socket only chooses the route.
    """
    for host, port in ((consul.host, consul.port), DEFAULT_ROUTE):
        try:
            family, _, _, _, remote = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(remote)
                address = str(probe.getsockname()[0])
        except OSError as error:
            log.warning("no route to %s: %s", host, error)
            continue
        log.info("registering %s; --host names another address", address)
        return address
    log.warning("registering 127.0.0.1 for want of a route; --host names another address")
    return "127.0.0.1"


class Client(BaseConsul):  # type: ignore[misc]
    """python-consul2 on a `requests` session that takes nothing from the environment but Consul's token.

    Its own constructor lets CONSUL_HTTP_ADDR override the arguments and fails on some valid values of it, and
    its session uses the proxies and the netrc of the environment. One thread may use it at a time.
    """

    def __init__(self, address: ConsulAddress) -> None:
        self._address = address
        with (
            _without("CONSUL_HTTP_ADDR", "CONSUL_HTTP_SSL", "CONSUL_HTTP_SSL_VERIFY"),
            # Its own, about a part of the API that nobody has asked for.
            warnings.catch_warnings(action="ignore", category=DeprecationWarning),
        ):
            super().__init__()

    def http_connect(self, *_ignored: Any, **_settings: Any) -> HTTPClient:
        """Return the HTTP client; called by the base class."""
        host = f"[{self._address.host}]" if ":" in self._address.host else self._address.host
        verify = os.environ.get("CONSUL_CACERT") or True
        http = HTTPClient(host, self._address.port, self._address.scheme, verify, None, REQUEST_TIMEOUT_S)
        http.session.trust_env = False
        return http


@contextmanager
def _without(*names: str) -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


@dataclass(frozen=True, slots=True)
class Instance:
    """What is registered."""

    service: str
    name: str
    host: str
    port: int
    tag: str

    @property
    def id(self) -> str:
        """The service id: unique on its agent also when several instances bear one name."""
        return f"{self.name}-{self.host}-{self.port}"

    def definition(self) -> dict[str, Any]:
        """Return the body for ``/v1/agent/service/register``.

        Passing from the start: the port serves before it is registered, and a probe follows within a second.
        """
        return {
            "ID": self.id,
            "Name": self.service,
            "Address": self.host,
            "Port": self.port,
            "Tags": [self.tag] if self.tag else [],
            "Meta": {"name": self.name},
            "Check": {
                "Name": "gRPC health",
                "GRPC": f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}",
                "Interval": CHECK_INTERVAL,
                "Timeout": CHECK_TIMEOUT,
                "Status": "passing",
                "DeregisterCriticalServiceAfter": REAP_AFTER,
            },
        }


def bind_address(host: str) -> str:
    """Return where to listen so that `host` reaches it: loopback alone for loopback, else every interface."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "127.0.0.1" if host == "localhost" else "0.0.0.0"
    if address.is_loopback:
        return f"[{host}]" if address.version == 6 else host
    return "[::]" if address.version == 6 else "0.0.0.0"


class Registration:
    """One instance in Consul. Its coroutines run python-consul2 in one thread, a call at a time."""

    def __init__(self, instance: Instance, consul: ConsulAddress) -> None:
        self.instance = instance
        self.registered = False
        self._consul = Client(consul)
        self._address = consul
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="consul")

    async def keep(self) -> None:
        """Register, retrying while Consul is away, and again if the agent loses the id; until cancelled."""
        await self._register()
        away = False
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            try:
                known = await self._call(self._consul.agent.services)
            except Failure as error:
                if not away:
                    log.warning("Consul at %s does not answer: %s", self._address, error)
                away = True
                continue
            away = False
            if self.instance.id not in known:
                log.warning("Consul has lost %s: registering it again", self.instance.id)
                await self._register()

    async def maintenance(self) -> bool:
        """Take the instance out of traffic in Consul; returns True when done, raises one of `Failure`."""
        maintenance = self._consul.agent.service.maintenance
        known = await self._call(partial(maintenance, self.instance.id, "true", reason="draining"))
        if self.registered and not known:
            log.warning("Consul does not know %s: nothing to take out of traffic", self.instance.id)
        return True

    async def gone(self) -> bool:
        """Return whether no watcher of healthy instances is told of this one; raises one of `Failure`.

        A stale read is asked as well: it shows what servers other than the leader tell their watchers.
        """
        for consistency in ("", "stale"):
            entries = await self._call(partial(self._passing, consistency))
            if any(entry["Service"]["ID"] == self.instance.id for entry in entries):
                return False
        return True

    async def deregister(self) -> bool:
        """Remove the instance from Consul; returns True when done, raises one of `Failure`."""
        await self._call(partial(self._consul.agent.service.deregister, self.instance.id))
        return True

    def close(self) -> None:
        """Let the thread go; a request under way ends by its own timeout."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._consul.http.session.close()

    async def _register(self) -> None:
        pause = RETRY_S[0]
        while True:
            try:
                await self._call(self._put_definition)
            except Failure as error:
                log.warning("cannot register at %s, trying again in %.2g s: %s", self._address, pause, error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, RETRY_S[1])
                continue
            log.info("registered %s at %s", self.instance.id, self._address)
            return

    def _put_definition(self) -> None:
        # replace-existing-checks, which the library's own call does not know, drops the checks and the
        # maintenance that an earlier process under this id left behind.
        self._consul.http.put(
            CB.bool(),
            "/v1/agent/service/register",
            params=[("replace-existing-checks", "true")],
            headers=self._headers(),
            data=json.dumps(self.instance.definition()),
        )
        # Set here, in the thread: a drain may cancel who waits for it while Consul already has the instance.
        self.registered = True

    def _passing(self, consistency: str) -> list[dict[str, Any]]:
        params = [("passing", "1")] + ([(consistency, "1")] if consistency else [])
        path = f"/v1/health/service/{self.instance.service}"
        entries: list[dict[str, Any]] = self._consul.http.get(CB.json(), path, params=params, headers=self._headers())
        return entries

    def _headers(self) -> dict[str, str]:
        return {"X-Consul-Token": self._consul.token} if self._consul.token else {}

    async def _call(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)
