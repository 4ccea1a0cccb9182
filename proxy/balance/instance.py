"""What discovery says of one instance of a service."""

from dataclasses import dataclass
from typing import Final

PASSING: Final = "passing"
WARNING: Final = "warning"
CRITICAL: Final = "critical"
MAINTENANCE: Final = "maintenance"


@dataclass(frozen=True)
class Instance:
    """One instance as discovery sees it; a new value for every change.

    `key` names it for as long as it lives (Consul: "node/service-id", as ids are unique per agent only).
    `state` is what the registry says (passing, warning, critical, maintenance); `routable` is discovery's
    verdict after its policies: whether new calls may go there. `note` says why it is in that state, for people.
    """

    key: str
    host: str
    port: int
    state: str
    routable: bool
    tags: tuple[str, ...] = ()
    note: str = ""
