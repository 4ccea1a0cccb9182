"""Listens for clients, on TCP or a unix socket."""

import asyncio
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

from proxy.config import Address
from proxy.errors import BindError
from proxy.net.links import ClientLinks

# Connections the kernel keeps for us while we are busy.
_BACKLOG: Final = 1024


class Listener:
    """The socket clients dial."""

    def __init__(self, server: asyncio.Server, address: Address) -> None:
        self.address = address
        self._server = server

    def close(self) -> None:
        """Take no more clients; those that are here stay. The file of a unix socket goes."""
        self._server.close()
        if self.address.path:
            Path(self.address.path).unlink(missing_ok=True)


async def listen(address: Address, links: ClientLinks) -> Listener:
    """Bind and listen; BindError names the address and the reason."""
    loop = asyncio.get_running_loop()
    protocol = cast("Callable[[], asyncio.Protocol]", links.link)
    try:
        if address.path:
            _clear_stale(address.path)
            server = await loop.create_unix_server(protocol, address.path, backlog=_BACKLOG)
            return Listener(server, address)
        server = await loop.create_server(protocol, address.host, address.port, backlog=_BACKLOG)
    except OSError as error:
        raise BindError("listen", address, error.strerror or str(error)) from error
    port = server.sockets[0].getsockname()[1]
    return Listener(server, Address(address.host, port, ""))


def _clear_stale(path: str) -> None:
    """Remove the socket file of a process that is gone; a live one, or any other file, stays in the way."""
    try:
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
