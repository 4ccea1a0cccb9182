"""The steps of the README, each with what it promises checked."""

import json
import re
import shutil
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from tests.containers.podman import NETWORK, ROOT, FailedError, Podman, container, say, wait_for

BLUE, GREEN = "greeter-server-blue", "greeter-server-green"
SIDECARS = ("sidecar", "greeter-sidecar")
# In dependency order, as podman-compose does not wait for a dependency's health.
SERVICES = ("consul", BLUE, GREEN, *SIDECARS, "client", "prometheus")

# How long the call sleeps that blue is stopped under. Blue goes on taking calls for 3 s or so after SIGTERM, and this
# one is to be asleep when it stops.
SLEEP_MILLISECONDS = 8000
_ONE_OFF = "zero_downtime_one_off"


def get(url: str) -> bytes:
    """Return the body that `url` answers with; raise `FailedError` if it does not."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            body: bytes = answer.read()
            return body
    except urllib.error.URLError as error:
        raise FailedError(f"GET {url}: {error}") from error


def query(podman: Podman, expression: str) -> dict[str, float]:
    """Ask Prometheus; return the values by the instance label, which is empty for an aggregate."""
    address = f"{podman.prometheus}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    result = json.loads(get(address))["data"]["result"]
    return {entry["metric"].get("instance", ""): float(entry["value"][1]) for entry in result}


def passing(podman: Podman) -> set[str]:
    """Return the tags of the instances that Consul calls passing."""
    entries = json.loads(get(f"{podman.consul}/v1/health/service/greeter?passing"))
    return {tag for entry in entries for tag in entry["Service"]["Tags"]}


def served_by(output: str) -> list[str]:
    """Return which server each line of a client's output names, in order."""
    return re.findall(rf"served by ({BLUE}|{GREEN})", output)


def run_client(podman: Podman, *flags: str) -> list[str]:
    """Run the seed's client command; return who served its calls."""
    output = podman.run("run", "--rm", f"--network={NETWORK}", "client", "-name=foo", *flags)
    servers = served_by(output)
    if not servers:
        raise FailedError(f"the client names no server:\n{output}")
    return servers


def until_routed_to(podman: Podman, tags: set[str]) -> None:
    """Wait until Consul and then both sidecars see exactly the instances with these tags as healthy."""
    wait_for(f"Consul: {sorted(tags)} passing", lambda: passing(podman) == tags, 30)
    script = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9464/metrics').read().decode())"

    def healthy_instances(name: str) -> int:
        metrics = podman.run("exec", container(name), "/app/bin/python", "-c", script)
        found = re.search(r'^sidecar_instances\{[^}]*state="passing"[^}]*\} ([\d.]+)', metrics, re.MULTILINE)
        return int(float(found[1])) if found else -1

    def all_see_them() -> bool:
        return all(healthy_instances(name) == len(tags) for name in SIDECARS)

    wait_for(f"the sidecars: {len(tags)} healthy instances", all_see_them, 15)


def step_up(podman: Podman) -> None:
    """``docker compose up -d``: everything becomes healthy and Consul's UI answers."""
    for service in SERVICES:
        podman.start(service)
    until_routed_to(podman, {"blue", "green"})
    if b"<title>Consul" not in get(f"{podman.consul}/ui/"):
        raise FailedError("Consul's UI is not on its port")
    for service in SERVICES[1:-1]:
        facts = json.loads(podman.run("inspect", container(service)))[0]
        if facts["Config"]["User"] in ("", "0", "root") or not facts["HostConfig"]["ReadonlyRootfs"]:
            raise FailedError(f"{service} runs as root or can write to its root file system")


def step_grpcurl(podman: Podman) -> None:
    """The seed's grpcurl command against blue, then by reflection through the sidecar."""
    podman_run = ("run", "--rm", f"--network={NETWORK}")
    direct = podman.run(
        *podman_run,
        *("--volume", f"{ROOT / 'greeter'}:/helloworld:ro", "fullstorydev/grpcurl"),
        *("-import-path", "/helloworld", "-proto", "helloworld.proto", "-plaintext"),
        *("-d", '{"name": "foo"}', "greeting-server-blue:50000", "helloworld.Greeter/SayHello"),
    )
    through = podman.run(
        *podman_run,
        *("fullstorydev/grpcurl", "-plaintext"),
        *("-d", '{"name": "foo"}', "greeter-sidecar:50051", "helloworld.Greeter/SayHello"),
    )
    for output in (direct, through):
        if '"message"' not in output or "foo" not in output:
            raise FailedError(f"grpcurl got no greeting:\n{output}")


def step_client(podman: Podman) -> None:
    """The seed's client command: its calls reach both servers."""
    servers = run_client(podman) + run_client(podman)
    if set(servers) != {BLUE, GREEN}:
        raise FailedError(f"the client's calls went to {servers}, not to both servers in turn")


