"""The greeter server as a process: registration, the four call kinds, and how it leaves."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from compose.process import Process, environment, free_port, python
from compose.registry.api import serving
from compose.watch import RegistryWatch
from greeter.helloworld_pb2 import HelloRequest
from greeter.helloworld_pb2_grpc import GreeterStub

DEADLINE_S = 10.0
NAME = "greeter-server-test"


class Registry:
    """The development registry, and what it says of the greeter."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._news = asyncio.Event()
        self.watch = RegistryWatch(url, "greeter", self._news.set)

    @property
    def state(self) -> str:
        return self.watch.states.get(NAME, "gone")

    async def until(self, *wanted: str) -> None:
        """Wait until the greeter is in one of the states."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while self.state not in wanted:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pytest.fail(f"the greeter is {self.state}, not {wanted}")

    async def put(self, path: str) -> None:
        async with aiohttp.ClientSession() as session, session.put(self.url + path) as answer:
            assert answer.status == 200, await answer.text()


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    async with serving("127.0.0.1", 0) as bound:
        served = Registry(f"http://{bound}")
        watching = asyncio.ensure_future(served.watch.run())
        yield served
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


class Server:
    """Starts greeters, which end with the test."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._processes: list[Process] = []

    async def start(self, consul: str, *flags: str, port: int = 0) -> Process:
        command = python("-m", "greeter.server", "--name", NAME, "--consul", consul, "--port", str(port), *flags)
        process = await Process.start(f"greeter-{len(self._processes)}", command, self._logs, environment())
        self._processes.append(process)
        return process

    async def kill(self) -> None:
        for process in self._processes:
            process.terminate(signal.SIGKILL)
            await process.child.wait()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    made = Server(tmp_path)
    yield made
    await made.kill()


async def address(process: Process) -> str:
    return (await process.logged(r"ready .*listen=(\S+)"))[1]


def stub(channel: grpc.aio.Channel) -> Any:
    return GreeterStub(channel)  # type: ignore[no-untyped-call]


def asleep(channel: grpc.aio.Channel, milliseconds: int) -> Any:
    """Start a call that sleeps on the server; its initial metadata says when it does."""
    return stub(channel).SayHelloStream(HelloRequest(name="sleeper", count=1, interval_ms=milliseconds))


async def test_the_four_call_kinds_and_who_served_them(registry: Registry, server: Server) -> None:
    process = await server.start(registry.url, "--settle", "0s")
    async with grpc.aio.insecure_channel(await address(process)) as channel:
        greeter = stub(channel)
        call = greeter.SayHello(HelloRequest(name="a"))
        assert (await call).message == "Hello a"
        assert dict(await call.initial_metadata())["x-served-by"] == NAME
        assert [reply.message async for reply in greeter.SayHelloStream(HelloRequest(name="b"))] == ["Hello b"] * 3
        names = [HelloRequest(name=name) for name in ("c", "d")]
        assert (await greeter.CollectHellos(iter(names))).message == "Hello c, d"
        assert [reply.message async for reply in greeter.ChatHello(iter(names))] == ["Hello c", "Hello d"]
        states = health_pb2_grpc.HealthStub(channel)
        for service in ("", "helloworld.Greeter"):
            answer = await states.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
    await registry.until("passing")
    assert await process.stop() == 0
    await registry.until("gone")


async def test_sigterm_loses_no_call_and_a_handler_asleep_finishes(registry: Registry, server: Server) -> None:
    process = await server.start(registry.url, "--settle", "300ms")
    async with grpc.aio.insecure_channel(await address(process)) as channel:
        await registry.until("passing")
        sleeper = asleep(channel, 1500)
        await sleeper.initial_metadata()
        process.terminate()
        # As a client behind a watcher: calls go on until the registry takes the instance out.
        calls = 0
        while registry.state == "passing" or calls == 0:
            await stub(channel).SayHello(HelloRequest(name="late"))
            calls += 1
        assert registry.state in ("maintenance", "critical")
        # One more, from a watcher that has not heard yet.
        await stub(channel).SayHello(HelloRequest(name="latest"))
        assert [reply.message async for reply in sleeper] == ["Hello sleeper"]
        assert await process.ended(DEADLINE_S) == 0
    await registry.until("gone")


