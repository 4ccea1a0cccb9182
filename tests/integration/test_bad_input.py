"""What is wrong is said: each bad input has an outcome that names what it is, where, and what to look at."""

import contextlib
import json
import re
import socket
import ssl
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import h2.connection
import h2.events
import pytest

from tests.integration.echo_server import EchoServer, dial
from tests.stack import Consul, Process, Sidecar, closing, free_port, get, until

USAGE, CANNOT_BIND = 64, 69
TRACE = "Traceback"
WAIT = "500ms"
"""How long a call waits for an instance that never comes."""


def ends(*flags: str, code: int, env: dict[str, str] | None = None) -> str:
    """Run the command to its end with `code`; the one line it says."""
    process = Process(sys.executable, "-m", "proxy", *flags, env=env)
    with closing(process):
        assert process.exit(10) == code, process.output
        assert len(process.lines) == 1, process.output
        return process.lines[0]


def refused(sidecar: Sidecar) -> str:
    """The message of a call that is answered with UNAVAILABLE, which is what clients retry."""
    with dial(sidecar.target) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/test.Echo/Unary")(b"", timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    message: str = caught.value.details()
    return message


# Flags, file and ports.


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "no service: give --service NAME"),
        (("--servce", "greeter"), "unrecognized arguments: --servce greeter; see --help"),
        (("--service", "greeter", "--listen", "50051"), '--listen: "50051" has no port: write HOST:PORT'),
        (("--service", "greeter", "--drain-timeout", "30"), '--drain-timeout: "30" is not a duration: write a number'),
        (("--service", "greeter", "--protocol", "http3"), "--protocol: 'http3' is unknown: write grpc or http2"),
        (("--service", "greeter", "--consul", "ftp://host"), '--consul: the scheme "ftp" is unknown: write http://'),
        (("--endpoint", "127.0.0.1:0"), '--endpoint: "127.0.0.1:0" has port 0, which cannot be dialled'),
        (("--config", "nowhere.toml"), "--config: cannot read nowhere.toml: No such file or directory; correct"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, tuple) else "",
)
def test_wrong_flags(flags: tuple[str, ...], message: str) -> None:
    assert ends(*flags, code=USAGE).startswith(f"grpc-sidecar: {message}")


def test_a_wrong_variable_is_named() -> None:
    said = ends("--service=greeter", code=USAGE, env={"GRPC_SIDECAR_LOG_LEVEL": "loud"})
    assert said == "grpc-sidecar: GRPC_SIDECAR_LOG_LEVEL: 'loud' is unknown: write debug or info or warning or error"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('service = "greeter', r"--config: \S*sidecar\.toml is not TOML: Unterminated string"),
        ('sevice = "greeter"', r"\S*sidecar\.toml: unknown key 'sevice'; did you mean service\?"),
        ("service = 1", r"service in \S*sidecar\.toml: must be a string, not an integer"),
        ('service = "a"\nadmin = "nowhere"', r'admin in \S*sidecar\.toml: "nowhere" has no port: write HOST:PORT'),
    ],
    ids=["no TOML", "unknown key", "wrong type", "wrong value"],
)
def test_a_wrong_file(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "sidecar.toml"
    file.write_text(text)
    said = ends(f"--config={file}", code=USAGE)
    assert re.match(f"grpc-sidecar: {message}", said), said


@pytest.mark.parametrize("purpose", ["listen", "admin"])
def test_a_port_in_use(purpose: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "{}:{}".format(*taken.getsockname())
        flags = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"} | {purpose: address}
        said = ends("--endpoint=127.0.0.1:1", *(f"--{name}={value}" for name, value in flags.items()), code=CANNOT_BIND)
    assert re.search(rf"ERROR .*cannot listen on {address} \({purpose}\): .*address already in use", said, re.I), said


@pytest.mark.parametrize("listen", ["203.0.113.7:50051", "no-such-host.invalid:50051", "unix:/nowhere/sidecar.sock"])
def test_an_address_that_is_not_here(listen: str) -> None:
    said = ends("--endpoint=127.0.0.1:1", "--admin=off", f"--listen={listen}", code=CANNOT_BIND)
    assert f"cannot listen on {listen} (listen): " in said


@pytest.mark.parametrize("purpose", ["listen", "admin"])
def test_the_socket_of_a_living_sidecar_is_not_taken(tmp_path: Path, purpose: str) -> None:
    """That of a dead one is."""
    path = tmp_path / "sidecar.sock"
    flags = ("--endpoint=127.0.0.1:1", f"--{purpose}=unix:{path}")
    with closing(Sidecar(*flags)):
        other = "--admin=off" if purpose == "listen" else "--listen=127.0.0.1:0"
        said = ends(*flags, other, code=CANNOT_BIND)
        assert re.search(rf"cannot listen on unix:{path} \({purpose}\): .*in use", said, re.I), said
    assert path.exists()
    with closing(Sidecar(*flags)) as (sidecar,):
        sidecar.signal()
        assert sidecar.exit() == 0
        assert not path.exists()


# Consul.


@pytest.fixture(scope="module")
def consul() -> Iterator[Consul]:
    agent = Consul()
    with closing(agent):
        yield agent


def put(url: str, body: object = None) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), method="PUT")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


