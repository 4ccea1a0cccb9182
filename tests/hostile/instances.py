"""What hostile instances do once calls come, and how their connections end.

``python -m tests.hostile.instances --only "endless CONTINUATION"`` listens, says where, and prints on SIGTERM as JSON
how its connections ended.
"""

import argparse
import json
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from proxy.http2 import constants as c
from proxy.http2.fields import literal
from tests.hostile.attacks import CALM, COMPRESSION, FLOW, PROTOCOL
from tests.hostile.line import CUT, KEPT, Line, Pace
from tests.stack import Process
from tests.wire import (
    continuation,
    data,
    frame,
    goaway,
    headers,
    ping,
    reset,
    response,
    settings,
    settings_ack,
    trailers,
    window_update,
)  # fmt: skip

Octets = Iterator[bytes | None]
READY = "listens at "


@dataclass(frozen=True)
class Behaviour:
    """One way to do harm. `octets` gets the list of streams that the relay opens, as it grows."""

    name: str
    answers: tuple[str, ...]
    octets: Callable[[list[int]], Octets]
    deaf: bool = False


def greeting() -> bytes:
    return settings() + settings_ack()


def each(reply: Callable[[int], bytes]) -> Callable[[list[int]], Octets]:
    """The same reply to each call."""

    def octets(opened: list[int]) -> Octets:
        yield greeting()
        while True:
            yield reply(opened.pop(0)) if opened else b""

    return octets


def first(reply: Callable[[int], bytes], unit: Callable[[int], bytes]) -> Callable[[list[int]], Octets]:
    """A reply to the first call, and then the same without end."""

    def octets(opened: list[int]) -> Octets:
        yield greeting()
        while not opened:
            yield b""
        at = opened[0]
        yield reply(at)
        while True:
            yield unit(at)

    return octets


def flood(unit: bytes) -> Callable[[list[int]], Octets]:
    return first(lambda _: b"", lambda _: unit)


def unasked(unit: bytes) -> Callable[[list[int]], Octets]:
    """As one does who does not read that there are calls."""

    def octets(opened: list[int]) -> Octets:
        del opened
        yield greeting()
        while True:
            yield unit

    return octets


def garbage(opened: list[int]) -> Octets:
    del opened
    yield bytes(range(255, 0, -1)) * 50


def leaves(opened: list[int]) -> Octets:
    """Ends each connection when the first call comes."""
    yield greeting()
    while not opened:
        yield b""
    yield None


def silent(opened: list[int]) -> Octets:
    del opened
    yield greeting()


def dribble(opened: list[int]) -> Octets:
    """A response octet by octet, without end."""
    yield greeting()
    while not opened:
        yield b""
    at = opened[0]
    yield response(at)
    while True:
        yield data(at, b"\0")
        yield b""


_BOMB = b"\x88" + literal(b"x", b"y") * 3000
_INTERIM = b"\x08\x03103"
BEHAVIOURS = (
    Behaviour("garbage", (PROTOCOL,), garbage),
    Behaviour("undecodable blocks", (COMPRESSION,), each(lambda at: headers(at, b"\xff" * 20))),
    Behaviour("malformed responses", (CALM, KEPT), each(lambda at: headers(at, b"\x88" + literal(b"X", b"")))),
    Behaviour("endless CONTINUATION", (CALM,), first(
        lambda at: frame(int(c.HEADERS), 0, at, b"\x88"), lambda at: continuation(at, literal(b"x", b"y") * 100)
    )),
    Behaviour("endless interim responses", (CALM, KEPT), first(lambda _: b"", lambda at: headers(at, _INTERIM) * 50)),
    Behaviour("header bomb", (CALM, KEPT), each(lambda at: headers(at, _BOMB))),
    Behaviour("PING flood", (CALM,), flood(ping() * 5000)),
    Behaviour("PING flood, unread", (CALM, CUT), unasked(ping() * 5000), deaf=True),
    Behaviour("SETTINGS flood", (CALM,), flood(settings() * 500)),
    Behaviour("empty DATA", (CALM,), first(response, lambda at: data(at, b"") * 50)),
    Behaviour("DATA beyond the window", (FLOW, KEPT), first(response, lambda at: data(at, bytes(16_384)))),
    Behaviour("DATA on streams nobody opened", (PROTOCOL,), first(lambda _: b"", lambda _: data(99_999, b"x"))),
    Behaviour("WINDOW_UPDATE of 0", (PROTOCOL,), each(lambda at: window_update(at, 0))),
    Behaviour("WINDOW_UPDATE flood", (CALM,), flood(window_update(0, 1) * 500)),
    Behaviour("window overflow", (FLOW,), each(lambda at: window_update(at, 0x7FFF_FFFF))),
    Behaviour("PUSH_PROMISE", (PROTOCOL,), each(lambda at: frame(5, 4, at, b"\0\0\0\2\x82"))),
    Behaviour("resets all", (KEPT,), each(lambda at: reset(at, int(c.INTERNAL_ERROR)))),
    Behaviour("refuses all", (KEPT,), each(lambda at: reset(at, int(c.REFUSED_STREAM)))),
    Behaviour("GOAWAY to all", ("GOAWAY NO_ERROR", KEPT), each(lambda _: goaway(0))),
    Behaviour("hangs up", ("left",), leaves),
    Behaviour("trailers twice", ("GOAWAY STREAM_CLOSED", PROTOCOL), each(
        lambda at: response(at) + trailers(at) + trailers(at)
    )),
    Behaviour("dribbles", (KEPT,), dribble),
    Behaviour("never answers", (KEPT,), silent),
    Behaviour("never reads", (KEPT, CUT), silent, deaf=True),
)  # fmt: skip


def serve(behaviour: Behaviour, listener: socket.socket, going: Callable[[], bool]) -> Counter[str]:
    """Take connections while `going`; how they ended."""
    listener.setblocking(False)
    pace = Pace()
    lines: list[Line] = []
    answers: Counter[str] = Counter()
    while going():
        moved = 0
        try:
            client, _ = listener.accept()
        except BlockingIOError:
            pass
        else:
            opened: list[int] = []
            line = Line(client, behaviour.octets(opened), deaf=behaviour.deaf)
            line.opened = opened
            lines.append(line)
        for line in list(lines):
            moved += line.turn(pace)
            if line.over:
                lines.remove(line)
                answers[line.answer()] += 1
        time.sleep(0 if moved else 0.001)
    for line in lines:
        line.last_look()
        if line.answer() != KEPT or KEPT in behaviour.answers or not answers:
            answers[line.answer()] += 1
    return answers


class HostileInstance(Process):
    """This module in a process, waited for until it listens."""

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__(sys.executable, "-m", "tests.hostile.instances", "--only", behaviour.name)
        with self.starting():
            self.address = self.line(READY + r"(\S+)")[1]

    def answers(self) -> Counter[str]:
        """End it; how its connections ended."""
        self.signal()
        code = self.exit()
        assert code == 0, f"the instance ended with {code}:\n{self.output}"
        return Counter(json.loads(self.lines[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", required=True, help="the behaviour's name")
    name = parser.parse_args().only
    behaviour = next(known for known in BEHAVIOURS if known.name == name)
    ended = False

    def end(*_: object) -> None:
        nonlocal ended
        ended = True

    signal.signal(signal.SIGTERM, end)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(READY + "{}:{}".format(*listener.getsockname()), flush=True)
        print(json.dumps(serve(behaviour, listener, lambda: not ended)), flush=True)


if __name__ == "__main__":
    main()
