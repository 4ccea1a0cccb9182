"""The checks that the registry runs itself: the same on the development registry and on Consul."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from aiohttp import web
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.contract.conftest import Api

pytestmark = pytest.mark.asyncio(loop_scope="session")

# A probe comes once a second at most; the rest is room for a busy machine.
DEADLINE_S = 10.0


async def until(api: Api, name: str, wanted: dict[str, str]) -> None:
    """Wait until the checks of `name` are as wanted, by blocking queries."""
    index = 0
    found: dict[str, str] = {}
    try:
        async with asyncio.timeout(DEADLINE_S):
            while found != wanted:
                answer = await api.get(f"/v1/health/checks/{name}?index={index}&wait=5s")
                index, found = answer.index, {check["CheckID"]: check["Status"] for check in answer.json}
    except TimeoutError:
        pytest.fail(f"{found} instead of {wanted}")


@asynccontextmanager
async def grpc_server() -> AsyncIterator[tuple[int, health.aio.HealthServicer]]:
    server = grpc.aio.server()
    states = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(states, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port, states
    finally:
        await server.stop(None)


@asynccontextmanager
async def http_server() -> AsyncIterator[int]:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=int(request.match_info["status"]), text="body")

    app = web.Application()
    app.router.add_get("/{status}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def test_probes_decide_over_the_status(api: Api) -> None:
    name = api.name()
    # Below one second, which is accepted and runs at one.
    often = {"Interval": "200ms", "Timeout": "500ms"}
    async with grpc_server() as (port, states), http_server() as web_port:
        await states.set("quiet", health_pb2.HealthCheckResponse.NOT_SERVING)
        targets = {
            "whole": {"GRPC": f"127.0.0.1:{port}"},
            "quiet": {"GRPC": f"127.0.0.1:{port}/quiet", "Status": "passing"},
            "unknown": {"GRPC": f"127.0.0.1:{port}/nope", "Status": "passing"},
            "refused": {"GRPC": "127.0.0.1:1", "Status": "passing"},
            "tcp": {"TCP": f"127.0.0.1:{port}"},
            "tcp-refused": {"TCP": "127.0.0.1:1", "Status": "passing"},
            "http": {"HTTP": f"http://127.0.0.1:{web_port}/200"},
            "http-busy": {"HTTP": f"http://127.0.0.1:{web_port}/429"},
            "http-broken": {"HTTP": f"http://127.0.0.1:{web_port}/500", "Status": "passing"},
        }
        checks = [{"CheckID": f"{name}-{key}", **often, **target} for key, target in targets.items()]
        await api.register(Name=name, Checks=checks)
        expected = dict.fromkeys(targets, "critical")
        expected |= {"whole": "passing", "tcp": "passing", "http": "passing", "http-busy": "warning"}
        await until(api, name, {f"{name}-{key}": status for key, status in expected.items()})

        await states.set("quiet", health_pb2.HealthCheckResponse.SERVING)
        await states.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        expected |= {"whole": "critical", "quiet": "passing"}
        await until(api, name, {f"{name}-{key}": status for key, status in expected.items()})
    await api.put(f"/v1/agent/service/deregister/{name}")


async def test_a_probed_check_takes_no_status_from_clients(api: Api) -> None:
    name = api.name()
    await api.register(Name=name, Check={"GRPC": "127.0.0.1:1", "Interval": "60s"})
    answer = await api.request("PUT", f"/v1/agent/check/pass/service:{name}")
    assert (answer.status, answer.text) == (500, f'CheckID "service:{name}" does not have associated TTL')


async def test_ttl_runs_out_and_a_pass_restarts_it(api: Api) -> None:
    name = api.name()
    await api.register(Name=name, Check={"TTL": "500ms", "Status": "passing"})
    await until(api, name, {f"service:{name}": "critical"})
    await api.put(f"/v1/agent/check/pass/service:{name}")
    await until(api, name, {f"service:{name}": "passing"})
    await until(api, name, {f"service:{name}": "critical"})


async def test_failures_before_critical_count_after_the_first_probe(api: Api) -> None:
    name = api.name()
    async with grpc_server() as (port, states):
        thresholds = {"FailuresBeforeWarning": 1, "FailuresBeforeCritical": 2}
        await api.register(Name=name, Check={"GRPC": f"127.0.0.1:{port}", "Interval": "1s", **thresholds})
        await until(api, name, {f"service:{name}": "passing"})
        await states.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        await until(api, name, {f"service:{name}": "warning"})
        await until(api, name, {f"service:{name}": "critical"})
    await api.put(f"/v1/agent/service/deregister/{name}")
