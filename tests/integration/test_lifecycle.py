"""From the first call to the last: what is counted, and how a sidecar leaves."""

import json
import signal
import socket
import struct
import subprocess
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import hpack
import pytest

from greeter.helloworld_pb2 import HelloRequest
from greeter.helloworld_pb2_grpc import GreeterStub
from proxy.http2 import constants as c
from tests import wire
from tests.integration.echo_server import FAIL, SLEEP, EchoServer, dial
from tests.stack import Process, Sidecar, closing, free_port, get, until
from tests.tools import require

HIGHEST_ID = 2**31 - 1
ENDED_EARLY = "cancelled, or past its deadline"


@pytest.fixture
def fresh(echo: EchoServer) -> Iterator[Sidecar]:
    """A sidecar for one test, which may end it."""
    process = Sidecar("--endpoint", echo.address)
    with closing(process):
        process.connected(1)
        yield process


def greeter(channel: grpc.Channel) -> Any:
    return GreeterStub(channel)  # type: ignore[no-untyped-call]


def in_flight(sidecar: Sidecar, count: int) -> None:
    until(lambda: sidecar.total("sidecar_rpcs_in_flight") == count, f"{count} calls in flight")


def connect(sidecar: Sidecar) -> socket.socket:
    host, _, port = sidecar.target.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def terminate(sidecar: Sidecar) -> None:
    """SIGTERM, and wait until the sidecar has taken it to heart."""
    sidecar.signal(signal.SIGTERM)
    sidecar.line("draining: ")


# Leaving.


def test_open_calls_finish(fresh: Sidecar) -> None:
    """Unary calls and streams of all kinds go on behind GOAWAY; then the sidecar ends by itself."""
    ended = threading.Event()

    def names() -> Iterator[HelloRequest]:
        yield HelloRequest(name="before")
        ended.wait(10)
        yield HelloRequest(name="after")

    with dial(fresh.target) as channel:
        stub = greeter(channel)
        unary = stub.SayHello.future(HelloRequest(name="unary", interval_ms=700))
        stream = stub.SayHelloStream(HelloRequest(name="stream", count=8, interval_ms=100))
        collect = stub.CollectHellos.future(names())
        chat = stub.ChatHello(names())
        assert next(chat).message == "Hello before"
        in_flight(fresh, 4)
        terminate(fresh)
        ended.set()
        assert unary.result(timeout=10).message == "Hello unary"
        assert len(list(stream)) == 8
        assert collect.result(timeout=10).message == "Hello before, after"
        assert [reply.message for reply in chat] == ["Hello after"]
        assert fresh.exit(10) == 0
    fresh.line(r"INFO .*drained in 0\.\d s|INFO .*drained in 1\.\d s")


