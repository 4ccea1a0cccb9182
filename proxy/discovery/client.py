"""python-consul2 on asyncio: its client class over one pooled aiohttp session.

The package's own asyncio client opens a session for each call, cannot time out and loses the client certificate,
and its base class lets the environment override what it is told; so only that base class is used, with a
transport of our own and the environment out of its sight.
"""

import base64
import logging
import os
import ssl
import warnings
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

from proxy.consul_config import ConsulConfig

if TYPE_CHECKING:
    from consul import base
else:

    def _load_base() -> Any:
        """Return python-consul2's module `base` without its package's `__init__`.

        That imports the synchronous client and with it requests and urllib3: 6 MB of memory and 50 ms at start
        that a sidecar would pay for nothing. `base` itself needs neither the package nor those.
        """
        package = find_spec("consul")
        locations = package.submodule_search_locations if package is not None else None
        spec = PathFinder.find_spec("base", locations) if locations else None
        if spec is None or spec.loader is None:
            raise ImportError("python-consul2 is not installed: its module consul.base is missing")
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    base = _load_base()

log: Final = logging.getLogger(__name__)

# Seconds for an answer that Consul gives at once. A leader election holds reads for 7 to 12 s before it fails them.
READ_SECONDS: Final = 15.0
# Seconds to connect: the agent is on this host or near it.
CONNECT_SECONDS: Final = 5.0
# A watch and the read that confirms it; an agent takes 200 connections from one address.
_CONNECTIONS: Final = 2

_Answer = TypeVar("_Answer")
Params = Sequence[tuple[str, str]]


class Transport:
    """What python-consul2 calls for its requests; answers go through the caller's callback.

    Raises aiohttp.ClientError and TimeoutError.
    """

    def __init__(self, config: ConsulConfig, context: ssl.SSLContext | None) -> None:
        self._config = config
        self._context = context
        self._base = "http://localhost" if config.path else config.url
        self._token = config.token
        self._token_file_failed = False
        self.token_sent = False
        """Whether the latest request carried a token."""
        self._session: aiohttp.ClientSession | None = None

    async def get(
        self,
        callback: Callable[[Any], _Answer],
        path: str,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = READ_SECONDS,
    ) -> _Answer:
        """GET `path`; the whole exchange may take `seconds`."""
        return await self._send("GET", callback, path, params, "", headers, seconds)

    async def put(
        self,
        callback: Callable[[Any], _Answer],
        path: str,
        params: Params | None = None,
        data: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> _Answer:
        """PUT `data` to `path`."""
        return await self._send("PUT", callback, path, params, data, headers)

    async def delete(
        self,
        callback: Callable[[Any], _Answer],
        path: str,
        params: Params | None = None,
        data: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> _Answer:
        """DELETE `path`."""
        return await self._send("DELETE", callback, path, params, data, headers)

    async def post(
        self,
        callback: Callable[[Any], _Answer],
        path: str,
        params: Params | None = None,
        data: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> _Answer:
        """POST `data` to `path`."""
        return await self._send("POST", callback, path, params, data, headers)

    async def close(self) -> None:
        """Close the session's connections."""
        if self._session is not None:
            await self._session.close()

    async def _send(
        self,
        method: str,
        callback: Callable[[Any], _Answer],
        path: str,
        params: Params | None,
        data: str,
        headers: Mapping[str, str] | None,
        seconds: float = READ_SECONDS,
    ) -> _Answer:
        query = f"?{urlencode(params)}" if params else ""
        async with self._opened().request(
            method,
            URL(f"{self._base}{quote(path, safe='/:')}{query}", encoded=True),
            data=data or None,
            headers={**(headers or {}), **self._credentials()},
            timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS),
            allow_redirects=False,  # never show the token to another server
            server_hostname=self._config.server_name or None,
        ) as response:
            content = await response.read()
            text = content.decode("utf-8", "replace")
            return callback(base.Response(response.status, response.headers, text, content))

    def _opened(self) -> aiohttp.ClientSession:
        """The session, opened late as it belongs to the running loop."""
        if self._session is None:
            connector: aiohttp.BaseConnector
            if self._config.path:
                connector = aiohttp.UnixConnector(self._config.path, limit=_CONNECTIONS)
            else:
                connector = aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=self._context or True)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self._session

    def _credentials(self) -> dict[str, str]:
        headers = {}
        if self._config.userinfo:
            coded = base64.b64encode(self._config.userinfo.encode()).decode()
            headers["Authorization"] = f"Basic {coded}"
        token = self._current_token()
        self.token_sent = bool(token)
        if token:
            headers["X-Consul-Token"] = token
        return headers

    def _current_token(self) -> str:
        """The token of the file, read again each time so that it can be rotated, or the fixed one."""
        path = self._config.token_file
        if not path:
            return self._token
        try:
            with open(path, encoding="ascii") as file:
                token = file.read().strip()
        except (OSError, UnicodeDecodeError) as error:
            if not self._token_file_failed:
                log.warning("cannot read the token file %s (%s): going on with the last token", path, error)
            self._token_file_failed = True
            return self._token
        self._token_file_failed = False
        # An empty file leaves the token of the environment in force, as in Consul's own tools.
        self._token = token or self._config.token
        return self._token


class Client(base.Consul):  # type: ignore[misc]  # python-consul2 has no types
    """python-consul2's client over `Transport`; its methods return awaitables."""

    http: Transport

    def __init__(self, config: ConsulConfig, context: ssl.SSLContext | None, datacenter: str = "") -> None:
        self._transport = Transport(config, context)
        with _environment_hidden(), warnings.catch_warnings():
            # Every client makes an object for the legacy ACLs, which warns of itself.
            warnings.simplefilter("ignore", DeprecationWarning)
            super().__init__(dc=datacenter or None)

    def http_connect(self, *_: object, **__: object) -> Transport:
        """Hand the base class its transport, which knows better where to connect."""
        return self._transport

    def entries(
        self, callback: Callable[[Any], _Answer], service: str, params: Params, seconds: float
    ) -> Awaitable[_Answer]:
        """Read /v1/health/service with parameters that `health.service` of the base class does not know."""
        return self.http.get(callback, f"/v1/health/service/{service}", params, seconds=seconds)


@contextmanager
def _environment_hidden() -> Iterator[None]:
    """Keep CONSUL_* from python-consul2, which parses them wrongly and lets them override its arguments."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("CONSUL_")}
    try:
        yield
    finally:
        os.environ.update(hidden)
