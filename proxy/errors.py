"""What ends the program early, and the exit codes that say so."""

import os
from typing import Final

# sysexits.h: EX_USAGE, EX_UNAVAILABLE, EX_SOFTWARE. Scripts and service managers tell them apart.
EXIT_DRAINED: Final = 0
EXIT_USAGE: Final = 64
EXIT_CANNOT_BIND: Final = 69
EXIT_INTERNAL: Final = 70


def system_reason(error: OSError) -> str:
    """Return the system's words for an error; event loops put sentences of their own around them."""
    # Numbers below zero are the resolver's, which os.strerror does not know.
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error)


class UsageError(Exception):
    """The configuration is wrong; the message names what, where it was given and what to do."""


class BindError(Exception):
    """An address cannot be listened on; `what` is its purpose, `reason` the system's."""

    def __init__(self, what: str, address: object, reason: str) -> None:
        super().__init__(f"cannot listen on {address} ({what}): {reason}")
