"""What the sidecar is up to, for people and probes. Pure: reads the parts, changes nothing."""

from typing import Any

from proxy.discovery import Discovery, absence
from proxy.relay.cluster import Cluster
from proxy.relay.counters import GRPC_CODES
from proxy.relay.pool import Pool


def not_ready(cluster: Cluster, discovery: Discovery, draining: bool) -> str:
    """Return why no call should be sent here now, or an empty string."""
    if draining:
        return "draining"
    routable = [pool for pool in cluster.endpoints if pool.routable()]
    if any(pool.is_connected() for pool in routable):
        return ""
    error = next((f": {pool.problem()}" for pool in routable if pool.problem()), "")
    if routable:
        return f"none of {len(routable)} routable instances of {cluster.service} is connected{error}"
    if not cluster.endpoints:
        return absence(discovery, cluster.service)
    return f"no healthy instance of {cluster.service}: {_states(cluster)}"


def describe(cluster: Cluster, discovery: Discovery, reason: str) -> dict[str, Any]:
    """Return the state of service, instances and discovery as JSON takes it; `reason` is why it is not ready."""
    rows = cluster.counters.rows
    started = sum(row.started for row in rows)
    handled = sum(row.handled for row in rows)
    return {
        "service": cluster.service,
        "ready": not reason,
        "reason": reason,
        "calls": {
            "started": started,
            "handled": handled,
            "in_flight": started - handled,
            "waiting": cluster.waiting,
        },
        "instances": [_instance(pool) for pool in cluster.endpoints],
        "discovery": {
            "source": discovery.source,
            "age_seconds": discovery.age(),
            "last_error": discovery.last_error,
            "errors": discovery.errors,
        },
    }


def _instance(pool: Pool) -> dict[str, Any]:
    instance = pool.instance
    host = f"[{instance.host}]" if ":" in instance.host else instance.host
    return {
        "key": instance.key,
        "address": f"{host}:{instance.port}",
        "state": instance.state,
        "routable": pool.routable(),
        "leaving": pool.leaving,
        "connected": pool.is_connected(),
        "connections": len(pool.connections),
        "open_calls": pool.open_calls,
        "finished_calls": {name: count for name, count in zip(GRPC_CODES, pool.codes, strict=True) if count},
        "tags": list(instance.tags),
        "note": instance.note,
        "last_error": pool.problem(),
    }


def _states(cluster: Cluster) -> str:
    counts: dict[str, int] = {}
    for pool in cluster.endpoints:
        state = "leaving" if pool.leaving else pool.instance.state
        counts[state] = counts.get(state, 0) + 1
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
