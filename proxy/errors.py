"""What ends the program early, and the exit codes that say so."""

from typing import Final

# sysexits.h: EX_USAGE, EX_UNAVAILABLE, EX_SOFTWARE. Scripts and service managers tell them apart.
EXIT_DRAINED: Final = 0
EXIT_USAGE: Final = 64
EXIT_CANNOT_BIND: Final = 69
EXIT_INTERNAL: Final = 70


class UsageError(Exception):
    """The configuration is wrong; the message names what, where it was given and what to do."""


class BindError(Exception):
    """An address cannot be listened on; `what` is its purpose, `reason` the system's."""

    def __init__(self, what: str, address: object, reason: str) -> None:
        super().__init__(f"cannot listen on {address} ({what}): {reason}")
