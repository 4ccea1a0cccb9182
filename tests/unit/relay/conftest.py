"""A relay that is held to its law when the test is over."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.wire import Relay


@pytest.fixture
def make() -> Iterator[Callable[..., Relay]]:
    """Makes relays; each has to leave nothing behind once all its sockets are gone."""
    made: list[Relay] = []

    def build(*args: Any, **kwargs: Any) -> Relay:
        relay = Relay(*args, **kwargs)
        made.append(relay)
        return relay

    yield build
    for relay in made:
        relay.settle()


@pytest.fixture
def relay(make: Callable[..., Relay]) -> Relay:
    """One instance, named a."""
    return make()
