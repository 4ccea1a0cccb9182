"""Compiles the hot path with mypyc where a C compiler is there; all else is in pyproject.toml.

GRPC_SIDECAR_COMPILE says how: unset compiles if it can and logs when it cannot, 1 fails the build when it
cannot, 0 leaves the core interpreted.
"""

import logging
import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.build_ext import build_ext

CORE = ("http2", "relay", "balance")
MODE = os.environ.get("GRPC_SIDECAR_COMPILE", "")
log = logging.getLogger("grpc-sidecar")


def core_modules() -> list[str]:
    """The modules of the core, and the protocols that feed it: one group, as calls within one are direct."""
    modules = [str(path) for name in CORE for path in sorted(Path("proxy", name).glob("*.py"))]
    return [path for path in modules if not path.endswith("__init__.py")] + ["proxy/net/link.py", "proxy/net/links.py"]


def has_compiler() -> bool:
    """Whether the C compiler this Python was built with (or $CC) is on PATH."""
    command = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    return shutil.which(command.split()[0]) is not None


def interpreted(reason: str) -> None:
    """Say why the core stays interpreted, or fail if it must not."""
    if MODE == "1":
        raise SystemExit(f"grpc-sidecar: the core was not compiled: {reason}")
    log.warning("grpc-sidecar: the core stays interpreted: %s", reason)


def extensions() -> list[Any]:
    """The compiled core, or nothing with the reason logged."""
    if MODE == "0":
        return []
    if not has_compiler():
        interpreted("no C compiler is on PATH")
        return []
    from mypyc.build import mypycify

    try:
        built = mypycify(
            ["--strict", "--no-warn-unused-configs", *core_modules()], opt_level="3", group_name="grpc_sidecar"
        )
    except SystemExit as stop:  # how mypycify reports a type error
        interpreted(f"mypyc refused it ({stop.code})")
        return []
    return list(built)


class Build(build_ext):
    """Leaves the core interpreted when the C compiler fails, unless it must not."""

    def run(self) -> None:
        """Build the extensions."""
        try:
            super().run()
        except Exception as error:  # noqa: BLE001 - distutils raises no common type
            interpreted(str(error))
            self.extensions = []


logging.basicConfig(format="%(message)s")
setup(ext_modules=extensions(), cmdclass={"build_ext": Build})
