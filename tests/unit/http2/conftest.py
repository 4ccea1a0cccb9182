"""The relay of `tests.wire`, held to its law when a test is over."""

from tests.unit.relay.conftest import make, relay

__all__ = ["make", "relay"]
