"""Command line flags with a variable in the environment each, as the server and the client have them."""

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

USAGE_EXIT = 64
"""Exit code for a wrong flag, EX_USAGE of sysexits.h."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)")
_SINGLE_DASH = re.compile(r"-[A-Za-z][A-Za-z-]+(=.*)?", re.DOTALL)


def duration(text: str) -> float:
    """Return the seconds that ``500ms``, ``3s`` or ``1m`` stand for; raises `argparse.ArgumentTypeError`."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 500ms, 3s or 1m")
    return float(match[1]) * _UNITS[match[2]]


def port(text: str) -> int:
    """Return a TCP port, 0 for any free one; raises `argparse.ArgumentTypeError`."""
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; it goes from 0 to 65535")
    return int(text)


def count(text: str) -> int:
    """Return a number of calls, 0 for no end; raises `argparse.ArgumentTypeError`."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of calls; 0 means without end")
    return int(text)


class Parser(argparse.ArgumentParser):
    """Takes ``-name=foo`` as Go programs do, and each flag from ``GREETER_<FLAG>`` where it is not given."""

    def __init__(self, environ: Mapping[str, str] | None = None, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)
        self._environ = os.environ if environ is None else environ

    def flag(self, name: str, *, default: str | None, parse: Any = str, text: str) -> None:
        """Add ``--name``; `default` is what the user would have typed, None for no value."""
        variable = "GREETER_" + name.upper().replace("-", "_")
        self.add_argument(
            f"--{name}",
            # A string default goes through `type` as well, so a bad variable is a usage error too.
            default=self._environ.get(variable, default),
            type=parse,
            metavar=name.upper(),
            help=f"{text} (default {default or 'none'}; {variable})",
        )

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Parse `argv` without the program's name, None for that of the process; exits 64 on a wrong flag."""
        words = sys.argv[1:] if argv is None else argv
        return self.parse_args([f"-{word}" if _SINGLE_DASH.fullmatch(word) else word for word in words])

    def error(self, message: str) -> NoReturn:
        """Exit 64 with the reason and how to see the flags."""
        self.exit(USAGE_EXIT, f"{self.prog}: {message}\n{self.prog}: --help lists the flags\n")
