"""A server that does as it is told, and a sidecar in front of it; both serve all tests of a module."""

from collections.abc import Iterator

import grpc
import pytest

from tests.integration.echo_server import BIG_METADATA, EchoServer, dial
from tests.stack import Sidecar, closing


@pytest.fixture(scope="module")
def echo() -> Iterator[EchoServer]:
    server = EchoServer()
    with closing(server):
        yield server


@pytest.fixture(scope="module")
def sidecar(echo: EchoServer) -> Iterator[Sidecar]:
    process = Sidecar("--endpoint", echo.address)
    with closing(process):
        process.connected(1)
        yield process


@pytest.fixture
def channel(sidecar: Sidecar) -> Iterator[grpc.Channel]:
    """A grpcio channel through the sidecar."""
    with dial(sidecar.target, BIG_METADATA) as opened:
        yield opened