def test_while_it_drains(fresh: Sidecar) -> None:
    """It says that it is not ready, and takes no new connections and no new calls."""
    with dial(fresh.target) as channel:
        call = greeter(channel).SayHello.future(HelloRequest(name="last", interval_ms=1000))
        in_flight(fresh, 1)
        assert get(f"http://{fresh.admin}/readyz") == (200, "ready\n")
        terminate(fresh)
        assert get(f"http://{fresh.admin}/readyz") == (503, "draining\n")
        assert get(f"http://{fresh.admin}/healthz")[0] == 200
        assert fresh.status()["draining"] is True
        with pytest.raises(ConnectionRefusedError):
            connect(fresh)
        with pytest.raises(grpc.RpcError) as caught:
            greeter(channel).SayHello(HelloRequest(name="late"), timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert call.result(timeout=10).message == "Hello last"
    assert fresh.exit(10) == 0


def frames(sock: socket.socket) -> Iterator[tuple[int, int, int, bytes]]:
    """What comes, to the end of the connection: kind, flags, stream and payload of each frame."""
    with sock.makefile("rb") as file:
        while head := file.read(9):
            length, kind, flags, stream_id = struct.unpack(">IBBI", b"\0" + head)
            yield kind, flags, stream_id, file.read(length)


def test_goaway_comes_in_two_steps(fresh: Sidecar) -> None:
    """RFC 9113 section 6.8: first with the highest id, then, one round trip later, with the last that was taken.

    A stream that the client opens in between is still served.
    """
    last_ids, ends = [], []
    with connect(fresh) as sock:
        sock.sendall(c.PREFACE + wire.settings())
        for kind, flags, stream_id, payload in frames(sock):
            if kind == c.SETTINGS and not flags:
                sock.sendall(wire.settings_ack())
                terminate(fresh)
            elif kind == c.GOAWAY:
                last_ids.append(int.from_bytes(payload[:4], "big"))
            elif kind == c.PING and not flags:
                assert last_ids == [HIGHEST_ID]
                message = wire.data(1, b"\0\0\0\0\2hi", wire.END)
                answer = wire.frame(int(c.PING), wire.ACK, 0, payload)
                sock.sendall(wire.request(1, path="/test.Echo/Unary") + message + answer)
            elif kind == c.HEADERS and flags & wire.END:
                ends.append((stream_id, dict(hpack.Decoder().decode(payload, raw=True))[b"grpc-status"]))
    assert last_ids == [HIGHEST_ID, 1]
    assert ends == [(1, b"0")]
    assert fresh.exit(10) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_without_calls_it_ends_at_once(fresh: Sidecar, number: signal.Signals) -> None:
    with dial(fresh.target) as channel:
        grpc.channel_ready_future(channel).result(10)
        began = time.monotonic()
        fresh.signal(number)
        assert fresh.exit(10) == 0
        assert time.monotonic() - began < 3
    fresh.line("INFO .*drained in ")


def test_the_drain_timeout_ends_what_does_not_finish(echo: EchoServer) -> None:
    sidecar = Sidecar("--endpoint", echo.address, "--drain-timeout", "600ms")
    with closing(sidecar), dial(sidecar.target) as channel:
        sidecar.connected(1)
        call = greeter(channel).SayHello.future(HelloRequest(name=SLEEP))
        in_flight(sidecar, 1)
        began = time.monotonic()
        terminate(sidecar)
        assert sidecar.exit(10) == 0
        assert 0.5 < time.monotonic() - began < 4
        sidecar.line("WARNING .*ended by the drain timeout after 0.6 s with 1 call open$")
        assert call.exception(timeout=10).code() is grpc.StatusCode.UNAVAILABLE
        until(lambda: echo.calls("SayHello")[-1]["outcome"] == "cancelled", "the end of the handler")


def test_a_second_signal_ends_the_drain(fresh: Sidecar) -> None:
    with dial(fresh.target) as channel:
        calls = [greeter(channel).SayHello.future(HelloRequest(name=SLEEP)) for _ in range(2)]
        in_flight(fresh, 2)
        terminate(fresh)
        assert fresh.running()
        began = time.monotonic()
        fresh.signal(signal.SIGTERM)
        assert fresh.exit(10) == 0
        assert time.monotonic() - began < 3
        fresh.line(r"WARNING .*ended by a second signal after \d\.\d s with 2 calls open")
        assert {call.exception(timeout=10).code() for call in calls} == {grpc.StatusCode.UNAVAILABLE}


# Counting.


def outcomes(sidecar: Sidecar, name: str) -> Counter[str]:
    """A metric's samples by gRPC code, those that are not zero."""
    counted: Counter[str] = Counter()
    for sample, value in sidecar.metrics().items():
        if sample.startswith(f"{name}{{"):
            counted[sample.partition('grpc_code="')[2].partition('"')[0]] += int(value)
    return +counted


def every_kind_of_end(channel: grpc.Channel, echo: EchoServer) -> Counter[str]:
    """Calls that end in all the ways there are; how many of each, by gRPC code as the metrics write them."""
    stub = greeter(channel)
    done: Counter[str] = Counter()
    for number in range(50):
        stub.SayHello(HelloRequest(name=str(number)), timeout=10)
        assert len(list(stub.SayHelloStream(HelloRequest(name=str(number), count=5), timeout=10))) == 5
        done["OK"] += 2
    for _ in range(10):
        with pytest.raises(grpc.RpcError):
            stub.SayHello(HelloRequest(name=FAIL), timeout=10)
        with pytest.raises(grpc.RpcError):
            channel.unary_unary("/test.Echo/Nothing")(b"", timeout=10)
        assert list(channel.stream_stream("/test.Echo/HangUp")(iter([b"x"]), timeout=10)) == [b"x"]
        done.update({"FailedPrecondition": 1, "Unimplemented": 1, "OK": 1})
    late = [stub.SayHello.future(HelloRequest(name=SLEEP), timeout=0.3) for _ in range(5)]
    assert {call.exception(10).code() for call in late} == {grpc.StatusCode.DEADLINE_EXCEEDED}
    given_up = [stub.SayHelloStream(HelloRequest(name=SLEEP)) for _ in range(5)]
    until(lambda: echo.ledger()["open"] == 5, "five streams at the server")
    for call in given_up:
        call.cancel()
    done[ENDED_EARLY] += 10
    return done


def settled(counted: Mapping[str, float]) -> Counter[str]:
    """Counts with one code for calls that ended early, as client and server race to end one whose deadline passes."""
    summed: Counter[str] = Counter()
    for code, count in counted.items():
        summed[ENDED_EARLY if code in ("Canceled", "DeadlineExceeded") else code] += int(count)
    return summed


def test_every_call_is_counted_once(fresh: Sidecar, echo: EchoServer) -> None:
    with dial(fresh.target) as channel:
        done = every_kind_of_end(channel, echo)
        until(lambda: fresh.total("sidecar_rpcs_handled_total") >= done.total(), "the last of the calls")
        handled = outcomes(fresh, "sidecar_rpcs_handled_total")
        assert settled(handled) == done
        assert handled["Canceled"] >= 5
        assert outcomes(fresh, "sidecar_upstream_rpcs_total") == handled
        assert fresh.total("sidecar_rpcs_started_total") == done.total()
        assert fresh.total("sidecar_rpc_duration_seconds_count") == done.total()
        assert fresh.total("sidecar_rpcs_in_flight") == 0
        assert fresh.total("sidecar_lost_rpcs_total") == fresh.total("sidecar_replays_total") == 0
        assert fresh.total("sidecar_protocol_errors_total") == 0
        assert fresh.total("sidecar_rpcs_started_total", grpc_method="SayHelloStream") == 55
        calls = fresh.status()["calls"]
        assert (calls["started"], calls["handled"], calls["in_flight"]) == (done.total(), done.total(), 0)


def test_calls_of_a_killed_instance_are_lost_and_counted() -> None:
    """They fail with UNAVAILABLE, the instance's name and the reason; the instance that is left takes the next."""
    doomed, other = EchoServer("doomed"), EchoServer("other")
    sidecar = Sidecar("--endpoint", doomed.address, "--endpoint", other.address)
    with closing(doomed, other, sidecar), dial(sidecar.target) as channel:
        sidecar.connected(2)
        stub = greeter(channel)
        calls = [stub.SayHello.future(HelloRequest(name=SLEEP)) for _ in range(6)]
        until(lambda: doomed.ledger()["open"] == other.ledger()["open"] == 3, "three calls at each")
        doomed.signal(signal.SIGKILL)
        until(lambda: sum(call.done() for call in calls) == 3, "the end of three calls")
        for call in calls:
            if call.done():
                assert call.code() is grpc.StatusCode.UNAVAILABLE
                loss = f"service static: the connection to instance {doomed.address} was lost: "
                assert call.details().startswith(loss), sidecar.output
        assert [stub.SayHello(HelloRequest(name="next"), timeout=5).message for _ in range(10)] == ["Hello next"] * 10
        assert sidecar.total("sidecar_lost_rpcs_total", cause="connection_lost") == 3
        assert sidecar.total("sidecar_upstream_rpcs_total", instance=doomed.address, grpc_code="Unavailable") == 3
        assert sidecar.total("sidecar_rpcs_in_flight") == 3
        sidecar.line(f"WARNING .*instance {doomed.address} takes no calls: ")
        for call in calls:
            call.cancel()
        in_flight(sidecar, 0)
        assert sidecar.total("sidecar_rpcs_started_total") == sidecar.total("sidecar_rpcs_handled_total") == 16


# Prometheus.


@pytest.fixture
def prometheus(fresh: Sidecar, tmp_path: Path) -> Iterator[Process]:
    """A real Prometheus that scrapes the sidecar every second; `address` is where it answers."""
    config = tmp_path / "prometheus.yml"
    target = {"job_name": "sidecar", "static_configs": [{"targets": [fresh.admin]}]}
    config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [target]}))  # JSON is YAML
    address = f"127.0.0.1:{free_port()}"
    process = Process(
        str(require("prometheus")), f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address={address}",
    )  # fmt: skip
    with closing(process):
        process.line("ready to receive web requests")
        process.address = address  # type: ignore[attr-defined]
        yield process


