import asyncio
from collections.abc import Sequence

from proxy.balance.instance import Instance
from proxy.config import load
from proxy.discovery import discover
from proxy.discovery.static import StaticList


async def test_endpoints_are_applied_once_and_never_age() -> None:
    discovery = discover(load(["--endpoint", "10.0.0.1:1", "--endpoint", "[::1]:2"], {}))
    assert isinstance(discovery, StaticList)
    assert discovery.age() is None
    applied: list[Sequence[Instance]] = []
    task = asyncio.ensure_future(discovery.run(applied.append))
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])
    assert [[(item.key, item.host, item.port, item.routable) for item in items] for items in applied] == [
        [("10.0.0.1:1", "10.0.0.1", 1, True), ("[::1]:2", "::1", 2, True)]
    ]
    assert discovery.age() == 0.0
    assert discovery.errors == {}
