"""The version, and what it runs on. Imports nothing at the top, so that building the package imports nothing."""

VERSION = "0.1.0"


def core() -> str:
    """Say whether the hot path is `compiled` (by mypyc) or `interpreted`."""
    from importlib.machinery import EXTENSION_SUFFIXES
    from importlib.util import find_spec

    spec = find_spec("proxy.http2.connection")
    origin = spec.origin if spec is not None else None
    return "compiled" if origin and origin.endswith(tuple(EXTENSION_SUFFIXES)) else "interpreted"


def event_loop() -> str:
    """Name the event loop that will be used: `uvloop X`, or `asyncio`."""
    try:
        from uvloop import _version
    except ImportError:
        return "asyncio"
    return f"uvloop {_version.__version__}"


def version_line() -> str:
    """All of it in one line, as `--version` prints it."""
    import platform

    return f"grpc-sidecar {VERSION} ({core()} core, {event_loop()}, Python {platform.python_version()})"
