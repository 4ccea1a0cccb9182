"""The command `grpc-sidecar`: flags in, exit code out."""

import logging
import os
import sys
from collections.abc import Sequence
from typing import Final

from proxy import config, errors, logs
from proxy.version import version_line

log: Final = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with these arguments (the process's own by default) and return its exit code."""
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except errors.UsageError as error:
        print(f"grpc-sidecar: {error}", file=sys.stderr)
        return errors.EXIT_USAGE


def _run(argv: Sequence[str]) -> int:
    flags = config.read_flags(argv)
    if flags.help or flags.version:
        print(flags.help.rstrip() if flags.help else version_line())
        return errors.EXIT_DRAINED
    settings = config.resolve(flags, os.environ)
    if flags.check_config:
        return _check(settings)
    logs.set_up(settings.log_level, settings.log_format)
    for warning in settings.warnings:
        log.warning("%s", warning)
    return _serve(settings)


def _check(settings: config.Config) -> int:
    """Try what can be tried without binding or dialling."""
    if settings.consul is not None and settings.consul.scheme == "https":
        from proxy.discovery.tls import tls_context

        tls_context(settings.consul)
    for warning in settings.warnings:
        print(f"grpc-sidecar: {warning}", file=sys.stderr)
    source = ", ".join(map(str, settings.endpoints)) or (settings.consul.url if settings.consul else "")
    print(f"configuration is valid: service {settings.service} from {source}, listening on {settings.listen}")
    return errors.EXIT_DRAINED


def _serve(settings: config.Config) -> int:
    # Imported here, as it brings the event loop and aiohttp with it, which --help and --check-config do not need.
    from proxy.app import run

    try:
        return run(settings)
    except errors.UsageError:
        raise
    except errors.BindError as error:
        log.error("%s", error)
        return errors.EXIT_CANNOT_BIND
    except Exception:
        # The last resort of the process: whatever it was, its trace is logged and the exit code says so.
        log.critical("internal error", exc_info=True)
        return errors.EXIT_INTERNAL
