"""The admin port over real HTTP."""

import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from proxy.admin.server import Admin
from proxy.config import Address, load
from proxy.errors import BindError
from tests.unit.admin.parts import ScriptedDiscovery, busy, cluster

_CONFIG = load(["--service", "greeter", "--tag", "blue"], {})
_LOOPBACK = Address("127.0.0.1", 0)


def _admin() -> Admin:
    target, discovery = busy()
    return Admin(target, discovery, _CONFIG, lambda: False)


@asynccontextmanager
async def _started(admin: Admin) -> AsyncIterator[aiohttp.ClientSession]:
    address = await admin.start(_LOOPBACK)
    try:
        async with aiohttp.ClientSession(f"http://{address}") as session:
            yield session
    finally:
        await admin.stop()


@pytest.mark.parametrize(
    ("path", "kind", "part"),
    [
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8", "# TYPE sidecar_rpcs_started_total counter"),
        ("/healthz", "text/plain; charset=utf-8", "ok"),
        ("/readyz", "text/plain; charset=utf-8", "ready"),
        ("/status", "application/json; charset=utf-8", '"service": "greeter"'),
    ],
)
async def test_pages_answer_get_and_head(path: str, kind: str, part: str) -> None:
    async with _started(_admin()) as session:
        async with session.get(path) as answer:
            body = await answer.text()
            assert (answer.status, answer.headers["Content-Type"]) == (200, kind)
            assert part in body
            assert answer.headers["Server"] == "grpc-sidecar"
            assert answer.headers["Cache-Control"] == "no-store"
        async with session.head(path) as answer:
            assert (answer.status, answer.headers["Content-Type"], await answer.read()) == (200, kind, b"")


async def test_readiness_and_health_differ() -> None:
    async with _started(Admin(cluster(), ScriptedDiscovery(), _CONFIG, lambda: False)) as session:
        async with session.get("/readyz") as answer:
            assert (answer.status, await answer.text()) == (503, "nothing heard from Consul at X yet\n")
        async with session.get("/healthz") as answer:
            assert answer.status == 200


async def test_draining_is_not_ready_but_alive() -> None:
    target, discovery = busy()
    draining = False
    async with _started(Admin(target, discovery, _CONFIG, lambda: draining)) as session:
        async with session.get("/readyz") as answer:
            assert answer.status == 200
        draining = True
        async with session.get("/readyz") as answer:
            assert (answer.status, await answer.text()) == (503, "draining\n")
        async with session.get("/healthz") as answer:
            assert answer.status == 200


async def test_status_is_json_with_version_and_settings() -> None:
    async with _started(_admin()) as session, session.get("/status") as answer:
        status = json.loads(await answer.text())
    assert status["version"].startswith("grpc-sidecar 0.")
    assert (status["tag"], status["draining"], status["ready"]) == ("blue", False, True)
    assert 0 <= status["uptime_seconds"] < 60


async def test_an_unknown_path_lists_those_there_are() -> None:
    async with _started(_admin()) as session, session.get("/") as answer:
        assert answer.status == 404
        assert await answer.text() == "unknown path; there are /healthz, /metrics, /readyz, /status\n"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_a_wrong_method_is_told_the_right_ones(method: str) -> None:
    async with _started(_admin()) as session, session.request(method, "/metrics", data=b"x") as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "GET,HEAD")
        assert await answer.text() == f"{method} is not served here; GET and HEAD are\n"


async def test_a_port_in_use_is_a_bind_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = Address("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(BindError) as caught:
            await _admin().start(address)
    assert str(caught.value) == f"cannot listen on {address} (admin): Address already in use"


async def test_on_a_unix_socket_whose_file_goes_with_it(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "admin.sock"))
    admin = _admin()
    assert await admin.start(address) == address
    connector = aiohttp.UnixConnector(address.path)
    async with aiohttp.ClientSession(connector=connector) as session, session.get("http://x/healthz") as answer:
        assert answer.status == 200
    await admin.stop()
    assert os.listdir(tmp_path) == []
    await admin.stop()
