import asyncio
import subprocess

import pytest

from proxy.admin.metrics import Metrics
from proxy.discovery import Discovery
from proxy.relay.cluster import Cluster
from tests.tools import require
from tests.unit.admin.parts import ScriptedDiscovery, busy, cluster, instance


def _rendered(target: Cluster, discovery: Discovery) -> str:
    return asyncio.run(Metrics(target, discovery).render()).decode()


def _samples(text: str) -> dict[str, float]:
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


@pytest.fixture(scope="module")
def samples() -> dict[str, float]:
    return _samples(_rendered(*busy()))


@pytest.mark.parametrize("sidecar", ["fresh", "busy", "crowded"])
def test_promtool_has_nothing_to_say(sidecar: str) -> None:
    promtool = require("promtool")
    fresh, crowded = (cluster(), ScriptedDiscovery()), (_crowded(), ScriptedDiscovery())
    text = _rendered(*{"fresh": fresh, "busy": busy(), "crowded": crowded}[sidecar])
    lint = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=20, check=False
    )
    assert (lint.returncode, lint.stdout, lint.stderr) == (0, "", "")


def test_all_metrics_of_the_interface_are_there_from_the_start() -> None:
    text = _rendered(cluster(), ScriptedDiscovery())
    types = dict(line.split(" ")[2:] for line in text.splitlines() if line.startswith("# TYPE"))
    assert {name: kind for name, kind in types.items() if name.startswith("sidecar_")} == {
        "sidecar_rpcs_started_total": "counter",
        "sidecar_rpcs_handled_total": "counter",
        "sidecar_rpc_duration_seconds": "histogram",
        "sidecar_rpcs_in_flight": "gauge",
        "sidecar_upstream_rpcs_total": "counter",
        "sidecar_upstream_connections": "gauge",
        "sidecar_instances": "gauge",
        "sidecar_replays_total": "counter",
        "sidecar_lost_rpcs_total": "counter",
        "sidecar_discovery_age_seconds": "gauge",
        "sidecar_discovery_propagation_seconds": "histogram",
        "sidecar_discovery_errors_total": "counter",
        "sidecar_protocol_errors_total": "counter",
        "sidecar_bytes_total": "counter",
        "sidecar_build_info": "gauge",
    }
    assert {"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"} <= set(types)


@pytest.mark.parametrize(
    ("sample", "value"),
    [
        ('sidecar_rpcs_started_total{grpc_method="SayHello",grpc_service="helloworld.Greeter",service="greeter"}', 3),
        ('sidecar_rpcs_in_flight{grpc_method="SayHello",grpc_service="helloworld.Greeter",service="greeter"}', 1),
        (
            'sidecar_rpcs_handled_total{grpc_code="OK",grpc_method="SayHello",grpc_service="helloworld.Greeter",'
            'service="greeter"}',
            1,
        ),
        (
            'sidecar_rpcs_handled_total{grpc_code="NotFound",grpc_method="SayHello",grpc_service="helloworld.Greeter",'
            'service="greeter"}',
            1,
        ),
        (
            'sidecar_rpcs_handled_total{grpc_code="Unauthenticated",grpc_method="d\\ne",grpc_service="a\\"b\\\\c",'
            'service="greeter"}',
            1,
        ),
        ('sidecar_rpcs_started_total{grpc_method="_OTHER",grpc_service="_OTHER",service="greeter"}', 0),
        ('sidecar_upstream_rpcs_total{grpc_code="OK",instance="vm/a",service="greeter"}', 5),
        ('sidecar_upstream_rpcs_total{grpc_code="Unavailable",instance="vm/a",service="greeter"}', 2),
        ('sidecar_upstream_rpcs_total{grpc_code="OK",instance="vm/b",service="greeter"}', 0),
        ('sidecar_upstream_connections{instance="vm/a",service="greeter"}', 1),
        ('sidecar_upstream_connections{instance="vm/b",service="greeter"}', 0),
        ('sidecar_upstream_connections{instance="vm/gone",service="greeter"}', 1),
        ('sidecar_instances{service="greeter",state="passing"}', 2),
        ('sidecar_instances{service="greeter",state="warning"}', 1),
        ('sidecar_instances{service="greeter",state="critical"}', 1),
        ('sidecar_instances{service="greeter",state="maintenance"}', 1),
        ('sidecar_instances{service="greeter",state="leaving"}', 2),
        ('sidecar_replays_total{reason="goaway"}', 1),
        ('sidecar_lost_rpcs_total{cause="connection_lost"}', 1),
        ('sidecar_protocol_errors_total{code="PROTOCOL_ERROR",side="downstream"}', 1),
        ('sidecar_bytes_total{direction="downstream_received"}', 10),
        ('sidecar_bytes_total{direction="downstream_sent"}', 20),
        ('sidecar_bytes_total{direction="upstream_received"}', 30),
        ('sidecar_bytes_total{direction="upstream_sent"}', 40),
        ("sidecar_discovery_age_seconds", 1.5),
        ('sidecar_discovery_errors_total{reason="acl"}', 2),
        ('sidecar_discovery_propagation_seconds_bucket{le="0.001"}', 0),
        ('sidecar_discovery_propagation_seconds_bucket{le="0.0025"}', 1),
        ("sidecar_discovery_propagation_seconds_count", 1),
        ("sidecar_discovery_propagation_seconds_sum", 0.002),
    ],
)
def test_samples(samples: dict[str, float], sample: str, value: float) -> None:
    assert samples[sample] == value


