"""Podman and podman-compose with a storage of their own."""

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_FILE = ROOT / "compose" / "docker-compose.yaml"
PROJECT = "zero_downtime"
NETWORK = "zero_downtime_zero-downtime"

_APT_PACKAGES = {
    "podman": "podman",
    "runc": "runc",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "iptables": "iptables",
    "catatonit": "catatonit",
    "prometheus": "prometheus",
    "/usr/lib/podman/netavark": "netavark",
    "/usr/lib/podman/aardvark-dns": "aardvark-dns",
}

# Both limits are needed where a container may not raise its own.
_CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=10000:10000"]
[network]
network_config_dir = "{home}/networks"
"""

_STORAGE_CONF = """\
[storage]
driver = "overlay"
graphroot = "{home}/storage"
runroot = "{home}/run"
"""

# Characters of a failed command's output that are shown.
_SHOWN = 6000


class FailedError(Exception):
    """A step did not do what the README promises; the message says which and what was seen."""


def say(text: str) -> None:
    """Print one line of progress at once."""
    print(f"containers: {text}", flush=True)


def wait_for(what: str, condition: Callable[[], bool], seconds: float) -> None:
    """Poll `condition` until it holds; raise `FailedError` naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise FailedError(f"{what}: not within {seconds:g} s")
        time.sleep(0.2)


def install_packages() -> None:
    """Install what is missing of podman and its helpers; raise `FailedError` where we may not."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise FailedError("root on Debian is needed to build a base image and run containers")
    missing = [package for program, package in _APT_PACKAGES.items() if shutil.which(program) is None]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise FailedError(f"missing and not installable without apt-get: {', '.join(missing)}")
    say(f"installing {', '.join(missing)}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-q"], check=True, stdout=subprocess.DEVNULL, timeout=300)
    command = ["apt-get", "install", "-yq", "--no-install-recommends", *missing]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, timeout=600)


@dataclass(frozen=True, slots=True)
class Podman:
    """Podman on the storage in `home`, and podman-compose from an environment beside it."""

    home: Path
    environment: dict[str, str]

    @classmethod
    def prepare(cls, home: Path) -> "Podman":
        """Write the configuration and install podman-compose into `home` unless it is there."""
        home.mkdir(parents=True, exist_ok=True)
        (home / "containers.conf").write_text(_CONTAINERS_CONF.format(home=home))
        (home / "storage.conf").write_text(_STORAGE_CONF.format(home=home))
        tools = home / "venv"
        if not (tools / "bin" / "podman-compose").exists():
            say("installing podman-compose")
            subprocess.run([sys.executable, "-m", "venv", str(tools)], check=True, timeout=120)
            pip = [str(tools / "bin" / "pip"), "install", "--quiet", "podman-compose==1.6.0"]
            subprocess.run(pip, check=True, timeout=300)
        environment = os.environ | {
            "CONSUL_PORT": str(_usual_or_free(8500)),
            "PROMETHEUS_PORT": str(_usual_or_free(9090)),
            "CONTAINERS_CONF": str(home / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(home / "storage.conf"),
            "PATH": f"{tools / 'bin'}:{os.environ['PATH']}:/usr/sbin:/sbin",
        }
        return cls(home, environment)

    @property
    def consul(self) -> str:
        """Where Consul's HTTP API and UI are published."""
        return f"http://127.0.0.1:{self.environment['CONSUL_PORT']}"

    @property
    def prometheus(self) -> str:
        """Where Prometheus is published."""
        return f"http://127.0.0.1:{self.environment['PROMETHEUS_PORT']}"

    def run(self, *arguments: str, seconds: float = 60, check: bool = True, stdin: str = "") -> str:
        """Run ``podman ARGUMENTS`` and return its standard output; raise `FailedError` if it fails."""
        return self._call(["podman", *arguments], seconds, check=check, stdin=stdin).stdout

    def compose(self, *arguments: str, seconds: float = 120) -> None:
        """Run ``podman-compose ARGUMENTS`` on the project's compose file; raise `FailedError` if it fails."""
        command = ["podman-compose", "-f", str(COMPOSE_FILE), *arguments]
        self._call(command, seconds)

    def _call(
        self,
        command: list[str],
        seconds: float,
        *,
        check: bool = True,
        stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=self.environment,
                input=stdin,
                text=True,
                errors="replace",
                capture_output=True,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired as late:
            raise FailedError(f"{' '.join(command)}: not done after {seconds:g} s") from late
        if check and done.returncode != 0:
            output = (done.stdout + done.stderr)[-_SHOWN:]
            raise FailedError(f"{' '.join(command)}: exit code {done.returncode}\n{output}")
        return done

    def start(self, service: str) -> None:
        """Start one service of the compose file and wait until its health check passes."""
        self.compose("up", "-d", "--no-build", "--no-deps", service)
        name = container(service)

        def healthy() -> bool:
            return self._call(["podman", "healthcheck", "run", name], 30, check=False).returncode == 0

        try:
            wait_for(f"{service} healthy", healthy, 60)
        except FailedError as failed:
            raise FailedError(f"{failed}; its log:\n{self.logs(service)}") from failed

    def logs(self, service: str) -> str:
        """Return the last lines of what the service's container has printed, on both of its streams."""
        done = self._call(["podman", "logs", "--tail", "40", container(service)], 30, check=False)
        return done.stdout + done.stderr

    def has_image(self, name: str, recipe: str) -> bool:
        """Tell whether the image `name` is there and was made by this `recipe`."""
        label = '{{index .Config.Labels "recipe"}}'
        done = self.run("image", "inspect", "--format", label, name, check=False)
        return done.strip().splitlines()[-1:] == [recipe]


def _usual_or_free(usual: int) -> int:
    for port in (usual, 0):
        with socket.socket() as probe:
            # As servers do, so that connections that just ended do not count as use.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                say(f"port {usual} is taken, another is published")
                continue
            number: int = probe.getsockname()[1]
            return number
    raise FailedError("no free port on 127.0.0.1")


def container(service: str) -> str:
    """Return the name of the container of a service."""
    return f"{PROJECT}_{service}_1"


def fingerprint(*parts: str) -> str:
    """Return a short hash that names a recipe."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
