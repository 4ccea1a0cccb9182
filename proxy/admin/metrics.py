"""Turns plain counters into metric families when Prometheus scrapes.

Nothing here is touched by a call: the relay adds to integers, and one scrape reads them all. Names and labels are the
product's interface.
"""

import asyncio
import platform
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from proxy.balance.instance import CRITICAL, MAINTENANCE, PASSING, WARNING
from proxy.discovery import Discovery
from proxy.relay.cluster import Cluster
from proxy.relay.counters import BUCKETS, GRPC_CODES, MethodCounters
from proxy.relay.pool import Pool
from proxy.version import VERSION, core, event_loop

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
LEAVING: Final = "leaving"
# All of them are always there, so that a state nobody is in reads 0.
STATES: Final = (PASSING, WARNING, CRITICAL, MAINTENANCE, LEAVING)

# Methods written in one go: 21 lines each of a histogram, 3 us a line.
_ROWS_AT_ONCE: Final = 16
_METHOD: Final = ("service", "grpc_service", "grpc_method")


class Metrics:
    """The metrics of one sidecar, and nothing else: not those of prometheus-client's global registry."""

    def __init__(self, cluster: Cluster, discovery: Discovery) -> None:
        self._collectors: tuple[Collector, ...] = (
            _SidecarCollector(cluster, discovery),
            ProcessCollector(registry=None),
        )

    async def render(self) -> bytes:
        """All metrics in Prometheus' text format, of `CONTENT_TYPE`.

        Hundreds of methods take 50 ms to write, and calls go through this same thread: they get their turn after
        each part, a millisecond at most.
        """
        parts: list[bytes] = []
        before = ""
        for collector in self._collectors:
            for family in collector.collect():
                text = generate_latest(_Only(family))
                if family.name == before:  # more of the same family: its HELP and TYPE stand already
                    text = text.split(b"\n", 2)[2]
                before = family.name
                parts.append(text)
                await asyncio.sleep(0)
        return b"".join(parts)


