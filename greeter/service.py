"""The Greeter itself, in the four call kinds."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc

from greeter.helloworld_pb2 import HelloReply, HelloRequest
from greeter.helloworld_pb2_grpc import GreeterServicer

SERVED_BY = "x-served-by"
"""Initial metadata that names the instance."""

DEFAULT_REPLIES = 3
"""What SayHelloStream sends when the request names no count."""

log = logging.getLogger("greeter")

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class Greeter(GreeterServicer):
    """Answers with a greeting; each reply after the request's ``interval_ms``, else `sleep` seconds.

    Initial metadata goes out before the handler sleeps, so a client knows at once who has its call.
    """

    def __init__(self, name: str, sleep: float) -> None:
        self._name = name
        self._sleep = sleep
        self._metadata = ((SERVED_BY, name),)
        self.open_calls = 0
        self.served = 0

    async def SayHello(self, request: HelloRequest, context: Context) -> HelloReply:  # noqa: N802
        """Greet one name."""
        log.info("SayHello %s", request.name)
        self.open_calls += 1
        try:
            await context.send_initial_metadata(self._metadata)
            await self._pause(request)
            self.served += 1
            return self._greet(request.name)
        finally:
            self.open_calls -= 1

    async def SayHelloStream(self, request: HelloRequest, context: Context) -> AsyncIterator[HelloReply]:  # noqa: N802
        """Greet one name several times."""
        count = request.count or DEFAULT_REPLIES
        log.info("SayHelloStream %s, %d replies", request.name, count)
        self.open_calls += 1
        try:
            await context.send_initial_metadata(self._metadata)
            for _ in range(count):
                await self._pause(request)
                yield self._greet(request.name)
            self.served += 1
        finally:
            self.open_calls -= 1

    async def CollectHellos(self, requests: AsyncIterator[HelloRequest], context: Context) -> HelloReply:  # noqa: N802
        """Greet all names at once when the client has sent the last."""
        self.open_calls += 1
        try:
            await context.send_initial_metadata(self._metadata)
            names = [request.name async for request in requests]
            log.info("CollectHellos, %d names", len(names))
            await self._pause(HelloRequest())
            self.served += 1
            return self._greet(", ".join(names))
        finally:
            self.open_calls -= 1

    async def ChatHello(  # noqa: N802
        self, requests: AsyncIterator[HelloRequest], context: Context
    ) -> AsyncIterator[HelloReply]:
        """Greet each name as it arrives."""
        log.info("ChatHello")
        self.open_calls += 1
        try:
            await context.send_initial_metadata(self._metadata)
            async for request in requests:
                await self._pause(request)
                yield self._greet(request.name)
            self.served += 1
        finally:
            self.open_calls -= 1

    async def _pause(self, request: HelloRequest) -> None:
        seconds = request.interval_ms / 1000 or self._sleep
        if seconds:
            await asyncio.sleep(seconds)

    def _greet(self, names: str) -> HelloReply:
        return HelloReply(message=f"Hello {names}")
