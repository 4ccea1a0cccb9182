"""Faults of Consul itself under load, mostly behind a client agent of three servers: no call fails."""

import contextlib
import itertools
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from tests.cluster import Agent, Cluster, running
from tests.load import Ledger, Load
from tests.stack import Greeter, Process, Sidecar, closing, until

UNARY = 200  # calls a second
MESSAGES = 20  # of a stream that takes two seconds
SLOWEST = 1.0  # seconds; a call without an instance to go to waits for up to five
# Behind a client agent a watcher may hear 130 ms later than the agent that was told.
DRAIN = ("--settle", "1s", "--grace", "10s")
Started = TypeVar("Started", bound=Process)

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    three = Cluster(tmp_path_factory.mktemp("consul"))
    with running(three.agents):
        three.start()
        yield three


class Scene:
    """Two greeters in a Consul, a sidecar, and calls through it. Each has a service of its own."""

    numbers = itertools.count()

    def __init__(self, agent: Agent, stack: contextlib.ExitStack, env: dict[str, str] | None = None) -> None:
        self.agent = agent
        self.service = f"greeter-{next(self.numbers)}"
        self._stack = stack
        self.greeters = [self.deploy(name) for name in ("a", "b")]
        agent.passing(self.service, 2)
        self.sidecar = self.keep(Sidecar("--service", self.service, "--consul", agent.url, env=env))
        self.sidecar.connected(2)
        self.load = self.keep(Load(self.sidecar.target, unary=UNARY, asleep=5, streams=2, messages=MESSAGES))

    def deploy(self, name: str) -> Greeter:
        return self.keep(Greeter(name, self.agent.url, "--service", self.service, *DRAIN))

    def keep(self, process: Started) -> Started:
        self._stack.enter_context(closing(process))
        return process

    def id(self, greeter: Process) -> str:
        """The instance's id in Consul."""
        match = re.search(r"registered (\S+)", greeter.output)
        assert match is not None
        return match[1]

    def errors(self, reason: str) -> float:
        return self.sidecar.total("sidecar_discovery_errors_total", reason=reason)

    def follows(self) -> None:
        """Assert that the sidecar hears Consul again: an instance leaves traffic, and comes back."""
        instance = self.id(self.greeters[0])
        for enable, verdict in ((True, "down: maintenance"), (False, "up: passing")):
            self.agent.maintenance(instance, enable)
            self.sidecar.line(rf"{instance} \S+ is {verdict}", 30)

    def dropped(self) -> list[str]:
        """What the sidecar said of instances that left traffic."""
        return [line for line in self.sidecar.lines if re.search(r" is (down|gone)", line)]

    def lost_nothing(self) -> Ledger:
        """Assert that no call failed; the ledger."""
        ledger = self.load.finish()
        ledger.none_failed(MESSAGES)
        assert ledger.rate() > 0.9 * UNARY
        assert ledger.slowest() < SLOWEST, "calls waited for an instance"
        assert self.sidecar.total("sidecar_lost_rpcs_total") == 0
        print(f"{len(ledger.calls)} calls, slowest unary {ledger.slowest() * 1000:.0f} ms")
        return ledger

    def dropped_nobody(self) -> None:
        """Assert that no call failed, and that turns went on as if nothing had happened."""
        assert self.dropped() == []
        counts = self.lost_nothing().by_server()
        assert len(counts) == 2
        assert max(counts.values()) - min(counts.values()) <= 1, counts


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as processes:
        yield processes


@pytest.fixture
def scene(cluster: Cluster, stack: contextlib.ExitStack) -> Scene:
    cluster.healthy()
    return Scene(cluster.client, stack)


def test_a_client_agent_restarts_with_its_data(scene: Scene) -> None:
    """Its gRPC checks come back critical and unprobed, however well the instances are.

    Their output is empty, or that of the success they had before they were registered for the last time.
    """
    one, other = scene.greeters
    check, passed = f"service:{scene.id(other)}", f"gRPC check {other.address}: success"
    until(lambda: scene.agent.read("/v1/agent/checks")[check]["Output"] == passed, "a probe of the other")
    outputs = {"": rarely_checked(scene, one, "new"), passed: rarely_checked(scene, other, check)}
    register = "/v1/agent/service/register?replace-existing-checks=true"
    for definition in outputs.values():
        scene.agent.put(register, definition)

    scene.agent.stop()
    until(lambda: scene.errors("connection"), "the sidecar misses the agent")
    scene.agent.start()
    until(lambda: unprobed(scene) == sorted(outputs), "unprobed instances")
    for greeter in scene.greeters:
        scene.sidecar.line(rf"{scene.id(greeter)} .* stays up: critical, .*not probed yet")
        scene.agent.put(register, rarely_checked(scene, greeter, "newer"))
        scene.sidecar.line(rf"{scene.id(greeter)} .* stays up: passing")
    scene.dropped_nobody()


def rarely_checked(scene: Scene, greeter: Greeter, check: str) -> dict[str, object]:
    """A registration whose first probe after a restart comes at some time within the hour."""
    host, port = greeter.address.split(":")
    return {
        "ID": scene.id(greeter), "Name": scene.service, "Address": host, "Port": int(port),
        "Check": {"CheckID": check, "GRPC": greeter.address, "Interval": "1h", "Timeout": "1s", "Status": "passing"},
    }  # fmt: skip


def unprobed(scene: Scene) -> list[str]:
    """What watchers are shown as the outputs of critical checks."""
    checks = [check for entry in scene.agent.instances(scene.service) for check in entry["Checks"]]
    return sorted(check["Output"] for check in checks if check["Status"] == "critical")


