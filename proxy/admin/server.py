"""The admin port: what Prometheus, probes and people ask."""

import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from aiohttp import web

from proxy.admin.metrics import CONTENT_TYPE, Metrics
from proxy.admin.status import describe, not_ready
from proxy.config import Address, Config
from proxy.discovery import Discovery
from proxy.errors import BindError, system_reason
from proxy.relay.cluster import Cluster
from proxy.sockets import bind_unix
from proxy.version import version_line

# Seconds that open admin requests may hold up the end of the process.
_SHUTDOWN_SECONDS: Final = 1.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Admin:
    """Serves /metrics, /healthz, /readyz and /status of one sidecar."""

    def __init__(self, cluster: Cluster, discovery: Discovery, config: Config, draining: Callable[[], bool]) -> None:
        self._cluster = cluster
        self._discovery = discovery
        self._config = config
        self._draining = draining
        self._metrics = Metrics(cluster, discovery)
        self._version = version_line()
        self._began = time.monotonic()
        self._runner: web.AppRunner | None = None
        self._path = ""

    async def start(self, address: Address) -> Address:
        """Listen on `address` and return it with the port that was bound. Raises BindError."""
        app = web.Application(middlewares=[_readable_refusals])
        app.router.add_get("/metrics", self._get_metrics)
        app.router.add_get("/healthz", self._get_health)
        app.router.add_get("/readyz", self._get_ready)
        app.router.add_get("/status", self._get_status)
        app.on_response_prepare.append(_set_headers)
        runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
        await runner.setup()
        self._runner = runner
        site: web.BaseSite
        try:
            if address.path:
                site = web.SockSite(runner, bind_unix(address.path))
            else:
                site = web.TCPSite(runner, address.host, address.port)
            await site.start()
        except OSError as error:
            await self.stop()
            raise BindError("admin", address, system_reason(error)) from error
        self._path = address.path
        return address if address.path else Address(address.host, runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening; without effect if it was never started."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self._remove_socket()

    def _remove_socket(self) -> None:
        if self._path:
            Path(self._path).unlink(missing_ok=True)
            self._path = ""

    def _reason(self) -> str:
        return not_ready(self._cluster, self._discovery, self._draining())

    async def _get_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=await self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def _get_health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _get_ready(self, _: web.Request) -> web.Response:
        reason = self._reason()
        return web.Response(status=503, text=f"{reason}\n") if reason else web.Response(text="ready\n")

    async def _get_status(self, _: web.Request) -> web.Response:
        status = {
            "version": self._version,
            "uptime_seconds": round(time.monotonic() - self._began, 3),
            "draining": self._draining(),
            "tag": self._config.tag,
            "datacenter": self._config.datacenter,
            **describe(self._cluster, self._discovery, self._reason()),
        }
        return web.Response(text=json.dumps(status, indent=2) + "\n", content_type="application/json")


async def _set_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "grpc-sidecar"
    response.headers["Cache-Control"] = "no-store"


@web.middleware
async def _readable_refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Say what there is instead of what there is not."""
    try:
        return await handler(request)
    except web.HTTPNotFound as refusal:
        paths = sorted(resource.canonical for resource in request.app.router.resources())
        refusal.text = f"unknown path; there are {', '.join(paths)}\n"
        raise
    except web.HTTPMethodNotAllowed as refusal:
        refusal.text = f"{request.method} is not served here; {' and '.join(sorted(refusal.allowed_methods))} are\n"
        raise
