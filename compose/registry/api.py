"""The HTTP API on aiohttp: Consul's paths, parameters, headers and error texts, and its blocking queries."""

import asyncio
import json
import logging
import platform
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from compose.registry.catalog import DATACENTER, NODE_ADDRESS, VERSION, Catalog, Check
from compose.registry.definitions import (
    CRITICAL,
    PASSING,
    WARNING,
    RefusedError,
    check_from,
    decode,
    seconds,
    service_from,
)
from compose.registry.probes import Runner

DEFAULT_WAIT_S = 300.0
"""How long a blocking query waits that does not say."""
LONGEST_WAIT_S = 600.0
"""How long one may wait at most."""
SHUTDOWN_S = 2.0
"""How long requests may take to end when the registry stops."""

_TRUE = {"1", "t", "T", "TRUE", "true", "True"}
_FALSE = {"0", "f", "F", "FALSE", "false", "False"}

log = logging.getLogger("registry")


class Registry:
    """The registry: a catalog, the checks that run on it, and the requests that wait for it to change."""

    def __init__(self) -> None:
        self.catalog = Catalog(platform.node() or "localhost", self._wake)
        self.runner = Runner(self.catalog)
        self._waiting: set[asyncio.Future[None]] = set()
        self._closing = False

    def application(self) -> web.Application:
        """Return the aiohttp application; its start and end start and end the checks."""
        app = web.Application(middlewares=[_refuse])
        put, get = web.put, web.get
        app.add_routes(
            [
                put("/v1/agent/service/register", self._register),
                put("/v1/agent/service/deregister/{id:.+}", self._deregister),
                put("/v1/agent/service/maintenance/{id:.+}", self._maintenance),
                put("/v1/agent/check/register", self._register_check),
                put("/v1/agent/check/deregister/{id:.+}", self._deregister_check),
                put("/v1/agent/check/{verdict:pass|warn|fail}/{id:.+}", self._ttl),
                get("/v1/agent/services", self._agent_services, allow_head=False),
                get("/v1/agent/checks", self._agent_checks, allow_head=False),
                get("/v1/agent/self", self._self, allow_head=False),
                get("/v1/health/service/{name:.+}", self._health_service, allow_head=False),
                get("/v1/health/checks/{name:.+}", self._health_checks, allow_head=False),
                get("/v1/health/state/{state}", self._health_state, allow_head=False),
                get("/v1/catalog/services", self._catalog_services, allow_head=False),
                get("/v1/catalog/service/{name:.+}", self._catalog_service, allow_head=False),
                get("/v1/catalog/nodes", self._catalog_nodes, allow_head=False),
                get("/v1/catalog/datacenters", self._datacenters, allow_head=False),
                get("/v1/status/leader", self._leader, allow_head=False),
            ]
        )
        app.cleanup_ctx.append(self._checks_running)
        app.on_shutdown.append(self._close)
        return app

    # -- PUT ----------------------------------------------------------------------------------------------------

    async def _register(self, request: web.Request) -> web.Response:
        service, checks = service_from(decode(await request.read()))
        replace = _switch(request, "replace-existing-checks")
        self.catalog.register(service, checks, replace)
        log.info("registered %s of %s at %s:%d", service.id, service.name, service.address, service.port)
        return self._done()

    async def _deregister(self, request: web.Request) -> web.Response:
        self.catalog.deregister(request.match_info["id"])
        log.info("deregistered %s", request.match_info["id"])
        return self._done()

    async def _maintenance(self, request: web.Request) -> web.Response:
        text = request.query.get("enable", "")
        if not text:
            raise RefusedError(400, "Missing value for enable")
        if text not in _TRUE | _FALSE:
            raise RefusedError(400, f'Invalid value for enable: "{text}"')
        enable = text in _TRUE
        self.catalog.maintenance(request.match_info["id"], enable, request.query.get("reason", ""))
        log.info("maintenance of %s is %s", request.match_info["id"], "on" if enable else "off")
        return self._done()

    async def _register_check(self, request: web.Request) -> web.Response:
        self.catalog.register_check(check_from(decode(await request.read())))
        return self._done()

    async def _deregister_check(self, request: web.Request) -> web.Response:
        self.catalog.deregister_check(request.match_info["id"])
        return self._done()

    async def _ttl(self, request: web.Request) -> web.Response:
        status = {"pass": PASSING, "warn": WARNING, "fail": CRITICAL}[request.match_info["verdict"]]
        check = self.catalog.ttl_check(request.match_info["id"])
        self.catalog.update(check, status, request.query.get("note", ""))
        self.runner.touch(check.id)
        return self._done()

    def _done(self) -> web.Response:
        self.runner.sync()
        return web.Response()

    # -- GET ----------------------------------------------------------------------------------------------------

    async def _agent_services(self, _request: web.Request) -> web.Response:
        services = self.catalog.services
        return _json({each: self.catalog.agent_service(services[each]) for each in sorted(services)})

    async def _agent_checks(self, _request: web.Request) -> web.Response:
        # serfHealth belongs to the cluster and not to the agent.
        own = sorted((check for check in self.catalog.checks.values() if check.id != "serfHealth"), key=_check_id)
        return _json({check.id: self.catalog.check_entry(check) for check in own})

    async def _self(self, _request: web.Request) -> web.Response:
        config = {
            "Datacenter": DATACENTER,
            "PrimaryDatacenter": DATACENTER,
            "NodeName": self.catalog.node,
            "NodeID": self.catalog.node_id,
            "Server": True,
            "Version": VERSION,
        }
        member = {"Name": self.catalog.node, "Addr": NODE_ADDRESS, "Status": 1, "Tags": {"dc": DATACENTER}}
        return _json({"Config": config, "Member": member, "Meta": {"development-registry": "true"}})

    async def _health_service(self, request: web.Request) -> web.Response:
        name, tags = request.match_info["name"], request.query.getall("tag", [])
        passing = _switch(request, "passing")
        return await self._watch(
            request, lambda: self.catalog.service_index(name), lambda: self.catalog.health(name, passing, tags)
        )

    async def _health_checks(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return await self._watch(
            request,
            lambda: self.catalog.service_index(name),
            lambda: [self.catalog.check_entry(check) for check in self.catalog.service_checks(name)],
        )

    async def _health_state(self, request: web.Request) -> web.Response:
        state = request.match_info["state"]

        def entries() -> list[dict[str, Any]]:
            checks = sorted(self.catalog.checks.values(), key=_check_id)
            return [self.catalog.check_entry(check) for check in checks if state in ("any", check.status)]

        return await self._watch(request, self._index, entries)

    async def _catalog_services(self, request: web.Request) -> web.Response:
        def names() -> dict[str, list[str]]:
            tags: dict[str, set[str]] = {"consul": set()}
            for service in self.catalog.services.values():
                tags.setdefault(service.definition.name, set()).update(service.definition.tags)
            return {name: sorted(tags[name]) for name in sorted(tags)}

        return await self._watch(request, self._index, names)

    async def _catalog_service(self, request: web.Request) -> web.Response:
        name, tags = request.match_info["name"], request.query.getall("tag", [])
        return await self._watch(
            request,
            lambda: self.catalog.service_index(name),
            lambda: [self.catalog.catalog_entry(service) for service in self.catalog.named(name, tags)],
        )

    async def _catalog_nodes(self, request: web.Request) -> web.Response:
        return await self._watch(request, lambda: 1, lambda: [self.catalog.node_entry()])

    async def _datacenters(self, _request: web.Request) -> web.Response:
        return _json([DATACENTER])

    async def _leader(self, _request: web.Request) -> web.Response:
        return _json(f"{NODE_ADDRESS}:8300")

    # -- blocking queries ---------------------------------------------------------------------------------------

    def _index(self) -> int:
        return self.catalog.index

    async def _watch(self, request: web.Request, index: Callable[[], int], content: Callable[[], Any]) -> web.Response:
        """Answer at once, or with ``index`` given when the index has passed it or ``wait`` is over."""
        _accept(request.query)
        known, wait = _blocking(request.query)
        if known:
            try:
                async with asyncio.timeout(wait):
                    while index() <= known and not self._closing:
                        await self._change()
            except TimeoutError:
                pass  # the end of the wait is an answer like any other
        headers = {
            "X-Consul-Index": str(max(index(), 1)),
            "X-Consul-Knownleader": "true",
            "X-Consul-Lastcontact": "0",
        }
        here = content()
        meta = self.catalog.node_entry()["Meta"].items()
        if any(tuple(wanted.split(":", 1)) not in meta for wanted in request.query.getall("node-meta", [])):
            here = type(here)()  # the only node is not meant
        return _json(here, headers)

    async def _change(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    # -- life ---------------------------------------------------------------------------------------------------

    async def _checks_running(self, _app: web.Application) -> AsyncIterator[None]:
        checks = asyncio.ensure_future(self.runner.run())
        yield
        checks.cancel()
        await asyncio.gather(checks, return_exceptions=True)

    async def _close(self, _app: web.Application) -> None:
        self._closing = True
        self._wake()


@asynccontextmanager
async def serving(host: str, port: int) -> AsyncIterator[str]:
    """Serve a registry while the block runs; gives its bound ``HOST:PORT``. Raises `OSError` if it is taken."""
    # handler_cancellation: a waiter whose client has gone ends at once.
    runner = web.AppRunner(
        Registry().application(), handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_S
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        bound_host, bound_port = runner.addresses[0][:2]
        yield f"[{bound_host}]:{bound_port}" if ":" in bound_host else f"{bound_host}:{bound_port}"
    finally:
        await runner.cleanup()


@web.middleware
async def _refuse(request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
    try:
        response: web.StreamResponse = await handler(request)
    except RefusedError as refused:
        return web.Response(status=refused.status, text=refused.text)
    except web.HTTPMethodNotAllowed as refused:
        headers = {"Allow": ",".join(sorted(refused.allowed_methods))}
        return web.Response(status=405, text=f"method {request.method} not allowed", headers=headers)
    return response


def _json(value: object, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(text=json.dumps(value), content_type="application/json", headers=headers)


def _check_id(check: Check) -> str:
    return check.id


def _switch(request: web.Request, name: str) -> bool:
    """Whether a parameter is on: present without a value, or with a true one."""
    if name not in request.query:
        return False
    text = request.query[name]
    if text not in _TRUE | _FALSE | {""}:
        raise RefusedError(400, f"Invalid value for ?{name}")
    return text not in _FALSE


def _accept(query: Mapping[str, str]) -> None:
    """Refuse what would be answered wrongly; other parameters are accepted as Consul accepts them."""
    if query.get("dc", DATACENTER) != DATACENTER:
        raise RefusedError(500, "No path to datacenter")
    if query.get("filter"):
        raise RefusedError(400, "the development registry knows no filter; use ?tag or a real Consul")


def _blocking(query: Mapping[str, str]) -> tuple[int, float]:
    """Return the index to wait for a change of, 0 for none, and for how many seconds."""
    index = query.get("index") or "0"
    if not index.isascii() or not index.isdigit():
        raise RefusedError(400, "Invalid index")
    try:
        wait = seconds(query.get("wait") or "0")
    except ValueError as error:
        raise RefusedError(400, "Invalid wait time") from error
    return int(index), min(wait or DEFAULT_WAIT_S, LONGEST_WAIT_S)
