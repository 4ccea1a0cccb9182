"""Real tools the tests run against: those built from the pinned Go modules beside this file, and Debian's.

``make tools`` fills ``tests/tools/bin``. A test asks for a tool with `require`.
"""

import os
import shutil
from pathlib import Path

BIN = Path(__file__).resolve().parent / "bin"

# Debian installs servers where the PATH of an ordinary user does not look.
_SYSTEM_DIRECTORIES = "/usr/local/sbin:/usr/sbin:/sbin"

_DEBIAN_PACKAGES = {
    "h2load": "nghttp2-client",
    "nghttp": "nghttp2-client",
    "nghttpd": "nghttp2-server",
    "nghttpx": "nghttp2-proxy",
    "haproxy": "haproxy",
    "nginx": "nginx",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "ip": "iproute2",
    "tc": "iproute2",
}


class ToolNotFoundError(LookupError):
    """The tool is neither built nor installed; the message says how to get it."""


def find(name: str) -> Path:
    """Return the path of the executable `name`: a built tool first, then one on PATH.

    Raises `ToolNotFoundError` with the command that provides it.
    """
    built = BIN / name
    if os.access(built, os.X_OK):
        return built
    installed = shutil.which(name) or shutil.which(name, path=_SYSTEM_DIRECTORIES)
    if installed is not None:
        return Path(installed)
    package = _DEBIAN_PACKAGES.get(name)
    how = f"apt-get install {package}" if package else "make tools"
    raise ToolNotFoundError(f"{name} is missing: {how}")


def require(name: str) -> Path:
    """Return `find(name)`; where it is missing skip the test, or fail it if ``CI=true`` is set."""
    # pytest is imported here so that the product's own scripts can use `find` without the dev dependencies.
    import pytest

    try:
        return find(name)
    except ToolNotFoundError as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))
