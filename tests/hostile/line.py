"""One connection of an attacker: sends what a generator yields, and notes how the relay ends it."""

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Final

from proxy.http2 import constants as c

KEPT: Final = "kept"
LEFT: Final = "left"
"""The attacker hung up."""
CUT: Final = "cut"
"""The socket ended without a word that could be read."""

_PIECE: Final = 16_384
_TAIL: Final = 4096


class Pace:
    """What an attack may do in a second, as two cores have to serve everybody."""

    OCTETS: Final = 16_000_000

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._connections = 0
        self._octets = 0

    def may_connect(self, rate: float) -> bool:
        """Whether one more connection may be opened now, with so many a second; counts it."""
        if self._connections > (time.monotonic() - self._began) * rate:
            return False
        self._connections += 1
        return True

    def may_send(self) -> bool:
        return self._octets <= (time.monotonic() - self._began) * self.OCTETS

    def sent(self, octets: int) -> None:
        self._octets += octets


def dialled(target: str, *, deaf: bool) -> socket.socket:
    """A connection to the relay; what a deaf client gets soon has no room in its kernel."""
    host, _, port = target.rpartition(":")
    connected = socket.socket()
    if deaf:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connected.connect((host, int(port)))
    return connected


class Line:
    """A raw socket. `turn` sends and reads what it can without waiting."""

    def __init__(
        self, connected: socket.socket, octets: Iterator[bytes | None], *, deaf: bool, stubborn: bool = False
    ) -> None:
        self.opened: list[int] = []
        """Streams that the relay has opened, where this is an instance."""
        self.over = False
        self._began = time.monotonic()
        self._octets = octets
        self._deaf = deaf
        self._stubborn = stubborn
        self._out = b""
        self._seen = b""
        self._answer = KEPT
        self._socket = connected
        self._socket.setblocking(False)

    def answer(self) -> str:
        return self._answer

    def age(self) -> float:
        """Seconds since it was opened."""
        return time.monotonic() - self._began

    def turn(self, pace: Pace) -> int:
        """Send what fits and read what came; the octets that moved."""
        moved = 0
        try:
            if not self._deaf:
                moved += self._read()
            if not self.over and pace.may_send():
                moved += self._send(pace)
        except OSError:
            # What came before the reset may still be read, unless the kernel dropped it.
            with contextlib.suppress(OSError):
                self._read()
            self._end(CUT)
        return moved

    def last_look(self) -> None:
        """Time is up: see what a connection that was not read has been told."""
        with contextlib.suppress(OSError):
            self._read()
        self._end(KEPT)

    def _send(self, pace: Pace) -> int:
        if not self._out:
            piece = next(self._octets, b"")
            if piece is None:
                self._end(LEFT)
                return 0
            self._out = piece
        if not self._out:
            return 0
        try:
            sent = self._socket.send(self._out[:_PIECE])
        except BlockingIOError:
            return 0
        self._out = self._out[sent:]
        pace.sent(sent)
        return sent

    def _read(self) -> int:
        octets = 0
        for _ in range(16):
            try:
                piece = self._socket.recv(65_536)
            except BlockingIOError:
                break
            if not piece:
                if self._stubborn:
                    self._deaf = True  # and goes on talking
                else:
                    self._end(CUT)
                break
            octets += len(piece)
            self._seen += piece
            self._parse()
            if self.over:
                break
        return octets

    def _parse(self) -> None:
        """Look for GOAWAY among the frames that came."""
        if self._seen.startswith(b"HTTP/"):
            self._answer = self._seen[:12].decode()
            return
        if self._seen and bytes(c.PREFACE).startswith(self._seen[: len(c.PREFACE)]):
            if len(self._seen) < len(c.PREFACE):
                return
            self._seen = self._seen[len(c.PREFACE) :]
        at = 0
        while len(self._seen) - at >= 9:
            length = int.from_bytes(self._seen[at : at + 3], "big")
            if len(self._seen) - at < 9 + length:
                break
            if self._seen[at + 3] == c.HEADERS:
                self.opened.append(int.from_bytes(self._seen[at + 5 : at + 9], "big"))
            elif self._seen[at + 3] == c.GOAWAY:
                code = int.from_bytes(self._seen[at + 13 : at + 17], "big")
                self._answer = f"GOAWAY {c.error_name(code)}"
                if not self._stubborn:
                    self._end(CUT)
            at += 9 + length
        self._seen = self._seen[at:]

    def _end(self, answer: str) -> None:
        """Close; `answer` says how it ended if nothing else was said."""
        if not self.over:
            self.over = True
            self._socket.close()
            if self._answer == KEPT:
                self._answer = answer
