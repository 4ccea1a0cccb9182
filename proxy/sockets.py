"""Unix sockets to listen on, bound with care for the file that names them."""

import socket
import stat
from pathlib import Path


def bind_unix(path: str) -> socket.socket:
    """Return a socket bound to `path`. Raises OSError, also if a living process listens there.

    The event loops bind by path as well, but remove whatever socket is in the way, that of a living process too.
    """
    _clear_stale(path)
    bound = socket.socket(socket.AF_UNIX)
    try:
        bound.bind(path)
    except OSError:
        bound.close()
        raise
    bound.setblocking(False)
    return bound


def _clear_stale(path: str) -> None:
    """Remove the socket file of a process that is gone; a living one, or any other file, stays in the way."""
    try:
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # a process that is stuck, its backlog full, would hold us up
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
        except BlockingIOError:
            return