def test_buckets_are_cumulative_and_end_with_the_count(samples: dict[str, float]) -> None:
    labels = 'grpc_method="SayHello",grpc_service="helloworld.Greeter"'
    name = "sidecar_rpc_duration_seconds"

    def bucket(bound: str) -> float:
        return samples[f'{name}_bucket{{{labels},le="{bound}",service="greeter"}}']

    assert [bucket(bound) for bound in ("0.0005", "0.25", "0.5", "10.0", "+Inf")] == [1, 1, 2, 2, 2]
    assert samples[f'{name}_count{{{labels},service="greeter"}}'] == 2
    assert samples[f'{name}_sum{{{labels},service="greeter"}}'] == pytest.approx(0.3004)


def test_an_instance_that_moved_has_one_series_for_both_addresses(samples: dict[str, float]) -> None:
    # The old address still has its connection, the new one none yet; two equal series would fail the scrape.
    assert samples['sidecar_upstream_connections{instance="vm/moved",service="greeter"}'] == 1
    assert samples['sidecar_upstream_rpcs_total{grpc_code="OK",instance="vm/moved",service="greeter"}'] == 3


def test_an_age_before_the_first_answer_is_infinite() -> None:
    text = _rendered(cluster(), ScriptedDiscovery())
    assert "sidecar_discovery_age_seconds +Inf\n" in text


def test_build_info_says_what_runs(samples: dict[str, float]) -> None:
    (line,) = [name for name in samples if name.startswith("sidecar_build_info")]
    assert 'version="0.' in line
    assert 'core="compiled"' in line or 'core="interpreted"' in line
    assert samples[line] == 1


def _crowded() -> Cluster:
    target = cluster()
    for number in range(1000):
        target.counters.learn(str(number).encode(), f"/package.Service/Method{number}").started += 1
    return target


def test_the_number_of_methods_is_bounded() -> None:
    samples = _samples(_rendered(_crowded(), ScriptedDiscovery()))
    rows = [value for name, value in samples.items() if name.startswith("sidecar_rpcs_started_total")]
    assert len(rows) == 256
    assert sum(rows) == 1000


def test_two_sidecars_in_one_process_do_not_mix() -> None:
    first, second = cluster(), cluster()
    first.apply([instance("a")])
    Metrics(first, ScriptedDiscovery())
    assert 'instance="vm/a"' not in _rendered(second, ScriptedDiscovery())


async def test_calls_get_their_turn_while_hundreds_of_methods_are_written() -> None:
    metrics, turns = Metrics(_crowded(), ScriptedDiscovery()), 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(others())
    await metrics.render()
    task.cancel()
    await asyncio.wait([task])
    assert turns > 50