class _Only(Collector):
    """One family as `generate_latest` takes it."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


class _SidecarCollector(Collector):
    def __init__(self, cluster: Cluster, discovery: Discovery) -> None:
        self._cluster = cluster
        self._discovery = discovery
        self._build = (VERSION, core(), event_loop(), platform.python_version())

    def collect(self) -> Iterable[Metric]:
        """The families in parts: a large one comes as several of the same name, one after the other."""
        yield from self._calls()
        yield from self._upstream()
        yield from self._failures()
        yield from self._found()
        build = GaugeMetricFamily(
            "sidecar_build_info",
            "Always 1; the labels say what runs.",
            labels=("version", "core", "event_loop", "python"),
        )
        build.add_metric(self._build, 1)
        yield build

    def _calls(self) -> Iterable[Metric]:
        for family in (self._started, self._handled, self._in_flight, self._duration):
            rows = self._cluster.counters.rows
            for at in range(0, len(rows), _ROWS_AT_ONCE):
                yield family(rows[at : at + _ROWS_AT_ONCE])

    def _labels(self, row: MethodCounters) -> tuple[str, str, str]:
        return self._cluster.service, row.grpc_service, row.grpc_method

    def _started(self, rows: Sequence[MethodCounters]) -> Metric:
        family = CounterMetricFamily("sidecar_rpcs_started", "Calls begun by clients.", labels=_METHOD)
        for row in rows:
            family.add_metric(self._labels(row), int(row.started))
        return family

    def _handled(self, rows: Sequence[MethodCounters]) -> Metric:
        family = CounterMetricFamily(
            "sidecar_rpcs_handled", "Calls answered, by the gRPC code the client got.", labels=(*_METHOD, "grpc_code")
        )
        for row in rows:
            _add_codes(family, self._labels(row), row.codes)
        return family

    def _in_flight(self, rows: Sequence[MethodCounters]) -> Metric:
        family = GaugeMetricFamily("sidecar_rpcs_in_flight", "Calls begun and not answered yet.", labels=_METHOD)
        for row in rows:
            family.add_metric(self._labels(row), int(row.started - row.handled))
        return family

    def _duration(self, rows: Sequence[MethodCounters]) -> Metric:
        family = HistogramMetricFamily(
            "sidecar_rpc_duration_seconds", "Time from a call's first byte to its answer's end.", labels=_METHOD
        )
        for row in rows:
            family.add_metric(self._labels(row), _cumulated(_RPC_BOUNDS, row.buckets), row.seconds)
        return family

    def _upstream(self) -> Iterable[Metric]:
        service = self._cluster.service
        finished = CounterMetricFamily(
            "sidecar_upstream_rpcs",
            "Calls finished by each instance, by gRPC code.",
            labels=("service", "instance", "grpc_code"),
        )
        connections = GaugeMetricFamily(
            "sidecar_upstream_connections", "Open connections to each instance.", labels=("service", "instance")
        )
        instances = GaugeMetricFamily(
            "sidecar_instances",
            "Instances by what the registry says; leaving are gone from it and finish their calls.",
            labels=("service", "state"),
        )
        by_state = dict.fromkeys(STATES, 0)
        by_key: dict[str, list[Pool]] = {}
        for pool in self._cluster.endpoints:
            by_state[LEAVING if pool.leaving else pool.instance.state] += 1
            # One that moved to another address is there twice, leaving and new, under one key.
            by_key.setdefault(pool.instance.key, []).append(pool)
        for key, pools in by_key.items():
            codes = [sum(counts) for counts in zip(*(pool.codes for pool in pools), strict=True)]
            _add_codes(finished, (service, key), codes)
            connections.add_metric((service, key), sum(len(pool.connections) for pool in pools))
        for state, count in by_state.items():
            instances.add_metric((service, state), count)
        return finished, connections, instances

    def _failures(self) -> Iterable[Metric]:
        counters = self._cluster.counters
        replays = CounterMetricFamily(
            "sidecar_replays",
            "Calls sent to another instance, as the first provably did not process them.",
            labels=("reason",),
        )
        lost = CounterMetricFamily(
            "sidecar_lost_rpcs", "Calls failed for want of an instance or a connection.", labels=("cause",)
        )
        protocol = CounterMetricFamily(
            "sidecar_protocol_errors", "Violations of HTTP/2 by peers.", labels=("side", "code")
        )
        octets = CounterMetricFamily(
            "sidecar_bytes", "Octets on the sockets of clients and instances.", labels=("direction",)
        )
        for reason, count in counters.replays.items():
            replays.add_metric((reason,), count)
        for cause, count in counters.lost.items():
            lost.add_metric((cause,), count)
        for key, count in counters.protocol_errors.items():
            protocol.add_metric(key, count)
        for side, traffic in (("downstream", counters.downstream), ("upstream", counters.upstream)):
            octets.add_metric((f"{side}_received",), int(traffic.read))
            octets.add_metric((f"{side}_sent",), int(traffic.written))
        return replays, lost, protocol, octets

    def _found(self) -> Iterable[Metric]:
        age = self._discovery.age()
        errors = CounterMetricFamily(
            "sidecar_discovery_errors", "Failed attempts to learn the instances.", labels=("reason",)
        )
        for reason, count in self._discovery.errors.items():
            errors.add_metric((reason,), count)
        propagation = self._discovery.propagation
        return (
            GaugeMetricFamily(
                "sidecar_discovery_age_seconds",
                "Time since the list of instances was last confirmed; +Inf before the first time.",
                value=float("inf") if age is None else age,
            ),
            HistogramMetricFamily(
                "sidecar_discovery_propagation_seconds",
                "Time from the arrival of a change until calls are routed accordingly.",
                buckets=_cumulated(_bounds(propagation.bounds), propagation.counts),
                sum_value=propagation.sum,
            ),
            errors,
        )


def _bounds(bounds: Sequence[float]) -> tuple[str, ...]:
    return (*(str(bound) for bound in bounds), "+Inf")


_RPC_BOUNDS: Final = _bounds(BUCKETS)


def _cumulated(bounds: Sequence[str], counts: Sequence[int]) -> list[tuple[str, float]]:
    return list(zip(bounds, accumulate(counts), strict=True))


def _add_codes(family: CounterMetricFamily, labels: tuple[str, ...], codes: Sequence[int]) -> None:
    """Add the codes that occurred, and OK always: a rate needs a series from the beginning."""
    for name, count in zip(GRPC_CODES, codes, strict=True):
        if count or name == "OK":
            family.add_metric((*labels, name), count)