def test_a_client_agent_leaves_and_comes_back(scene: Scene) -> None:
    """All its services vanish, as a list that is valid: they are held, and not mistaken for gone."""
    scene.agent.stop(signal.SIGTERM)
    scene.sidecar.line("registered any more: keeping 2")
    scene.agent.start()
    scene.agent.passing(scene.service, 2)
    scene.follows()
    scene.lost_nothing()


def test_a_client_agent_is_frozen(scene: Scene, cluster: Cluster) -> None:
    """So long that the servers give it up, and all that is registered with it."""
    server = cluster.servers[0]

    def given_up() -> bool:
        return all(
            any(check["CheckID"] == "serfHealth" and check["Status"] == "critical" for check in entry["Checks"])
            for entry in server.instances(scene.service)
        )

    with scene.agent.frozen():
        until(given_up, "the servers give the agent up", 30)
    scene.agent.passing(scene.service, 2)
    scene.dropped_nobody()


def test_the_leader_is_killed(scene: Scene, cluster: Cluster) -> None:
    leader = cluster.leader()
    leader.stop()
    others = [server for server in cluster.servers if server is not leader]
    until(lambda: {other.leader() for other in others} < {other.server for other in others}, "a new leader", 30)
    assert scene.dropped() == []
    scene.follows()
    leader.start()
    leader.ready()
    scene.lost_nothing()


def test_an_instance_stops_while_there_is_no_leader(scene: Scene, cluster: Cluster) -> None:
    """No watcher can be told, so that the instance's GOAWAY is all the sidecar has."""
    leader, stopped = cluster.leader(), scene.greeters[1]
    stopped.signal()
    leader.stop()
    # Its drain asks for two seconds in vain, settles for one, and stops: about when the servers elect a leader.
    assert stopped.exit() == 0
    assert "wait for watchers: not done" in stopped.output
    leader.start()
    leader.ready()
    cluster.healthy()
    scene.lost_nothing()


def test_a_rollout_behind_a_client_agent(scene: Scene) -> None:
    """One greeter after the other is replaced, with handlers asleep in it and streams open."""
    for name in "cdefgh":
        new = scene.deploy(name)
        scene.agent.passing(scene.service, 3)
        old = scene.greeters.pop(0)
        scene.greeters.append(new)
        old.signal()
        assert old.exit() == 0, old.output
        assert int(old.line(r"draining: (\d+) calls open")[1]) > 0
    assert set(scene.lost_nothing().by_server()) == set("abcdefgh")


MANAGEMENT = "5d0e3a7c-1b52-4c8e-9b5f-000000000001"
ACL = f"""
acl {{
  enabled = true
  default_policy = "deny"
  tokens {{ initial_management = "{MANAGEMENT}", agent = "{MANAGEMENT}", default = "{MANAGEMENT}" }}
}}
"""
READER = 'service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }'
READERS = {"Policies": [{"Name": "reader"}]}


@pytest.fixture
def alone() -> Iterator[Agent]:
    """A dev agent, which remembers nothing."""
    agent = Agent("dev", "-dev")
    with running([agent]):
        agent.start()
        agent.ready()
        yield agent


def test_an_agent_restarts_without_data(alone: Agent, stack: contextlib.ExitStack) -> None:
    """It shows an empty list, in all earnest, until the greeters notice and register again."""
    scene = Scene(alone, stack)
    alone.stop()
    until(lambda: scene.errors("connection"), "the sidecar misses the agent")
    alone.start()
    alone.passing(scene.service, 2)
    for greeter in scene.greeters:
        assert "registering it again" in greeter.output
    scene.follows()
    scene.lost_nothing()


def test_streams_outlive_the_registration_of_their_instance(alone: Agent, stack: contextlib.ExitStack) -> None:
    """An instance is removed and registered again, twice, while streams of it are open."""
    scene = Scene(alone, stack)
    instance = scene.id(scene.greeters[0])
    removed = []
    for _ in range(2):
        removed.append(time.monotonic())
        alone.put(f"/v1/agent/service/deregister/{instance}")
        alone.passing(scene.service, 1)
        alone.passing(scene.service, 2)  # it notices within two seconds
        until(lambda: len(scene.dropped()) == len(removed), "the sidecar hears that it is gone")
    streams = scene.lost_nothing().of("stream")
    for moment in removed:
        assert [call for call in streams if call.server == "a" and call.started < moment < call.ended]


@pytest.fixture
def guarded() -> Iterator[Agent]:
    """A dev agent with ACLs; who brings no token may do all, so that only the sidecar's token matters."""
    agent = Agent("dev", "-dev", f"-hcl={ACL}")
    with running([agent]):
        agent.start()
        agent.ready()
        until(lambda: agent.read("/v1/acl/tokens"), "the ACL system", 30)
        yield agent


def test_an_acl_token_is_revoked(guarded: Agent, stack: contextlib.ExitStack, tmp_path: Path) -> None:
    """The last list stays in force until a new token is in the file."""
    guarded.put("/v1/acl/policy", {"Name": "reader", "Rules": READER})
    token = guarded.put("/v1/acl/token", READERS)
    file = tmp_path / "token"
    file.write_text(token["SecretID"])
    scene = Scene(guarded, stack, {"CONSUL_HTTP_TOKEN_FILE": str(file)})

    guarded.delete(f"/v1/acl/token/{token['AccessorID']}")
    until(lambda: scene.errors("acl"), "the sidecar is refused", 60)
    aged = scene.sidecar.total("sidecar_discovery_age_seconds")
    until(lambda: scene.sidecar.total("sidecar_discovery_age_seconds") > aged + 1, "the age of the last list grows")
    assert scene.dropped() == []

    file.write_text(guarded.put("/v1/acl/token", READERS)["SecretID"])
    scene.sidecar.line("is found after", 30)
    assert scene.dropped() == []
    scene.follows()
    scene.lost_nothing()