def step_stop_while_handling(podman: Podman) -> None:
    """Blue is stopped while a call sleeps in it: that call completes, later ones go to green alone."""
    # Two calls, one of which the round robin gives to blue.
    names = [f"{_ONE_OFF}_{number}" for number in (1, 2)]
    request = json.dumps({"name": "asleep", "interval_ms": SLEEP_MILLISECONDS})
    for name in names:
        podman.run(
            *("run", "-d", "--name", name, f"--network={NETWORK}"),
            *("fullstorydev/grpcurl", "-v", "-plaintext", "-d", request),
            *("greeter-sidecar:50051", "helloworld.Greeter/SayHello"),
        )
    wait_for("a call asleep in blue", lambda: "SayHello asleep" in podman.logs(BLUE), SLEEP_MILLISECONDS / 2000)
    started = time.monotonic()
    podman.compose("stop", BLUE, seconds=90)
    took = time.monotonic() - started
    if not re.search(r"draining: [1-9]", podman.logs(BLUE)):
        raise FailedError(f"blue had no call when it was stopped; its log:\n{podman.logs(BLUE)}")
    servers = []
    for name in names:
        code = podman.run("wait", name).strip()
        output = podman.run("logs", name)
        servers += re.findall(r"x-served-by: (\S+)", output)
        if code != "0" or "Hello asleep" not in output:
            raise FailedError(f"a call that slept while blue was stopped: exit code {code}\n{output}")
    if sorted(servers) != [BLUE, GREEN]:
        raise FailedError(f"the two calls went to {servers}")
    blue_code = podman.run("inspect", "--format", "{{.State.ExitCode}}", container(BLUE)).strip()
    if blue_code != "0":
        raise FailedError(f"blue exited {blue_code} after {took:.0f} s; its log:\n{podman.logs(BLUE)}")
    say(f"  blue finished its call and exited 0, {took:.1f} s after the stop")
    servers = [server for _ in range(3) for server in run_client(podman)]
    if set(servers) != {GREEN}:
        raise FailedError(f"with blue stopped the client's calls went to {servers}")


def step_prometheus(podman: Podman) -> None:
    """Prometheus scrapes both sidecars; every call is counted, none as failed or lost."""
    both = {f"{name}:9464" for name in SIDECARS}
    wait_for("Prometheus sees both sidecars", lambda: query(podman, 'up{job="grpc-sidecar"} == 1').keys() == both, 30)
    handled = query(podman, 'sum by (instance) (sidecar_rpcs_handled_total{grpc_method="SayHello"})')
    if handled.keys() != both or min(handled.values()) < 5:
        raise FailedError(f"calls counted by sidecar: {handled}")
    # Only greetings: grpcurl asks for the newest version of reflection first and takes a no.
    failures = 'sum(sidecar_rpcs_handled_total{grpc_method="SayHello",grpc_code!="OK"})'
    failed = query(podman, failures).get("", 0.0)
    lost = query(podman, "sum(sidecar_lost_rpcs_total)").get("", 0.0)
    if failed or lost:
        raise FailedError(f"{failed:g} calls failed and {lost:g} were lost; client:\n{podman.logs('client')}")


def step_back(podman: Podman) -> None:
    """Blue is started again and gets its share."""
    # Not `up`, with which podman-compose recreates what depends on blue.
    podman.compose("start", BLUE)
    until_routed_to(podman, {"blue", "green"})
    step_client(podman)


def step_drain_sidecar(podman: Podman) -> None:
    """The compose file's own client has had no failed call, and its sidecar drains and exits 0 when stopped."""
    podman.compose("stop", "client", seconds=60)
    podman.compose("stop", "sidecar", seconds=60)
    for service in ("client", "sidecar"):
        code = podman.run("inspect", "--format", "{{.State.ExitCode}}", container(service)).strip()
        if code != "0":
            raise FailedError(f"{service} exited {code}; its log:\n{podman.logs(service)}")


def step_proto(podman: Podman) -> None:
    """The stubs that the proto image makes are the committed ones."""
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copy(ROOT / "greeter" / "helloworld.proto", scratch)
        podman.run("run", "--rm", "--volume", f"{scratch}:/defs", "proto")
        made = sorted(Path(scratch).glob("helloworld_pb2*"))
        if len(made) != 3:
            raise FailedError(f"the proto image made {[path.name for path in made]}")
        for path in made:
            if path.read_text() != (ROOT / "greeter" / path.name).read_text():
                raise FailedError(f"greeter/{path.name} is not what the proto image makes")


def run(podman: Podman) -> None:
    """Take every step in order; raise `FailedError` at the first that does not hold."""
    steps = (
        step_proto,
        step_up,
        step_grpcurl,
        step_client,
        step_stop_while_handling,
        step_prometheus,
        step_back,
        step_drain_sidecar,
    )
    for step in steps:
        started = time.monotonic()
        say(str(step.__doc__).partition("\n")[0])
        step(podman)
        say(f"  held, {time.monotonic() - started:.1f} s")


def clean_up(podman: Podman) -> None:
    """Remove every container and network of the scenario, also of an earlier run that was cut off; keep images."""
    podman.compose("down", "-v", "-t", "1")
    podman.run("rm", "-f", "-i", "-t", "1", *(f"{_ONE_OFF}_{number}" for number in (1, 2)), check=False)
