"""One query for the instances of a service, and what its answer is worth."""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from proxy.consul_config import ConsulConfig
from proxy.discovery.client import READ_SECONDS, Client, Params
from proxy.discovery.entries import Entry, MalformedAnswerError, one_line, parse_entries
from proxy.discovery.tls import tls_context

# The classic backend returns up to 1/16 after the wait, and the answer has to travel.
_LATE: Final = 17 / 16
_SLACK_SECONDS: Final = 5.0

# What Consul's text says when it is the servers, not the agent, that cannot answer.
_LEADERLESS: Final = ("No cluster leader", "Raft leader not found", "No known Consul servers")


class QueryError(Exception):
    """A query brought nothing to rely on. `reason` is a metric's label, the message for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Answer:
    """What Consul answered. The last three are truthful in answers to queries without an index alone."""

    index: int
    entries: list[Entry]
    received: float
    """When it was there, seconds on the monotonic clock."""
    known_leader: bool = True
    filtered: bool = False
    hidden_by_default: bool = False
    """No token was sent, and the ACL policy denies what is not allowed."""


class ConsulHealth:
    """Asks one agent for one service. Raises UsageError at once if the certificates are unusable."""

    def __init__(
        self,
        config: ConsulConfig,
        service: str,
        datacenter: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        context = tls_context(config) if config.scheme == "https" else None
        self._client = Client(config, context, datacenter)
        self._service = service
        self._clock = clock
        scope = {"dc": datacenter, "ns": config.namespace, "partition": config.partition}
        self._scope: Params = [(name, value) for name, value in scope.items() if value]

    async def read(self, index: int, wait: float) -> Answer:
        """Ask for what is newer than `index` within `wait` seconds; index 0 asks for what is there now.

        Raises QueryError.
        """
        params, seconds = list(self._scope), READ_SECONDS
        if index:
            # The unit is needed, and none or zero would mean 300 s.
            milliseconds = max(1, math.ceil(wait * 1000))
            params += [("index", str(index)), ("wait", f"{milliseconds}ms")]
            seconds = wait * _LATE + _SLACK_SECONDS
        try:
            return await self._client.entries(self._answer, self._service, params, seconds)
        except TimeoutError as error:  # before ClientError, as aiohttp's time-outs are both
            raise QueryError("timeout", f"no answer within {seconds:g} s") from error
        except aiohttp.ClientError as error:
            raise QueryError("connection", _cause(error)) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._client.http.close()

    def _answer(self, response: Any) -> Answer:
        received = self._clock()
        if response.code != 200:
            raise QueryError(_reason(response.code, response.body), f"{response.code} {one_line(response.body)}")
        headers = response.headers
        try:
            index = int(headers.get("X-Consul-Index", ""))
            entries = parse_entries(json.loads(response.content))
        except MalformedAnswerError as error:
            raise QueryError("malformed", f"not an answer of Consul: {error}") from error
        except ValueError as error:
            raise QueryError("malformed", "not an answer of Consul: no index, or no JSON") from error
        policy = headers.get("X-Consul-Default-ACL-Policy", "")
        return Answer(
            index=index,
            entries=entries,
            received=received,
            known_leader=headers.get("X-Consul-KnownLeader") == "true",
            filtered=headers.get("X-Consul-Results-Filtered-By-ACLs") == "true",
            hidden_by_default=policy == "deny" and not self._client.http.token_sent,
        )


def _cause(error: aiohttp.ClientError) -> str:
    """The system's word for it where there is one; aiohttp's texts are for programmers."""
    number = error.errno if isinstance(error, OSError) else None
    if number is not None and number > 0 and not isinstance(error, aiohttp.ClientSSLError):
        return os.strerror(number)
    return one_line(str(error) or type(error).__name__)


def _reason(code: int, body: str) -> str:
    """One of the few reasons that errors are counted by."""
    if code in (401, 403):
        return "acl"
    if code == 429:
        return "rate_limited"
    if code >= 500:
        return "no_leader" if any(text in body for text in _LEADERLESS) else "server_error"
    return "refused" if code >= 400 else "malformed"
