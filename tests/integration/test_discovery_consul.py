"""The watcher against the development registry and real Consul, and real Consul's failures."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from compose.consul import start_consul
from compose.registry.api import serving
from proxy.balance.instance import Instance
from proxy.config import load
from proxy.discovery import Discovery, discover
from proxy.discovery.watcher import WAIT_SECONDS
from tests.stack import DEADLINE, Consul, closing
from tests.tools import require

_MANAGEMENT = "00000000-0000-0000-0000-00000000aaaa"
_ACL = f'acl {{ enabled = true default_policy = "deny" tokens {{ initial_management = "{_MANAGEMENT}" }} }}'


class Watch:
    """A running watcher and what it applied."""

    def __init__(self, discovery: Discovery) -> None:
        self.discovery = discovery
        self.applied: list[tuple[float, Sequence[Instance]]] = []

    def apply(self, instances: Sequence[Instance]) -> None:
        self.applied.append((time.monotonic(), instances))

    @property
    def up(self) -> list[str]:
        """The ids that are routed to now."""
        instances = self.applied[-1][1] if self.applied else ()
        return [instance.key.split("/", 1)[1] for instance in instances if instance.routable]

    async def until(self, condition: Callable[[], bool], what: str, seconds: float = DEADLINE) -> None:
        """Wait for `condition`; a failure says what was there instead."""
        end = time.monotonic() + seconds
        while not condition():
            state = f"{self.up} applied, errors {self.discovery.errors}, last {self.discovery.last_error!r}"
            assert time.monotonic() < end, f"no sign of {what}: {state}"
            await asyncio.sleep(0.005)

    async def until_up(self, *ids: str) -> None:
        await self.until(lambda: bool(self.applied) and self.up == list(ids), f"{ids} being up")


@asynccontextmanager
async def watching(url: str, *flags: str, **environ: str) -> AsyncIterator[Watch]:
    watch = Watch(discover(load(["--service", "greeter", "--consul", url, *flags], environ)))
    task = asyncio.ensure_future(watch.discovery.run(watch.apply))
    try:
        yield watch
    finally:
        task.cancel()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError), ended


class Agent:
    """Writes to an agent."""

    def __init__(self, url: str, session: aiohttp.ClientSession, token: str = "") -> None:
        self.url = url
        self._session = session
        self._headers = {"X-Consul-Token": token} if token else {}

    async def put(self, path: str, body: object = None) -> Any:
        data = json.dumps(body) if body is not None else None
        async with self._session.put(self.url + path, data=data, headers=self._headers) as answer:
            text = await answer.text()
            assert answer.status == 200, f"{path}: {answer.status} {text}"
            return json.loads(text) if text else None

    async def register(self, instance: str, status: str = "passing", **fields: object) -> None:
        check = {"CheckID": f"check-{instance}", "TTL": "600s", "Status": status}
        body = {"ID": instance, "Name": "greeter", "Address": "127.0.0.1", "Port": 50000, "Check": check, **fields}
        await self.put("/v1/agent/service/register", body)

    async def deregister(self, instance: str) -> None:
        await self.put(f"/v1/agent/service/deregister/{instance}")

    async def maintenance(self, instance: str, on: bool) -> None:
        await self.put(f"/v1/agent/service/maintenance/{instance}?enable={str(on).lower()}&reason=drain")


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as opened:
        yield opened


@pytest.fixture(params=["registry", "consul"])
async def agent(request: pytest.FixtureRequest, session: aiohttp.ClientSession) -> AsyncIterator[Agent]:
    if request.param == "registry":
        async with serving("127.0.0.1", 0) as bound:
            yield Agent(f"http://{bound}", session)
        return
    with closing(consul := Consul()):
        yield Agent(consul.url, session)


async def test_the_life_of_instances(agent: Agent) -> None:
    async with watching(agent.url) as watch:
        await watch.until_up()
        await agent.register("green")
        await watch.until_up("green")
        await agent.register("blue", "critical")
        await watch.until(lambda: len(watch.applied[-1][1]) == 2, "blue, critical")
        assert watch.up == ["green"]
        await agent.put("/v1/agent/check/pass/check-blue")
        await watch.until_up("blue", "green")
        await agent.maintenance("green", True)
        await watch.until_up("blue")
        (green,) = [item for item in watch.applied[-1][1] if item.key.endswith("/green")]
        assert (green.state, green.note) == ("maintenance", "drain")
        await agent.maintenance("green", False)
        await watch.until_up("blue", "green")
        await agent.deregister("green")
        await watch.until_up("blue")
        await agent.put("/v1/agent/check/fail/check-blue?note=broken")
        await watch.until(lambda: watch.applied[-1][1][0].state == "critical", "blue, critical")
        assert watch.up == ["blue"]  # all are critical, so it is routed to all the same
        assert "broken" in watch.applied[-1][1][0].note
        await agent.maintenance("blue", True)
        await watch.until_up()
        assert watch.discovery.errors == {}


async def test_only_instances_with_the_tag(agent: Agent) -> None:
    await agent.register("a", Tags=["blue", "x"])
    await agent.register("b", Tags=["green"])
    async with watching(agent.url, "--tag", "blue") as watch:
        await watch.until_up("a")
        assert len(watch.applied[-1][1]) == 1


async def test_another_datacenter_is_refused_with_a_reason(agent: Agent) -> None:
    async with watching(agent.url, "--datacenter", "nowhere") as watch:
        await watch.until(lambda: bool(watch.discovery.errors), "an error")
        assert watch.applied == []
        assert "nowhere" in watch.discovery.last_error or "datacenter" in watch.discovery.last_error


async def test_changes_are_applied_within_milliseconds_of_the_answer(agent: Agent) -> None:
    await agent.register("a")
    await agent.register("b")
    async with watching(agent.url) as watch:
        await watch.until_up("a", "b")
        seconds = []
        for turn in range(8):
            began, on = time.monotonic(), turn % 2 == 0
            await agent.maintenance("b", on)
            await watch.until_up(*(("a",) if on else ("a", "b")))
            seconds.append(watch.applied[-1][0] - began)
        counted = watch.discovery.propagation
        assert sum(counted.counts) == 9
        assert sum(counted.counts[: counted.bounds.index(0.05) + 1]) == 9
        # With the request, Consul's own work and the answer; a busy machine may double that.
        assert sorted(seconds)[len(seconds) // 2] < 0.1


async def test_a_list_that_vanished_is_held_and_replaced_at_once_by_what_returns(agent: Agent) -> None:
    await agent.register("green")
    async with watching(agent.url) as watch:
        await watch.until_up("green")
        await agent.deregister("green")
        await watch.until(lambda: "held" in watch.applied[-1][1][0].note, "a held list")
        assert watch.up == ["green"]
        await agent.register("blue")
        await watch.until_up("blue")


async def test_a_frozen_agent_and_one_that_lost_its_state_take_no_instance_away(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("proxy.discovery.watcher.WAIT_SECONDS", 0.2)
    monkeypatch.setattr("proxy.discovery.health._SLACK_SECONDS", 0.2)
    monkeypatch.setattr("proxy.discovery.health.READ_SECONDS", 0.5)
    with closing(consul := Consul()):
        agent = Agent(consul.url, session)
        await agent.register("green")
        async with watching(consul.url) as watch:
            await watch.until_up("green")
            consul.signal(signal.SIGSTOP)
            await watch.until(lambda: watch.discovery.errors.get("timeout", 0) > 0, "a time-out")
            age = watch.discovery.age()
            assert age is not None
            assert age > 0.3
            consul.signal(signal.SIGCONT)
            await watch.until(lambda: not watch.discovery.last_error, "Consul found again")
            consul.signal(signal.SIGKILL)
            await watch.until(lambda: watch.discovery.errors.get("connection", 0) > 0, "a refused connection")
            # A dev agent starts without its state: an empty list that its leader stands by.
            again = await start_consul(require("consul"), consul.port, tmp_path)
            try:
                await watch.until(lambda: "held" in watch.applied[-1][1][0].note, "a held list")
            finally:
                await again.stop()
            assert watch.up == ["green"]
            assert all(instances for _, instances in watch.applied)


async def test_acl(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    with closing(consul := Consul("-hcl", _ACL)):
        agent = Agent(consul.url, session, _MANAGEMENT)
        await agent.register("green")
        rules = 'service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }'
        await agent.put("/v1/acl/policy", {"Name": "read", "Rules": rules})
        token = await agent.put("/v1/acl/token", {"Policies": [{"Name": "read"}]})
        powerless = await agent.put("/v1/acl/token", {})
        file = tmp_path / "token"
        file.write_text(powerless["SecretID"])
        async with (
            watching(consul.url) as without,
            watching(consul.url, CONSUL_HTTP_TOKEN="00000000-0000-0000-0000-00000000bbbb") as unknown,
            watching(consul.url, CONSUL_HTTP_TOKEN_FILE=str(file)) as rotated,
        ):
            await without.until(lambda: "set CONSUL_HTTP_TOKEN" in without.discovery.last_error, "no token")
            await unknown.until(lambda: "ACL not found" in unknown.discovery.last_error, "an unknown token")
            await rotated.until(lambda: "may not read" in rotated.discovery.last_error, "a token without rights")
            assert (without.applied, unknown.applied, rotated.applied) == ([], [], [])
            file.write_text(token["SecretID"])
            await rotated.until_up("green")
            # Revoked while the query blocks: refused, but what is known stays.
            async with session.delete(
                f"{consul.url}/v1/acl/token/{token['AccessorID']}", headers={"X-Consul-Token": _MANAGEMENT}
            ) as answer:
                assert answer.status == 200
            # If the query had not reached Consul yet, it is let in and told only when its wait is over.
            seconds = WAIT_SECONDS + DEADLINE
            await rotated.until(lambda: "acl" in rotated.discovery.last_error, "the revoked token", seconds)
            assert rotated.up == ["green"]
            assert set(rotated.discovery.errors) == {"acl"}
