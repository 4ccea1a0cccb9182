"""The development registry and a real Consul, behind one small HTTP client."""

import itertools
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from compose.consul import start_consul
from compose.process import free_port
from compose.registry.api import serving
from tests.tools import require


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def index(self) -> int:
        return int(self.headers["X-Consul-Index"])

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Api:
    """The HTTP API under test; `name` gives names that no other test uses."""

    kind: str
    url: str
    session: aiohttp.ClientSession
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def name(self, prefix: str = "svc") -> str:
        return f"{prefix}-{next(self._numbers)}"

    async def request(self, method: str, path: str, body: object = None) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else None
        async with self.session.request(method, self.url + path, data=data) as answer:
            return Answer(answer.status, dict(answer.headers), await answer.text())

    async def get(self, path: str) -> Answer:
        return await self.request("GET", path)

    async def put(self, path: str, body: object = None) -> Answer:
        answer = await self.request("PUT", path, body)
        assert (answer.status, answer.text) == (200, ""), answer
        return answer

    async def register(self, **fields: object) -> None:
        await self.put("/v1/agent/service/register", fields)

    async def health(self, name: str, query: str = "") -> Answer:
        answer = await self.get(f"/v1/health/service/{name}?{query}")
        assert answer.status == 200, answer
        return answer

    async def statuses(self, name: str) -> dict[str, str]:
        """The status of each check of the service itself, by check id."""
        checks = (await self.get(f"/v1/health/checks/{name}")).json
        return {check["CheckID"]: check["Status"] for check in checks}


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=["registry", "consul"])
async def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    timeout = aiohttp.ClientTimeout(total=30)
    if request.param == "registry":
        async with serving("127.0.0.1", 0) as bound, aiohttp.ClientSession(timeout=timeout) as session:
            yield Api("registry", f"http://{bound}", session)
        return
    logs: Path = tmp_path_factory.mktemp("consul")
    port = free_port()
    consul = await start_consul(require("consul"), port, logs)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            yield Api("consul", f"http://127.0.0.1:{port}", session)
    finally:
        await consul.stop()