async def test_a_second_sigterm_shortens_the_grace(registry: Registry, server: Server) -> None:
    process = await server.start(registry.url, "--settle", "60s")
    async with grpc.aio.insecure_channel(await address(process)) as channel:
        await registry.until("passing")
        sleeper = asleep(channel, 60_000)
        await sleeper.initial_metadata()
        process.terminate()
        await process.logged("draining: 1 calls open")
        process.terminate()
        assert await process.ended(DEADLINE_S) == 0
        with pytest.raises(grpc.aio.AioRpcError):
            [reply async for reply in sleeper]
    await registry.until("gone")


async def test_a_crash_leaves_an_instance_that_turns_critical(registry: Registry, server: Server) -> None:
    process = await server.start(registry.url)
    await registry.until("passing")
    process.terminate(signal.SIGKILL)
    await registry.until("critical")


async def test_it_comes_back_under_its_old_id_without_its_old_maintenance(registry: Registry, server: Server) -> None:
    port = free_port()
    crashed = await server.start(registry.url, port=port)
    await registry.until("passing")
    await registry.put(f"/v1/agent/service/maintenance/{NAME}-127.0.0.1-{port}?enable=true")
    await registry.until("maintenance")
    crashed.terminate(signal.SIGKILL)
    await crashed.ended(DEADLINE_S)
    await server.start(registry.url, port=port)
    await registry.until("passing")


async def test_it_registers_again_when_the_registry_has_lost_it(registry: Registry, server: Server) -> None:
    process = await server.start(registry.url)
    port = (await address(process)).rpartition(":")[2]
    await registry.until("passing")
    await registry.put(f"/v1/agent/service/deregister/{NAME}-127.0.0.1-{port}")
    await registry.until("gone")
    await registry.until("passing")


async def test_it_serves_while_consul_is_away_and_registers_when_it_comes(server: Server) -> None:
    port = free_port()
    process = await server.start(f"http://127.0.0.1:{port}")
    async with grpc.aio.insecure_channel(await address(process)) as channel:
        await process.logged("cannot register")
        await stub(channel).SayHello(HelloRequest(name="a"))
    async with serving("127.0.0.1", port):
        await process.logged(f"registered {NAME}-127.0.0.1-")


async def test_it_leaves_though_consul_is_away(server: Server) -> None:
    process = await server.start(f"http://127.0.0.1:{free_port()}", "--settle", "0s")
    await address(process)
    assert await process.stop() == 0
    assert "going on without" in process.log.read_text()


async def test_a_port_in_use(registry: Registry, server: Server) -> None:
    first = await server.start(registry.url)
    port = int((await address(first)).rpartition(":")[2])
    second = await server.start(registry.url, port=port)
    assert await second.ended(DEADLINE_S) == 69
    assert f"cannot listen on port {port}" in second.log.read_text()


async def test_the_client(registry: Registry, server: Server, tmp_path: Path) -> None:
    target = await address(await server.start(registry.url))
    command = python("-m", "greeter.client", "-name=foo", "--count", "2", "--interval", "1ms", "--target")
    good = await Process.start("client", [*command, target], tmp_path, environment())
    assert await good.ended(DEADLINE_S) == 0
    lines = good.log.read_text().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"Hello foo (served by {NAME}, ")
    assert lines[2] == "2 calls, 0 failed"
    bad = await Process.start("client", [*command, f"127.0.0.1:{free_port()}"], tmp_path, environment())
    assert await bad.ended(DEADLINE_S) == 1
    assert "failed: UNAVAILABLE" in bad.log.read_text()
