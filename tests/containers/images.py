"""Stand-ins for the images the project starts from, then the project's own images."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.containers.podman import COMPOSE_FILE, ROOT, FailedError, Podman, fingerprint, say
from tests.tools import find

# python3-dev: the images this stands in for have Python's headers, which the compile of the core needs.
_BASE_PACKAGES = "python3,python3-venv,python3-dev,ca-certificates"
_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"

_CONSUL = """\
FROM {base}
RUN useradd --system --no-create-home consul
COPY consul /usr/local/bin/consul
USER consul
LABEL recipe={recipe}
ENTRYPOINT ["consul"]
"""
_GRPCURL = """\
FROM {base}
COPY grpcurl /bin/grpcurl
USER 65534:65534
LABEL recipe={recipe}
ENTRYPOINT ["/bin/grpcurl"]
"""
_PROMETHEUS = """\
FROM {base}
COPY prometheus promtool /bin/
USER 65534:65534
LABEL recipe={recipe}
ENTRYPOINT ["/bin/prometheus"]
"""

# Name: how the Dockerfile is told what to build. The first three are the names in the compose file.
_PROJECT_IMAGES = {
    "consul-grpc-sidecar": ("--target", "proxy"),
    "consul-grpc-greeter-server": ("--target", "greeter-server"),
    "consul-grpc-greeter-client": ("--target", "greeter-client"),
    "proto": ("--target", "proto"),
    "client": ("--build-arg", "DIRECTORY=./client"),
}

# The pip settings that decide where packages come from and whether they are trusted.
_PIP_SETTINGS = {"index-url", "extra-index-url", "trusted-host", "cert", "proxy", "timeout"}


def _named(file: Path, pattern: str) -> str:
    found = re.search(pattern, file.read_text(), re.MULTILINE)
    if found is None:
        raise FailedError(f"{file.name} has no line like {pattern}")
    return found[1]


def _debian_mirror() -> str:
    policy = subprocess.run(["apt-cache", "policy"], check=True, capture_output=True, text=True, timeout=60).stdout
    mirrors: list[str] = re.findall(r"https?://\S+/debian(?= )", policy)
    if not mirrors:
        raise FailedError("apt has no Debian mirror to make the base image from")
    return max(set(mirrors), key=mirrors.count)


def build_base(podman: Podman) -> str:
    """Make the stand-in for the Dockerfile's base image, Debian's own Python 3.11, and return its name."""
    name = _named(ROOT / "Dockerfile", r"^ARG BASE=(\S+)")
    recipe = fingerprint(_BASE_PACKAGES, _PATH)
    if podman.has_image(name, recipe):
        return name
    say(f"making the stand-in for {name}")
    with tempfile.TemporaryDirectory(dir=podman.home) as scratch:
        root = Path(scratch, "root")
        command = ["debootstrap", "--variant=minbase", f"--include={_BASE_PACKAGES}", "bookworm", str(root)]
        done = subprocess.run(
            [*command, _debian_mirror()], capture_output=True, text=True, timeout=600, env=podman.environment
        )
        if done.returncode != 0:
            raise FailedError(f"debootstrap: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr}")
        for link in ("python", "python3"):
            (root / "usr/local/bin" / link).symlink_to("/usr/bin/python3")
        archive = Path(scratch, "root.tar")
        subprocess.run(["tar", "-C", str(root), "-cf", str(archive), "."], check=True, timeout=120)
        changes = [f"ENV PATH={_PATH}", f"LABEL recipe={recipe}"]
        flags = [word for change in changes for word in ("-c", change)]
        podman.run("import", "-q", *flags, str(archive), name, seconds=180)
    return name


def build_stand_ins(podman: Podman, base: str) -> None:
    """Put each tool into an image of the name that the compose file or the README uses."""
    images = [
        (_named(COMPOSE_FILE, r"image: (hashicorp/consul:\S+)"), _CONSUL, ("consul",)),
        (_named(COMPOSE_FILE, r"image: (prom/prometheus:\S+)"), _PROMETHEUS, ("prometheus", "promtool")),
        ("fullstorydev/grpcurl", _GRPCURL, ("grpcurl",)),
    ]
    for name, dockerfile, programs in images:
        paths = [find(program).resolve() for program in programs]
        recipe = fingerprint(base, dockerfile, *(f"{path} {path.stat().st_size}" for path in paths))
        if podman.has_image(name, recipe):
            continue
        say(f"making the stand-in for {name}")
        with tempfile.TemporaryDirectory(dir=podman.home) as scratch:
            for program, path in zip(programs, paths, strict=True):
                shutil.copy(path, Path(scratch, program))
            text = dockerfile.format(base=base, recipe=recipe)
            flags = ("--pull=never", "--format", "docker", "-t", name, "-f", "-", scratch)
            podman.run("build", *flags, stdin=text, seconds=180)


def _machine_mounts(podman: Podman) -> list[str]:
    """Return build flags that let pip in a build reach what pip on this machine reaches."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    lines = ["[global]"]
    for key, value in re.findall(r"^(?:global|install|:env:)\.([a-z-]+)='(.*)'$", listed, re.MULTILINE):
        if key in _PIP_SETTINGS and not any(line.startswith(f"{key} =") for line in lines):
            lines.append(f"{key} = {' '.join(value.split())}")
    settings = podman.home / "pip.conf"
    settings.write_text("\n".join(lines) + "\n")
    certificates = os.environ.get("SSL_CERT_DIR", "/etc/ssl/certs")
    return ["-v", f"{settings}:/etc/pip.conf:ro", "-v", f"{certificates}:{certificates}:ro"]


def build_project(podman: Podman) -> None:
    """Build every image of the Dockerfile, the client also the way the README has it."""
    flags = ["--pull=never", "--format", "docker", *_machine_mounts(podman)]
    for name, selection in _PROJECT_IMAGES.items():
        say(f"building {name} ({' '.join(selection)})")
        podman.run("build", *flags, *selection, "-t", name, ".", seconds=600)
    # Stages of builds long ago; those of today are the next build's cache.
    podman.run("image", "prune", "-f", "--filter", "until=48h", seconds=120)
