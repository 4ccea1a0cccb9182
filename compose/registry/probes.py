"""Runs the checks: gRPC, HTTP and TCP probes, and the clock of TTL checks."""

import asyncio
import logging
import random
import time

import aiohttp
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from compose.registry.catalog import Catalog, Check
from compose.registry.definitions import CRITICAL, MINIMUM_INTERVAL_S, PASSING, WARNING, CheckDefinition

REAP_INTERVAL_S = 5.0
"""How often instances that stay critical are looked for."""
OUTPUT_LIMIT = 4096
"""Bytes kept of the body that an HTTP check got, as in Consul."""

log = logging.getLogger("registry")


class Outcome:
    """Turns probe results into a status, with the thresholds of a check; the first result decides alone."""

    def __init__(self, definition: CheckDefinition) -> None:
        self._definition = definition
        self._successes = definition.success_before_passing
        self._failures = definition.failures_before_critical

    def judge(self, result: str, current: str) -> str:
        """Return the status after `result` (a status as well), which is `current` below the thresholds."""
        definition = self._definition
        if result != CRITICAL:
            self._successes += 1
            self._failures = 0
            return result if self._successes > definition.success_before_passing else current
        self._failures += 1
        self._successes = 0
        if self._failures >= max(definition.failures_before_critical, 1):
            return CRITICAL
        return WARNING if self._failures >= max(definition.failures_before_warning, 1) else current


class Runner:
    """Keeps one task per check of a catalog. Call `sync` after every change of what is registered."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._tasks: dict[str, tuple[CheckDefinition, asyncio.Task[None]]] = {}
        self._touched: dict[str, asyncio.Event] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Run the checks until cancelled; ends their tasks then."""
        critical_since: dict[str, float] = {}
        try:
            while True:
                await asyncio.sleep(REAP_INTERVAL_S)
                self._reap(critical_since)
        finally:
            running = [task for _, task in self._tasks.values()] + list(self._ending)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def sync(self) -> None:
        """Start the tasks of new checks and end those of checks that are gone; a new definition starts anew."""
        wanted = {check.id: check for check in self._catalog.checks.values() if check.definition}
        for check_id, (definition, task) in list(self._tasks.items()):
            known = wanted.get(check_id)
            if known is None or known.definition is not definition:
                del self._tasks[check_id]
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)
                task.cancel()
        for check_id, check in wanted.items():
            if check_id not in self._tasks and check.definition:
                job = self._expire(check) if check.definition.kind == "ttl" else self._probe(check)
                self._tasks[check_id] = (check.definition, asyncio.ensure_future(job))

    def touch(self, check_id: str) -> None:
        """Start the clock of a TTL check again."""
        if check_id in self._touched:
            self._touched[check_id].set()

    async def _expire(self, check: Check) -> None:
        assert check.definition is not None
        touched = self._touched[check.id] = asyncio.Event()
        while True:
            try:
                async with asyncio.timeout(check.definition.ttl):
                    await touched.wait()
                touched.clear()
            except TimeoutError:
                self._catalog.update(check, CRITICAL, "TTL expired")
                await touched.wait()

    async def _probe(self, check: Check) -> None:
        definition = check.definition
        assert definition is not None
        interval = max(definition.interval, MINIMUM_INTERVAL_S)
        outcome = Outcome(definition)
        # The first probe is staggered, as in Consul.
        await asyncio.sleep(random.uniform(0, interval))
        while True:
            result, output = await probe(definition)
            status = outcome.judge(result, check.status)
            if status != check.status:
                log.info("check %s is %s: %s", check.id, status, output)
            self._catalog.update(check, status, output)
            await asyncio.sleep(interval)

    def _reap(self, critical_since: dict[str, float]) -> None:
        now = time.monotonic()
        for check in list(self._catalog.checks.values()):
            if check.status != CRITICAL or not check.definition or not check.definition.reap_after:
                critical_since.pop(check.id, None)
                continue
            since = critical_since.setdefault(check.id, now)
            if now - since > check.definition.reap_after and check.service_id in self._catalog.services:
                log.info("%s was critical for too long: deregistered", check.service_id)
                self._catalog.deregister(check.service_id)
                self.sync()


async def probe(definition: CheckDefinition) -> tuple[str, str]:
    """Probe once; returns the status and an output for people."""
    kinds = {"grpc": _probe_grpc, "http": _probe_http, "tcp": _probe_tcp}
    return await kinds[definition.kind](definition)


async def _probe_grpc(definition: CheckDefinition) -> tuple[str, str]:
    target, _, service = definition.target.partition("/")
    # A connection of its own for each probe, and none through a proxy of the environment.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    try:
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=definition.timeout
            )
    except grpc.aio.AioRpcError as error:
        return CRITICAL, f"gRPC check {definition.target}: {error.code().name}: {error.details()}"
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return PASSING, f"gRPC check {definition.target}: success"
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return CRITICAL, f"gRPC check {definition.target}: {name}"


async def _probe_http(definition: CheckDefinition) -> tuple[str, str]:
    timeout = aiohttp.ClientTimeout(total=definition.timeout)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.request(definition.method, definition.target, allow_redirects=True) as answer,
        ):
            body = await answer.content.read(OUTPUT_LIMIT)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        return CRITICAL, f"HTTP {definition.method} {definition.target}: {error or type(error).__name__}"
    text = body.decode(errors="replace")
    output = f"HTTP {definition.method} {definition.target}: {answer.status} {answer.reason} Output: {text}"
    if 200 <= answer.status < 300:
        return PASSING, output
    return (WARNING if answer.status == 429 else CRITICAL), output


async def _probe_tcp(definition: CheckDefinition) -> tuple[str, str]:
    host, _, port = definition.target.rpartition(":")
    try:
        async with asyncio.timeout(definition.timeout):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        writer.close()
    except (OSError, ValueError, TimeoutError) as error:
        return CRITICAL, f"TCP connect {definition.target}: {error or type(error).__name__}"
    return PASSING, f"TCP connect {definition.target}: Success"
