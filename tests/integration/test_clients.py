"""Real clients through the sidecar, unmodified: what the server sees and what the client gets is as without it."""

import base64
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from greeter.helloworld_pb2 import HelloRequest
from greeter.helloworld_pb2_grpc import GreeterStub
from tests.integration.echo_server import (
    DETAIL,
    DETAILS_KEY,
    FAIL,
    FAILURE,
    MESSAGE,
    SERVED_BY,
    SLEEP,
    EchoServer,
    dial,
    status_details,
)
from tests.stack import ROOT, Consul, Greeter, Sidecar, closing, until
from tests.tools import require

OCTETS = bytes(range(256))
# Empty, small, one octet around a frame's and a window's size, and more than a window.
MESSAGES = [b"", b"x", bytes(16_379), bytes(16_380), OCTETS * 256, bytes(300_000), b""]
KINDS = {"unary": 1, "stream": 3, "collect": 1, "chat": 3}
"""Replies the clients beside grpcio get in each kind of call."""


def run(name: str, *arguments: str, code: int = 0) -> str:
    """Run a client to its end, which has to be `code`; its output."""
    done = subprocess.run(
        [require(name), *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == code, f"{name} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def newest(echo: EchoServer, method: str, outcome: str) -> dict[str, Any]:
    """Wait until the latest call of a method has this outcome."""

    def found() -> dict[str, Any] | None:
        calls = echo.calls(method)
        return calls[-1] if calls and calls[-1]["outcome"] == outcome else None

    call: dict[str, Any] = until(found, f"{method} {outcome} at the server")
    return call


# grpcio


@pytest.mark.parametrize("message", MESSAGES, ids=len)
def test_unary(channel: grpc.Channel, message: bytes) -> None:
    assert channel.unary_unary("/test.Echo/Unary")(message, timeout=10) == message


def test_server_stream(channel: grpc.Channel) -> None:
    replies = list(channel.unary_stream("/test.Echo/Expand")(b"50 5000", timeout=10))
    assert replies == [bytes(5000)] * 50
    assert list(channel.unary_stream("/test.Echo/Expand")(b"0 0", timeout=10)) == []


def test_client_stream(channel: grpc.Channel) -> None:
    collect = channel.stream_unary("/test.Echo/Collect")
    assert collect(iter(MESSAGES), timeout=10) == str(sum(map(len, MESSAGES))).encode()
    assert collect(iter(()), timeout=10) == b"0"


def test_bidirectional_stream(channel: grpc.Channel) -> None:
    """Each reply is there before the next request is sent."""
    ready = threading.Semaphore(0)

    def requests() -> Iterator[bytes]:
        for message in MESSAGES:
            yield message
            assert ready.acquire(timeout=10)

    replies = []
    for reply in channel.stream_stream("/test.Echo/Chat")(requests(), timeout=20):
        replies.append(reply)
        ready.release()
    assert replies == MESSAGES


def test_the_client_closes_its_half_first(channel: grpc.Channel) -> None:
    """The server sees the end of the requests, and answers after it."""
    assert list(channel.stream_stream("/test.Echo/AfterEnd")(iter(MESSAGES), timeout=10)) == MESSAGES


def test_the_server_ends_before_the_client(channel: grpc.Channel) -> None:
    """gRPC PROTOCOL-HTTP2: a server may end a call whose requests go on; the client gets its OK."""
    ended = threading.Event()

    def requests() -> Iterator[bytes]:
        yield b"first"
        ended.wait(10)

    call = channel.stream_stream("/test.Echo/HangUp")(requests(), timeout=10)
    assert list(call) == [b"first"]
    assert call.code() is grpc.StatusCode.OK
    ended.set()


def test_an_error_keeps_code_message_and_details(channel: grpc.Channel) -> None:
    """A Trailers-Only answer, with a message that needs percent-encoding and a google.rpc.Status."""
    with pytest.raises(grpc.RpcError) as caught:
        GreeterStub(channel).SayHello(HelloRequest(name=FAIL), timeout=10)  # type: ignore[no-untyped-call]
    error: Any = caught.value
    assert error.code() is FAILURE
    assert error.details() == MESSAGE
    assert dict(error.trailing_metadata())[DETAILS_KEY] == status_details(MESSAGE)


def test_unknown_methods_are_the_servers_to_refuse(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/test.Echo/Nothing")(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_metadata_passes_as_it_is(channel: grpc.Channel) -> None:
    sent = [
        ("echo-text", "plain; with, signs=100%"),
        ("echo-twice", "one"),
        ("echo-twice", "two"),
        ("echo-empty", ""),
        ("echo-all-bin", OCTETS),
        ("echo-none-bin", b""),
    ]
    _, call = channel.unary_unary("/test.Echo/Unary").with_call(b"", timeout=10, metadata=sent)
    for received in (call.initial_metadata(), call.trailing_metadata()):
        assert sorted((key, value) for key, value in received if key.startswith("echo-")) == sorted(sent)


@pytest.mark.parametrize("octets", [15_000, 40_000])
def test_metadata_of_several_frames(channel: grpc.Channel, echo: EchoServer, octets: int) -> None:
    """Past 16 KiB a block needs CONTINUATION frames, in requests, responses and trailers."""
    text = "y" * octets
    _, call = channel.unary_unary("/test.Echo/Unary").with_call(b"", timeout=10, metadata=[("echo-big", text)])
    assert dict(call.initial_metadata())["echo-big"] == text
    assert dict(call.trailing_metadata())["echo-big"] == text


def test_gzip_stays_gzip(channel: grpc.Channel, sidecar: Sidecar) -> None:
    """What a client compressed crosses both hops compressed: 400,000 octets in less than 10,000."""
    before = sidecar.metrics()
    message = bytes(400_000)
    reply = channel.unary_unary("/test.Echo/Unary")(message, timeout=10, compression=grpc.Compression.Gzip)
    assert reply == message
    after = sidecar.metrics()
    for direction in ("downstream_received", "upstream_sent"):
        sample = f'sidecar_bytes_total{{direction="{direction}"}}'
        assert after[sample] - before[sample] < 10_000


def test_a_deadline_reaches_the_server(channel: grpc.Channel, echo: EchoServer) -> None:
    channel.unary_unary("/test.Echo/Unary")(b"", timeout=20)
    assert 15 < newest(echo, "Unary", "done")["remaining"] < 21
    channel.unary_unary("/test.Echo/Unary")(b"")
    assert newest(echo, "Unary", "done")["remaining"] is None


def test_a_deadline_ends_the_call_on_both_sides(channel: grpc.Channel, echo: EchoServer) -> None:
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        GreeterStub(channel).SayHello(HelloRequest(name=SLEEP), timeout=0.3)  # type: ignore[no-untyped-call]
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began >= 0.3
    assert 0 < newest(echo, "SayHello", "cancelled")["remaining"] < 0.4  # grpc rounds up


@pytest.mark.parametrize("method", ["SayHello", "SayHelloStream", "ChatHello"])
def test_cancellation_reaches_the_server(
    channel: grpc.Channel, echo: EchoServer, sidecar: Sidecar, method: str
) -> None:
    """While the handler works, and the instance has no call open afterwards."""
    call = begun(getattr(GreeterStub(channel), method), method, echo)  # type: ignore[no-untyped-call]
    call.cancel()
    newest(echo, method, "cancelled")
    until(lambda: sidecar.total("sidecar_rpcs_in_flight") == 0, "no call in flight")
    assert sidecar.total("sidecar_rpcs_handled_total", grpc_method=method, grpc_code="Canceled") >= 1


def begun(call: Any, method: str, echo: EchoServer) -> Any:
    """A call that the server works on and never answers."""
    request = HelloRequest(name=SLEEP)
    if method == "ChatHello":
        started = call(iter([request]))
    else:
        started = call.future(request) if method == "SayHello" else call(request)
    newest(echo, method, "open")
    return started


def test_a_client_that_vanishes_cancels_its_calls(echo: EchoServer, sidecar: Sidecar) -> None:
    with dial(sidecar.target) as channel:
        call = begun(GreeterStub(channel).SayHello, "SayHello", echo)  # type: ignore[no-untyped-call]
    newest(echo, "SayHello", "cancelled")
    assert call.code() is grpc.StatusCode.CANCELLED


def test_many_calls_on_few_streams() -> None:
    """An instance that takes 5 streams a connection never gets more; the rest of 100 calls wait, and none fails."""
    server = EchoServer(streams=5)
    sidecar = Sidecar("--endpoint", server.address)
    with closing(server, sidecar), dial(sidecar.target) as channel:
        sidecar.connected(1)
        stub = GreeterStub(channel)  # type: ignore[no-untyped-call]
        calls = [stub.SayHello.future(HelloRequest(name=str(number), interval_ms=100)) for number in range(100)]
        assert [call.result(timeout=20).message for call in calls] == [f"Hello {number}" for number in range(100)]
        peaks = {peer: peak for peer, peak in server.ledger()["peak"].items() if peak > 1}
        assert set(peaks.values()) == {5}
        assert len(peaks) == 8, "connections the sidecar may open to one instance"
        assert sidecar.total("sidecar_lost_rpcs_total") == 0


def test_a_unix_socket(echo: EchoServer, tmp_path: Path) -> None:
    target = f"unix:{tmp_path / 'sidecar.sock'}"
    sidecar = Sidecar("--endpoint", echo.address, "--listen", target)
    with closing(sidecar):
        assert sidecar.target == target
        sidecar.connected(1)
        with dial(target) as channel:
            assert list(channel.stream_stream("/test.Echo/Chat")(iter(MESSAGES), timeout=10)) == MESSAGES
        go(target)
        sidecar.signal()
        assert sidecar.exit() == 0
        assert not (tmp_path / "sidecar.sock").exists()


# grpcurl


PROTO = ("-plaintext", "-import-path", ".", "-proto", "greeter/helloworld.proto")
SOURCES = pytest.mark.parametrize("source", [PROTO, ("-plaintext",)], ids=["proto", "reflection"])


@SOURCES
def test_grpcurl_in_all_call_kinds(sidecar: Sidecar, source: tuple[str, ...]) -> None:
    def greet(method: str, *names: str) -> list[str]:
        sent = "".join(json.dumps({"name": name}) for name in names)
        output = run("grpcurl", *source, "-d", sent, sidecar.target, f"helloworld.Greeter/{method}")
        return [json.loads(line.partition(":")[2]) for line in output.splitlines() if '"message"' in line]

    assert greet("SayHello", "foo") == ["Hello foo"]
    assert greet("SayHelloStream", "foo") == ["Hello foo 0", "Hello foo 1", "Hello foo 2"]
    assert greet("CollectHellos", "foo", "bar") == ["Hello foo, bar"]
    assert greet("ChatHello", "foo", "bar") == ["Hello foo", "Hello bar"]


def test_grpcurl_lists_services_by_reflection(sidecar: Sidecar) -> None:
    assert "helloworld.Greeter" in run("grpcurl", "-plaintext", sidecar.target, "list").splitlines()
    assert "rpc SayHello" in run("grpcurl", "-plaintext", sidecar.target, "describe", "helloworld.Greeter")


@SOURCES
def test_grpcurl_shows_errors_with_details(sidecar: Sidecar, source: tuple[str, ...]) -> None:
    call = ("-d", json.dumps({"name": FAIL}), sidecar.target, "helloworld.Greeter/SayHello")
    output = run("grpcurl", *source, *call, code=64 + int(FAILURE.value[0]))
    assert "Code: FailedPrecondition" in output
    assert MESSAGE.split(" \n")[0] in output
    assert DETAIL.message in output


def test_grpcurl_with_a_deadline(sidecar: Sidecar) -> None:
    call = ("-max-time", "0.3", "-d", json.dumps({"name": SLEEP}), sidecar.target, "helloworld.Greeter/SayHello")
    assert "Code: DeadlineExceeded" in run("grpcurl", *PROTO, *call, code=64 + 4)


# grpc-go


def go(target: str, *flags: str, code: int = 0) -> dict[str, Any]:
    """Counts of one run of the grpc-go client for 50 ms."""
    report: dict[str, Any] = json.loads(
        run("goclient", "-target", target, "-duration", "50ms", "-rate", "100", *flags, code=code).splitlines()[0]
    )
    return report


@pytest.mark.parametrize("mode", KINDS)
def test_grpc_go(sidecar: Sidecar, mode: str) -> None:
    counts = go(sidecar.target, "-mode", mode, "-connections", "2")
    assert counts["ok"] == counts["sent"] >= 1
    assert counts["messages"] == KINDS[mode] * counts["ok"]
    assert counts["by_server"] == {"echo": counts["ok"]}


def test_grpc_go_gets_errors_as_they_are(sidecar: Sidecar, echo: EchoServer) -> None:
    failed = go(sidecar.target, "-name", FAIL, code=1)
    assert failed["errors"] == {"FailedPrecondition": failed["sent"]}
    assert failed["first_failures"][0]["message"] == MESSAGE


def test_grpc_go_with_a_deadline(sidecar: Sidecar, echo: EchoServer) -> None:
    late = go(sidecar.target, "-name", SLEEP, "-deadline", "300ms", code=1)
    assert late["errors"] == {"DeadlineExceeded": late["sent"]}
    assert 0 < newest(echo, "SayHello", "cancelled")["remaining"] < 0.4  # grpc rounds up


# grpc-js


def js(target: str, *flags: str, code: int = 0) -> dict[str, Any]:
    """Report of one call of the grpc-js client."""
    report: dict[str, Any] = json.loads(run("jsclient", "--target", target, *flags, code=code).splitlines()[0])
    return report


@pytest.mark.parametrize("mode", KINDS)
def test_grpc_js(sidecar: Sidecar, mode: str) -> None:
    """All call kinds, compressed, with binary metadata."""
    binary = base64.b64encode(OCTETS).decode()
    flags = ("--mode", mode, "--gzip", "--metadata", f"echo-all-bin={binary}", "--metadata", "echo-text=plain")
    report = js(sidecar.target, *flags)
    assert report["code"] == "OK"
    assert len(report["replies"]) == KINDS[mode]
    assert report["served_by"] == "echo"
    for received in (report["headers"], report["trailers"]):
        assert received["echo-all-bin"] == [binary]
        assert received["echo-text"] == ["plain"]


def test_grpc_js_gets_errors_with_details(sidecar: Sidecar) -> None:
    report = js(sidecar.target, "--name", FAIL, code=1)
    assert (report["code"], report["details"]) == ("FAILED_PRECONDITION", MESSAGE)
    assert base64.b64decode(report["trailers"][DETAILS_KEY][0]) == status_details(MESSAGE)


@pytest.mark.parametrize(("flag", "code"), [("--deadline", "DEADLINE_EXCEEDED"), ("--cancel-after", "CANCELLED")])
def test_grpc_js_ends_calls(sidecar: Sidecar, echo: EchoServer, flag: str, code: str) -> None:
    """By its deadline, and by cancelling; the server sees both."""
    report = js(sidecar.target, "--name", SLEEP, flag, "400", code=1)
    assert report["code"] == code
    assert newest(echo, "SayHello", "cancelled")["remaining"] < (0.5 if flag == "--deadline" else 11)


# Instances from Consul


def test_clients_of_a_service_in_consul() -> None:
    """The real greeter, found in a real Consul."""
    consul = Consul()
    with closing(consul):
        greeters = [Greeter(name, consul.url) for name in ("blue", "green")]
        with closing(*greeters):
            consul.passing(2)
            sidecar = Sidecar("--service", "greeter", "--consul", consul.url)
            with closing(sidecar), dial(sidecar.target) as channel:
                sidecar.connected(2)
                assert go(sidecar.target, "-rate", "0", "-concurrency", "1")["by_server"].keys() == {"blue", "green"}
                assert js(sidecar.target)["served_by"] in ("blue", "green")
                output = run("grpcurl", "-plaintext", "-v", sidecar.target, "helloworld.Greeter/SayHello")
                assert f"{SERVED_BY}: " in output
                stub = GreeterStub(channel)  # type: ignore[no-untyped-call]
                served = [
                    dict(stub.SayHello.with_call(HelloRequest(), timeout=5)[1].initial_metadata())[SERVED_BY]
                    for _ in range(10)
                ]
                assert served[0::2] != served[1::2]
                assert sorted(served) == ["blue"] * 5 + ["green"] * 5