def watching(service: str, url: str, wait: str = WAIT, token: str = "") -> Sidecar:
    env = {"CONSUL_HTTP_TOKEN": token} if token else None
    return Sidecar("--service", service, "--consul", url, "--wait-for-instances", wait, env=env)


def test_consul_is_not_there() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with closing(sidecar := watching("greeter", url)):
        reason = f"nothing heard from Consul at {url} yet: connection: Connection refused; is --consul right, and"
        assert f"service greeter: {reason}" in refused(sidecar)
        code, text = get(f"http://{sidecar.admin}/readyz")
        assert code == 503
        assert reason in text
        sidecar.line(f"WARNING .*Consul at {url} is lost")


@pytest.mark.parametrize(("token", "hint"), [("", "set CONSUL_HTTP_TOKEN"), ("bad", "acl: 403 .*ACL not found")])
def test_consul_denies(denying: Consul, token: str, hint: str) -> None:
    with closing(sidecar := watching("greeter", denying.url, token=token)):
        sidecar.line(f"WARNING .*{hint}")
        assert re.match(f"service greeter: nothing heard from Consul at {denying.url} yet: .*{hint}", refused(sidecar))
        assert sidecar.total("sidecar_discovery_errors_total", reason="acl") >= 1


@pytest.fixture(scope="module")
def denying() -> Iterator[Consul]:
    agent = Consul("-hcl", 'acl { enabled = true default_policy = "deny" }')
    with closing(agent):
        yield agent


def test_the_service_is_unknown(consul: Consul) -> None:
    with closing(sidecar := watching("grteer", consul.url)):
        reason = (
            f"no instance of grteer is known to Consul at {consul.url}; is the name right, and an instance registered?"
        )
        sidecar.line("WARNING .*grteer: Consul knows no instance")
        assert refused(sidecar) == f"service grteer: {reason}"
        assert get(f"http://{sidecar.admin}/readyz") == (503, f"{reason}\n")
        assert sidecar.total("sidecar_lost_rpcs_total", cause="no_instance") == 1


def test_no_instance_of_the_service_may_be_called(consul: Consul) -> None:
    agent = f"{consul.url}/v1/agent/service"
    put(f"{agent}/register", {"ID": "resting", "Name": "resting", "Address": "127.0.0.1", "Port": free_port()})
    put(f"{agent}/maintenance/resting?enable=true&reason=tired")
    with closing(sidecar := watching("resting", consul.url)):
        assert refused(sidecar) == "service resting: 1 instance (1 maintenance), none takes the call"
        sidecar.line("INFO .*resting .*is down: maintenance, tired")


def test_a_call_waits_for_the_first_instance(consul: Consul, echo: EchoServer) -> None:
    """It comes ahead of any instance, and succeeds as soon as one is there."""
    with closing(sidecar := watching("late", consul.url, wait="20s")), dial(sidecar.target) as channel:
        call = channel.unary_unary("/test.Echo/Unary").future(b"hi", timeout=20)
        until(lambda: sidecar.status()["calls"]["waiting"] == 1, "a call that waits")
        host, _, port = echo.address.rpartition(":")
        body = {"ID": "late", "Name": "late", "Address": host, "Port": int(port)}
        put(f"{consul.url}/v1/agent/service/register", body)
        assert call.result(timeout=10) == b"hi"


def test_a_call_waits_no_longer_than_it_may() -> None:
    with closing(sidecar := Sidecar(f"--endpoint=127.0.0.1:{free_port()}", "--wait-for-instances=1200ms")):
        began = time.monotonic()
        assert "Connection refused" in refused(sidecar)
        assert 1.2 <= time.monotonic() - began < 2.5


# Instances that are none.


