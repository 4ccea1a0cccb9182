"""Build the pinned tools into ``tests/tools/bin``: ``python -m tests.tools.build [NAME...]``.

Standard library only. A binary is kept in a cache outside the checkout under a name that holds the hash of
all it is built from, and ``bin`` links to it, so that a second clone builds nothing. The cache is
``$TOOLS_CACHE``, else ``$XDG_CACHE_HOME/consul-grpc-sidecar/tools`` with ``~/.cache`` as the usual base.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.tools import BIN

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class GoTool:
    """One executable: its name, the folder of the module that pins it, and the package to build there."""

    name: str
    module: str
    package: str


# The cheap ones first, so that a broken toolchain shows within seconds; Consul takes minutes.
GO_TOOLS = (
    GoTool("h2spec", "h2spec", "github.com/summerwind/h2spec/cmd/h2spec"),
    GoTool("h2specd", "h2spec", "github.com/summerwind/h2spec/cmd/h2specd"),
    GoTool("goclient", "goclient", "."),
    GoTool("greeter_server", "greeter-go", "google.golang.org/grpc/examples/helloworld/greeter_server"),
    GoTool("ghz", "ghz", "github.com/bojand/ghz/cmd/ghz"),
    GoTool("interop-client", "interop", "google.golang.org/grpc/interop/client"),
    GoTool("interop-server", "interop", "google.golang.org/grpc/interop/server"),
    GoTool("grpcurl", "grpcurl", "github.com/fullstorydev/grpcurl/cmd/grpcurl"),
    GoTool("consul", "consul", "github.com/hashicorp/consul"),
)
JS_CLIENT = "jsclient"


def cache_directory() -> Path:
    """Return the folder that keeps built tools across clones."""
    own = os.environ.get("TOOLS_CACHE")
    if own:
        return Path(own).resolve()
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "consul-grpc-sidecar" / "tools"


def fingerprint(folder: Path, patterns: tuple[str, ...]) -> str:
    """Return a short hash of the files in `folder` that decide what is built, and of the kind of machine."""
    digest = hashlib.sha256(f"{platform.system()} {platform.machine()}\n".encode())
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Hold the cache for one builder; a second one waits and then finds the tools built."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def link(name: str, target: Path) -> None:
    """Point ``bin/NAME`` at `target`, replacing what was there in one step."""
    BIN.mkdir(exist_ok=True)
    fresh = BIN / f".{name}.new"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(BIN / name)


def build_go(tool: GoTool, cache: Path) -> None:
    """Build one Go tool unless the cache has it; Go verifies the modules against the committed go.sum."""
    folder = HERE / tool.module
    target = cache / f"{tool.name}-{fingerprint(folder, ('go.mod', 'go.sum', '*.go'))}"
    if not target.exists():
        print(f"tools: building {tool.name} ...", flush=True)
        started = time.monotonic()
        fresh = target.with_name(target.name + ".new")
        # GOTOOLCHAIN=local: a test tool must not make Go fetch another Go. GOWORK=off: a module stands alone.
        environment = os.environ | {"GOTOOLCHAIN": "local", "GOWORK": "off"}
        flags = ["-mod=readonly", "-trimpath", "-ldflags=-s -w", "-o", str(fresh)]
        command = ["go", "build", *flags, tool.package]
        subprocess.run(nice(command), cwd=folder, env=environment, check=True)
        fresh.replace(target)
        print(f"tools: built {tool.name} in {time.monotonic() - started:.0f} s", flush=True)
    link(tool.name, target)


def build_js(cache: Path) -> None:
    """Install grpc-js for ``jsclient`` unless the cache has it; npm verifies the hashes of the lock file."""
    folder = HERE / JS_CLIENT
    files = ("package.json", "package-lock.json", ".npmrc")
    home = cache / f"{JS_CLIENT}-{fingerprint(folder, files)}"
    if not home.exists():
        print("tools: installing grpc-js ...", flush=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            fresh = Path(scratch, JS_CLIENT)
            fresh.mkdir()
            for name in files:
                shutil.copy(folder / name, fresh)
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            subprocess.run(nice(command), cwd=fresh, check=True)
            fresh.replace(home)
    # The cache keeps the name node_modules: packages find each other by it once Node has followed the link.
    modules = folder / "node_modules"
    if modules.is_dir() and not modules.is_symlink():
        shutil.rmtree(modules)
    modules.unlink(missing_ok=True)
    modules.symlink_to(home / "node_modules")
    link(JS_CLIENT, folder / "client.js")


def nice(command: list[str]) -> list[str]:
    """Return `command` at low priority: a build must not disturb what runs beside it."""
    return ["nice", *command] if shutil.which("nice") else command


def main(names: list[str]) -> int:
    """Build the named tools, all if none is named; return 0, 64 for an unknown name, 1 for a failed build."""
    known = {tool.name for tool in GO_TOOLS} | {JS_CLIENT}
    unknown = sorted(set(names) - known)
    if unknown:
        print(f"tools: unknown {', '.join(unknown)}; known: {', '.join(sorted(known))}", file=sys.stderr)
        return 64
    wanted = set(names) or known
    if shutil.which("go") is None:
        print("tools: Go is needed to build the real tools and is not on PATH", file=sys.stderr)
        return 1
    cache = cache_directory()
    try:
        with locked(cache):
            if JS_CLIENT in wanted and shutil.which("npm") is None:
                print("tools: no npm here, so there is no grpc-js client", file=sys.stderr)
            elif JS_CLIENT in wanted:
                build_js(cache)
            for tool in GO_TOOLS:
                if tool.name in wanted:
                    build_go(tool, cache)
    except subprocess.CalledProcessError as failed:
        print(f"tools: exit code {failed.returncode} from {' '.join(failed.cmd)}", file=sys.stderr)
        return 1
    built = ", ".join(sorted(path.name for path in BIN.iterdir()))
    print(f"tools: {built} are in {BIN.relative_to(HERE.parents[1])}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
