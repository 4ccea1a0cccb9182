"""What the connections ask of whoever routes calls; one service's `Cluster` is one, several could share another."""

from proxy.relay.streams import Call


class Dispatcher:
    """Routes calls to instances."""

    def route(self, call: Call) -> None:
        """Send a call to an instance now, keep it waiting, or answer it."""

    def abandon(self, call: Call) -> None:
        """A waiting call was reset by its client."""
