"""A unix socket is bound with care for who may listen there already."""

import errno
import socket
from pathlib import Path

import pytest

from proxy.sockets import bind_unix


def test_a_living_process_too_busy_to_accept_is_left_alone(tmp_path: Path) -> None:
    """Its backlog is full, so that a connect would wait for as long as it is stuck."""
    path = str(tmp_path / "s")
    waiting: list[socket.socket] = []
    with bind_unix(path) as busy:
        busy.listen(0)
        full = False
        while not full:
            waiting.append(socket.socket(socket.AF_UNIX))
            waiting[-1].setblocking(False)
            full = waiting[-1].connect_ex(path) == errno.EAGAIN
        with pytest.raises(OSError) as refusal:
            bind_unix(path)
        assert refusal.value.errno == errno.EADDRINUSE
    for one in waiting:
        one.close()


def test_the_socket_of_a_process_that_is_gone_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    bind_unix(path).close()
    bind_unix(path).close()
