"""A fixed list of instances: `--endpoint`."""

import asyncio
from collections.abc import Callable, Sequence

from proxy.balance.instance import PASSING, Instance
from proxy.discovery.histogram import Histogram
from proxy.values import Address


class StaticList:
    """The endpoints of the command line: always there, always routable, never older than now."""

    def __init__(self, endpoints: Sequence[Address]) -> None:
        self.source = "endpoints"
        self.last_error = ""
        self.errors: dict[str, int] = {}
        self.propagation = Histogram()
        self._applied = False
        self._instances = [
            Instance(str(address), address.host, address.port, PASSING, routable=True, note="given by --endpoint")
            for address in endpoints
        ]

    async def run(self, apply: Callable[[Sequence[Instance]], None]) -> None:
        """Apply the list once; there will be no change."""
        apply(self._instances)
        self._applied = True
        await asyncio.get_running_loop().create_future()

    def age(self) -> float | None:
        """0 once the list was applied."""
        return 0.0 if self._applied else None
