"""Suites that others wrote, through a sidecar with fixed endpoints."""

from collections.abc import Callable, Iterator

import pytest

from tests.stack import Process, Sidecar


@pytest.fixture
def running() -> Iterator[list[Process]]:
    """Processes that end with the test; the test appends them."""
    processes: list[Process] = []
    yield processes
    for process in reversed(processes):
        process.close()


@pytest.fixture
def sidecar_to(running: list[Process]) -> Callable[..., Sidecar]:
    """Starts a sidecar in front of one endpoint."""

    def start(endpoint: str, *flags: str) -> Sidecar:
        sidecar = Sidecar("--service", "suite", "--endpoint", endpoint, *flags)
        running.append(sidecar)
        sidecar.connected(1)
        return sidecar

    return start