def query(prometheus: Any, expression: str) -> dict[str, float]:
    """The result of an instant query, by the code that a sample bears."""
    url = f"http://{prometheus.address}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    result = json.loads(get(url)[1])["data"]["result"]
    return {sample["metric"].get("grpc_code", ""): float(sample["value"][1]) for sample in result}


def test_prometheus_shows_every_call(fresh: Sidecar, prometheus: Process, echo: EchoServer) -> None:
    """Scraped without a warning, with the same numbers, and clean to promtool's lint."""
    with dial(fresh.target) as channel:
        done = every_kind_of_end(channel, echo)
    sums = "sum by (grpc_code) (sidecar_rpcs_handled_total) > 0"
    until(lambda: settled(query(prometheus, sums)) == done, f"{dict(done)} in Prometheus")
    assert query(prometheus, "sum(sidecar_rpcs_started_total)") == {"": done.total()}
    assert query(prometheus, "sum(sidecar_rpcs_in_flight)") == {"": 0}
    assert query(prometheus, "up") == {"": 1}
    assert query(prometheus, "histogram_quantile(0.99, sum by (le) (sidecar_rpc_duration_seconds_bucket))")[""] < 10
    assert not [line for line in prometheus.lines if "level=warn" in line or "level=error" in line]
    page = get(f"http://{fresh.admin}/metrics")[1]
    lint = subprocess.run(
        [require("promtool"), "check", "metrics"], input=page, capture_output=True, text=True, timeout=20, check=False
    )
    assert (lint.returncode, lint.stdout + lint.stderr) == (0, "")


def test_the_end_of_calls_in_flight_is_in_the_numbers(fresh: Sidecar) -> None:
    """A scrape in the midst of calls: started is ahead of handled by those in flight."""
    with dial(fresh.target) as channel:
        calls = [greeter(channel).SayHello.future(HelloRequest(name="x", interval_ms=500)) for _ in range(4)]
        in_flight(fresh, 4)
        assert fresh.total("sidecar_rpcs_started_total") - fresh.total("sidecar_rpcs_handled_total") == 4
        for call in calls:
            call.result(timeout=10)
        in_flight(fresh, 0)
        assert fresh.total("sidecar_rpcs_handled_total", grpc_method="SayHello", grpc_code="OK") == 4
