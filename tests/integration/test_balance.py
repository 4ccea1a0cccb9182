"""Strict turns: calls of many connections are spread evenly, to the call, also while instances come and go."""

import itertools
import json
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc
import psutil
import pytest

from tests.integration.echo_server import SERVED_BY, EchoServer, dial
from tests.stack import Consul, Sidecar, closing, until

CALLS = 10_000
CONNECTIONS = 7
IN_FLIGHT = 8
"""Of each connection."""


@pytest.fixture(scope="module")
def instances() -> Iterator[Sequence[EchoServer]]:
    servers = [EchoServer(name) for name in ("one", "two", "three")]
    with closing(*servers):
        yield servers


def call(channel: grpc.Channel, count: int) -> Counter[str]:
    """Make calls with a few in flight; by whom they were served."""
    served: Counter[str] = Counter()
    unary = channel.unary_unary("/test.Echo/Unary")
    for batch in range(0, count, IN_FLIGHT):
        futures = [unary.future(b"hi", timeout=30) for _ in range(min(IN_FLIGHT, count - batch))]
        for future in futures:
            assert future.result() == b"hi"
            served[dict(future.initial_metadata())[SERVED_BY]] += 1
    return served


def shares(total: int, parts: int) -> list[int]:
    """`total` in `parts` that differ by one at most."""
    return [total * (number + 1) // parts - total * number // parts for number in range(parts)]


def call_all(channels: Sequence[grpc.Channel], count: int) -> Counter[str]:
    """Spread calls over all connections at the same time."""
    with ThreadPoolExecutor(len(channels)) as threads:
        return sum(threads.map(call, channels, shares(count, len(channels))), Counter())


def clients_of(sidecar: Sidecar) -> int:
    """Open connections to its listener."""
    port = int(sidecar.target.rpartition(":")[2])
    connections = psutil.Process(sidecar.pid).net_connections("tcp")
    return sum(each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED for each in connections)


def test_ten_thousand_calls_of_seven_connections(instances: Sequence[EchoServer]) -> None:
    flags = itertools.chain.from_iterable(("--endpoint", instance.address) for instance in instances)
    sidecar = Sidecar(*flags)
    with closing(sidecar):
        sidecar.connected(len(instances))
        channels = [dial(sidecar.target) for _ in range(CONNECTIONS)]
        served = call_all(channels, CALLS)
        assert clients_of(sidecar) == CONNECTIONS
        for channel in channels:
            channel.close()
        print(dict(served))
        assert sorted(served.values()) == shares(CALLS, 3)
        for instance in instances:
            counted = sidecar.total("sidecar_upstream_rpcs_total", instance=instance.address, grpc_code="OK")
            assert counted == served[instance.name]
        assert sidecar.total("sidecar_rpcs_handled_total", grpc_code="OK") == CALLS


class Registered:
    """An instance's registration in Consul, without a check."""

    def __init__(self, consul: Consul, instance: EchoServer) -> None:
        host, _, port = instance.address.rpartition(":")
        self._url = f"{consul.url}/v1/agent/service"
        self._name = instance.name
        body = {"ID": self._name, "Name": "echo", "Address": host, "Port": int(port)}
        self._put("register", body)

    def drop(self) -> None:
        self._put(f"deregister/{self._name}", {})

    def _put(self, path: str, body: dict[str, object]) -> None:
        request = urllib.request.Request(f"{self._url}/{path}", json.dumps(body).encode(), method="PUT")
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200


def test_one_call_off_per_change_of_membership(instances: Sequence[EchoServer]) -> None:
    """Between two changes turns are exact, so over all of them each is off by one per change at most."""
    consul = Consul()
    with closing(consul):
        one, two = (Registered(consul, instance) for instance in instances[:2])
        sidecar = Sidecar("--service", "echo", "--consul", consul.url)
        with closing(sidecar):
            channels = [dial(sidecar.target) for _ in range(CONNECTIONS)]
            sidecar.connected(2)
            assert sorted(call_all(channels, 501).values()) == [250, 251]
            Registered(consul, instances[2])
            sidecar.connected(3)
            assert sorted(call_all(channels, 500).values()) == [166, 167, 167]
            two.drop()
            until(lambda: len(sidecar.status()["instances"]) == 2, "two instances left")
            served = call_all(channels, 501)
            assert sorted(served.values()) == [250, 251]
            assert served.keys() == {"one", "three"}
            one.drop()
            until(lambda: len(sidecar.status()["instances"]) == 1, "one instance left")
            assert call_all(channels, 100) == {"three": 100}
            for channel in channels:
                channel.close()
