"""Listens for clients, on TCP or a unix socket."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

from proxy.config import Address
from proxy.errors import BindError
from proxy.net.links import ClientLinks
from proxy.sockets import bind_unix

# Connections the kernel keeps for us while we are busy.
_BACKLOG: Final = 1024


class Listener:
    """The socket clients dial."""

    def __init__(self, server: asyncio.Server, address: Address) -> None:
        self.address = address
        self._server = server

    def close(self) -> None:
        """Take no more clients; those that are here stay. The file of a unix socket goes."""
        if not self._server.is_serving():
            return  # closed before; by now the file may be a successor's
        self._server.close()
        if self.address.path:
            Path(self.address.path).unlink(missing_ok=True)


async def listen(address: Address, links: ClientLinks) -> Listener:
    """Bind and listen; BindError names the address and the reason."""
    loop = asyncio.get_running_loop()
    protocol = cast("Callable[[], asyncio.Protocol]", links.link)
    try:
        if address.path:
            server = await loop.create_unix_server(protocol, sock=bind_unix(address.path), backlog=_BACKLOG)
            return Listener(server, address)
        server = await loop.create_server(protocol, address.host, address.port, backlog=_BACKLOG)
    except OSError as error:
        raise BindError("listen", address, error.strerror or str(error)) from error
    port = server.sockets[0].getsockname()[1]
    return Listener(server, Address(address.host, port, ""))
