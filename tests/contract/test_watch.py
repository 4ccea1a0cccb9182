"""Blocking queries and their indexes: the same on the development registry and on Consul."""

import asyncio
import time

import pytest

from tests.contract.conftest import Answer, Api

pytestmark = pytest.mark.asyncio(loop_scope="session")

TTL = {"TTL": "60s", "Status": "passing"}
# How soon a change must reach a watcher. Consul itself takes up to 11 ms on a quiet machine.
SOON_S = 2.0
# Longer than the tests wait, so that only a change can have ended a query.
LONG = "wait=20s"


def watch(api: Api, name: str, index: int, query: str = LONG) -> "asyncio.Task[Answer]":
    return asyncio.ensure_future(api.health(name, f"index={index}&{query}"))


async def changed(watcher: "asyncio.Task[Answer]") -> Answer:
    async with asyncio.timeout(SOON_S):
        return await watcher


async def test_every_kind_of_change_ends_the_wait(api: Api) -> None:
    name = api.name()
    index = (await api.health(name)).index
    changes = [
        ("/v1/agent/service/register", {"Name": name, "Check": TTL}),
        (f"/v1/agent/check/fail/service:{name}", None),
        (f"/v1/agent/check/warn/service:{name}", None),
        (f"/v1/agent/check/pass/service:{name}", None),
        (f"/v1/agent/service/maintenance/{name}?enable=true", None),
        (f"/v1/agent/service/maintenance/{name}?enable=false", None),
        ("/v1/agent/check/register", {"Name": f"{name}-more", "ServiceID": name, **TTL}),
        (f"/v1/agent/check/deregister/{name}-more", None),
        ("/v1/agent/service/register", {"Name": name, "Port": 7, "Check": TTL}),
        (f"/v1/agent/service/deregister/{name}", None),
    ]
    before = (await api.health(name)).json
    for path, body in changes:
        watcher = watch(api, name, index)
        await api.put(path, body)
        answer = await changed(watcher)
        # A real agent passes on a registration in steps: first the service, then its checks.
        while answer.json == before:
            answer = await changed(watch(api, name, answer.index))
        # The backends of Consul may disagree on the index of a service that they do not know.
        if answer.json:
            assert answer.index > index, path
        index = answer.index
        settled = await api.health(name)
        before, index = settled.json, max(index, settled.index)


async def test_what_changes_nothing_does_not_end_the_wait(api: Api) -> None:
    name, other = api.name(), api.name("other")
    definition = {"Name": name, "Check": TTL}
    await api.register(**definition)
    settled = await api.health(name)
    started = time.monotonic()
    watcher = watch(api, name, settled.index, "wait=500ms")
    await api.register(Name=other, Check=TTL)
    await api.put(f"/v1/agent/service/deregister/{other}")
    await api.register(**definition)
    await api.put(f"/v1/agent/check/pass/service:{name}")
    answer = await watcher
    assert time.monotonic() - started >= 0.5, "it was woken"
    assert (answer.index, answer.json) == (settled.index, settled.json)


async def test_the_wait_ends_with_the_same_index(api: Api) -> None:
    name = api.name()
    await api.register(Name=name)
    known = await api.health(name)
    started = time.monotonic()
    answer = await api.health(name, f"index={known.index}&wait=300ms")
    assert 0.3 <= time.monotonic() - started < SOON_S
    assert (answer.index, answer.json) == (known.index, known.json)


async def test_an_old_index_returns_at_once(api: Api) -> None:
    name = api.name()
    await api.register(Name=name)
    await api.register(Name=name, Port=1)
    answer = await changed(watch(api, name, 1))
    assert len(answer.json) == 1


async def test_an_index_above_the_current_one_waits_in_full_and_returns_the_lower(api: Api) -> None:
    name = api.name()
    await api.register(Name=name)
    index = (await api.health(name)).index
    started = time.monotonic()
    watcher = watch(api, name, index + 100_000, "wait=600ms")
    await api.register(Name=name, Port=1)
    answer = await watcher
    assert time.monotonic() - started >= 0.6
    assert answer.index < index + 100_000


async def test_no_index_never_waits(api: Api) -> None:
    name = api.name()
    for query in (LONG, f"index=0&{LONG}", "stale", "consistent", "cached", "near=_agent"):
        async with asyncio.timeout(SOON_S):
            assert (await api.health(name, query)).json == []


@pytest.mark.parametrize(("query", "text"), [("index=1&wait=2", "Invalid wait time"), ("index=abc", "Invalid index")])
async def test_refused_queries(api: Api, query: str, text: str) -> None:
    answer = await api.get(f"/v1/health/service/{api.name()}?{query}")
    assert (answer.status, answer.text) == (400, text)


async def test_leaderhood_is_told_on_a_plain_read(api: Api) -> None:
    answer = await api.health(api.name())
    assert answer.headers["X-Consul-Knownleader"] == "true"


async def test_checks_of_a_service_can_be_watched(api: Api) -> None:
    name = api.name()
    await api.register(Name=name, Check=TTL)
    index = (await api.get(f"/v1/health/checks/{name}")).index
    watcher = asyncio.ensure_future(api.get(f"/v1/health/checks/{name}?index={index}&{LONG}"))
    await api.put(f"/v1/agent/check/fail/service:{name}?note=why")
    (check,) = (await changed(watcher)).json
    assert (check["Status"], check["Output"]) == ("critical", "why")
