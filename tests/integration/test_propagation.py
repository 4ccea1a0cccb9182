"""How soon a change in Consul governs the calls, against a watcher of our own beside the sidecar."""

import contextlib
import http.client
import json
import math
import threading
import time

from tests.load import Call, Load
from tests.stack import Consul, Greeter, Sidecar, closing, get, until

CHANGES = 100  # half of them into maintenance
PERIOD = 0.15  # seconds between two; the sidecar takes bursts of ten, then one in 0.1 s
LIMIT = 0.05  # seconds, for 99 of 100
UNARY = 400  # calls a second


class Watcher(threading.Thread):
    """Follows one service by blocking queries, and notes when Consul told of each change of one instance."""

    def __init__(self, port: int, watched: str) -> None:
        super().__init__(daemon=True)
        self.changes: list[tuple[float, bool]] = []
        """When the answer came, and whether the instance was in traffic; the first is the state at the start."""
        self._watched = watched
        # Unlike the sidecar, without any pace of its own.
        self._consul = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def run(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):  # Consul ends with the test
            self._follow()

    def _follow(self) -> None:
        index = "0"
        while True:
            self._consul.request("GET", f"/v1/health/service/greeter?index={index}&wait=5s")
            answer = self._consul.getresponse()
            body = answer.read()
            now = time.monotonic()
            index = answer.headers["X-Consul-Index"]
            checks = [
                check
                for entry in json.loads(body)
                if entry["Service"]["ID"] == self._watched
                for check in entry["Checks"]
            ]
            serving = bool(checks) and all(check["Status"] == "passing" for check in checks)
            if not self.changes or self.changes[-1][1] != serving:
                self.changes.append((now, serving))


def percentile(values: list[float], share: float) -> float:
    """Nearest rank."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def lag(calls: list[Call], changed: float, until_next: float, serving: bool) -> float:
    """Seconds after a change until calls went as it says.

    Into traffic: until the first call that went there was started. Out of it: until the last was. A call that was
    still open when the next change was asked for says nothing, as nobody knows which of the two it was routed by.
    """
    started = [call.started for call in calls if changed < call.started and call.ended < until_next]
    if serving:
        return min(started, default=math.inf) - changed
    return max(started, default=changed) - changed


def test_calls_follow_consul_within_50_ms() -> None:
    with contextlib.ExitStack() as stack:
        consul = Consul()
        stack.enter_context(closing(consul))
        stays, toggled = (Greeter(f"greeter-{number}", consul.url) for number in range(2))
        stack.enter_context(closing(stays, toggled))
        consul.passing(2)
        sidecar = Sidecar("--service", "greeter", "--consul", consul.url)
        stack.enter_context(closing(sidecar))
        sidecar.connected(2)
        [instance] = [e["Service"]["ID"] for e in consul.instances() if e["Service"]["ID"].startswith(toggled.name)]
        watcher = Watcher(consul.port, instance)
        watcher.start()
        until(lambda: watcher.changes, "the watcher's first answer")
        load = Load(sidecar.target, unary=UNARY)
        stack.enter_context(closing(load))

        url = f"{consul.url}/v1/agent/service/maintenance/{instance}?enable="
        asked: list[float] = []
        began = time.monotonic()
        for number in range(CHANGES):
            until(lambda: time.monotonic() > began + number * PERIOD, "its turn")  # noqa: B023 - called at once
            asked.append(time.monotonic())
            assert get(url + ("true" if number % 2 == 0 else "false"), method="PUT")[0] == 200
            until(lambda: len(watcher.changes) == number + 2, "the watcher's next answer")  # noqa: B023
        until(lambda: time.monotonic() > began + CHANGES * PERIOD, "the last one's period")
        ledger = load.finish()
        observed = sidecar.total("sidecar_discovery_propagation_seconds_count")

        ledger.none_failed()
        assert ledger.rate() > 0.9 * UNARY
        calls = [call for call in ledger.calls if call.server == toggled.name]
        # A state ends when the next is asked for: the sidecar may hear of that before our watcher does.
        ends = [*asked[1:], began + CHANGES * PERIOD]
        lags: dict[bool, list[float]] = {True: [], False: []}
        for (changed, serving), end in zip(watcher.changes[1:], ends, strict=True):
            lags[serving].append(lag(calls, changed, end, serving))
        assert [len(found) for found in lags.values()] == [CHANGES // 2] * 2
        everything = lags[True] + lags[False]
        for name, found in (("into traffic", lags[True]), ("out of it", lags[False]), ("all", everything)):
            p50, p99 = (percentile(found, share) * 1000 for share in (0.5, 0.99))
            print(f"{name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {max(found) * 1000:.1f} ms")
        assert percentile(everything, 0.99) <= LIMIT, sorted(everything)[-5:]
        assert observed == CHANGES + 1  # the sidecar saw each, and its first list