@contextlib.contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A TCP server that hands each connection to `answer` and keeps it until the end; its address."""
    taken: list[socket.socket] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                taken.append(client)
                answer(client)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield "{}:{}".format(*listener.getsockname())
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for client in taken:
                client.close()


def says(words: bytes) -> Callable[[socket.socket], None]:
    def answer(client: socket.socket) -> None:
        client.sendall(words)

    return answer


def hangs_up(client: socket.socket) -> None:
    """As a server does that expects TLS."""
    client.recv(100)
    client.close()


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "the peer speaks HTTP/1, not gRPC"),
        (says(b"SSH-2.0-OpenSSH\r\n"), r"the peer does not speak HTTP/2; it began with 'SSH-2.0-OpenSSH\r\n'"),
        (says(b"\0\0\1\6\0\0\0\0\0x"), "the first frame is not SETTINGS"),
        (says(b""), "it accepted the connection, but has not said anything in HTTP/2 yet"),
        (hangs_up, "before it spoke HTTP/2"),
    ],
    ids=["HTTP/1", "garbage", "no SETTINGS", "mute", "hangs up"],
)
def test_an_instance_that_is_not_grpc(echo: EchoServer, answer: Callable[[socket.socket], None], problem: str) -> None:
    """Alone, calls say so; beside a good one, it gets none of them."""
    with serving(answer) as address:
        with closing(sidecar := Sidecar("--endpoint", address, "--wait-for-instances", WAIT)):
            message = refused(sidecar)
            state = "1 instance (1 passing but not connected), none takes the call"
            assert message.startswith(f"service static: {state}; last error: {address}: ")
            assert problem in message
            assert problem in get(f"http://{sidecar.admin}/readyz")[1]
            if "yet" not in problem:
                sidecar.line(f"WARNING .*instance {address} takes no calls: .*{re.escape(problem)}")
            assert TRACE not in sidecar.output
        with closing(sidecar := Sidecar("--endpoint", address, "--endpoint", echo.address)):
            sidecar.connected(1)
            with dial(sidecar.target) as channel:
                unary = channel.unary_unary("/test.Echo/Unary")
                assert [unary(b"hi", timeout=10) for _ in range(5)] == [b"hi"] * 5


def test_the_port_of_an_http_1_server(echo: EchoServer) -> None:
    """A real HTTP/1 server, the sidecar's own admin port."""
    other = Sidecar("--endpoint", echo.address)
    with closing(other), closing(sidecar := Sidecar("--endpoint", other.admin, "--wait-for-instances", WAIT)):
        assert "the peer speaks HTTP/1, not gRPC" in refused(sidecar)


# Clients that are none.


def exchange(sidecar: Sidecar, words: bytes) -> bytes:
    """Say something to the gRPC port; all of the answer, to the end of the connection."""
    host, _, port = sidecar.target.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(words)
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_a_client_that_speaks_http_1(sidecar: Sidecar) -> None:
    code, text = get(f"http://{sidecar.target}/helloworld.Greeter/SayHello")
    assert code == 505
    assert "This port speaks gRPC: HTTP/2 in clear text" in text
    assert "grpcurl -plaintext" in text


def test_a_client_that_speaks_http_1_after_a_while(sidecar: Sidecar) -> None:
    """Nothing of HTTP/2 goes ahead of its answer, however late the request."""
    host, _, port = sidecar.target.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=0.2) as client:
        with pytest.raises(TimeoutError):
            client.recv(100)
        client.settimeout(10)
        client.sendall(b"GET / HTTP/1.1\r\nHost: sidecar\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 505 ")


def test_a_request_that_is_not_grpc(sidecar: Sidecar) -> None:
    """HTTP/2 as curl speaks it: 415 with a line of text."""
    asked = h2.connection.H2Connection()
    asked.initiate_connection()
    fields = [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "sidecar")]
    asked.send_headers(1, fields, end_stream=True)
    host, _, port = sidecar.target.rpartition(":")
    events: list[h2.events.Event] = []
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(asked.data_to_send())
        while not any(isinstance(event, h2.events.StreamEnded) for event in events):
            events += asked.receive_data(client.recv(65536))
    assert [event.headers[0] for event in events if isinstance(event, h2.events.ResponseReceived)] == [
        (b":status", b"415")
    ]
    text = b"".join(event.data for event in events if isinstance(event, h2.events.DataReceived))
    assert b"content-type has to begin with application/grpc" in text


@pytest.mark.parametrize(
    "words", [b"SSH-2.0-client\r\n", bytes(range(1, 256)), b"\0" * 100], ids=["SSH", "octets", "zeros"]
)
def test_a_client_that_speaks_garbage(sidecar: Sidecar, words: bytes) -> None:
    """GOAWAY with the reason, and the end; the next client is served."""
    before = sidecar.total("sidecar_protocol_errors_total", side="downstream", code="PROTOCOL_ERROR")
    assert exchange(sidecar, words).endswith(b"the client preface is not HTTP/2's")
    after = sidecar.total("sidecar_protocol_errors_total", side="downstream", code="PROTOCOL_ERROR")
    assert after == before + 1
    sidecar.line(r"WARNING .*a client at 127\.0\.0\.1:\d+ is cut off: the client preface is not HTTP/2's")
    works(sidecar)


def test_a_client_that_speaks_tls(sidecar: Sidecar) -> None:
    host, _, port = sidecar.target.rpartition(":")
    context = ssl.create_default_context()
    with socket.create_connection((host, int(port)), timeout=10) as raw, pytest.raises(ssl.SSLError):
        context.wrap_socket(raw, server_hostname="localhost")
    sidecar.line(r"WARNING .*a client at 127\.0\.0\.1:\d+ is cut off: TLS on a plain text port")
    works(sidecar)


def works(sidecar: Sidecar) -> None:
    with dial(sidecar.target) as channel:
        assert channel.unary_unary("/test.Echo/Unary")(b"hi", timeout=10) == b"hi"
    assert TRACE not in sidecar.output
