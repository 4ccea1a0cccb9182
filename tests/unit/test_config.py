from collections.abc import Mapping
from pathlib import Path

import pytest

from proxy.config import Address, Config, load
from proxy.consul_config import ConsulConfig
from proxy.errors import UsageError
from proxy.values import parse_address, parse_duration


def _config(*argv: str, **environ: str) -> Config:
    return load(argv, environ)


def _consul(url: str = "", **environ: str) -> ConsulConfig:
    flags = ["--consul", url] if url else []
    consul = load(["--service", "greeter", *flags], environ).consul
    assert consul is not None
    return consul


def _refusal(argv: list[str], environ: Mapping[str, str] | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        load(argv, environ or {})
    return str(caught.value)


def test_defaults() -> None:
    assert _config("--service", "greeter") == Config(
        service="greeter",
        listen=Address("127.0.0.1", 50051),
        admin=Address("127.0.0.1", 9464),
        consul=ConsulConfig(),
        endpoints=(),
        tag="",
        datacenter="",
        wait_for_instances=5.0,
        drain_timeout=30.0,
        protocol="grpc",
        log_level="info",
        log_format="text",
    )


def test_flag_beats_environment_beats_file(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.toml"
    file.write_text('service = "from-file"\ntag = "from-file"\ndatacenter = "from-file"\n')
    config = _config(
        "--config", str(file), "--service", "from-flag", GRPC_SIDECAR_SERVICE="from-env", GRPC_SIDECAR_TAG="from-env"
    )
    assert (config.service, config.tag, config.datacenter) == ("from-flag", "from-env", "from-file")


def test_file_can_be_named_by_the_environment_and_holds_every_setting(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.toml"
    file.write_text(
        'listen = "unix:/run/sidecar.sock"\nadmin = "off"\nendpoint = ["10.0.0.1:1", "[::1]:2"]\n'
        'wait-for-instances = "500ms"\ndrain-timeout = "1m"\nprotocol = "http2"\n'
        'log-level = "debug"\nlog-format = "json"\n'
    )
    config = _config(GRPC_SIDECAR_CONFIG=str(file))
    assert config == Config(
        service="static",
        listen=Address(path="/run/sidecar.sock"),
        admin=None,
        consul=None,
        endpoints=(Address("10.0.0.1", 1), Address("::1", 2)),
        tag="",
        datacenter="",
        wait_for_instances=0.5,
        drain_timeout=60.0,
        protocol="http2",
        log_level="debug",
        log_format="json",
    )


def test_endpoints_come_from_repeated_flags_or_a_list_in_the_environment() -> None:
    expected = (Address("a", 1), Address("b", 2))
    assert _config("--endpoint", "a:1", "--endpoint", "b:2").endpoints == expected
    assert _config(GRPC_SIDECAR_ENDPOINT="a:1, b:2").endpoints == expected


def test_an_empty_variable_is_an_unset_one() -> None:
    assert _config("--service", "greeter", GRPC_SIDECAR_LISTEN="").listen.port == 50051


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("3s", 3.0), ("1m", 60.0), ("0s", 0.0), ("1.5s", 1.5), ("24h", 86400.0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "1 s", "1S", "1e3s", "25h", "1d", "٣s", "9" * 400 + "s"])
def test_wrong_durations_say_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "address", "again"),
    [
        ("127.0.0.1:0", Address("127.0.0.1", 0), "127.0.0.1:0"),
        ("greeting_server-blue.example:50000", Address("greeting_server-blue.example", 50000), ""),
        ("[::1]:50051", Address("::1", 50051), "[::1]:50051"),
        ("[fe80::1%eth0]:1", Address("fe80::1%eth0", 1), ""),
        ("unix:relative.sock", Address(path="relative.sock"), "unix:relative.sock"),
        ("unix:///run/a.sock", Address(path="/run/a.sock"), "unix:/run/a.sock"),
    ],
)
def test_addresses(text: str, address: Address, again: str) -> None:
    assert parse_address(text) == address
    assert str(address) == (again or text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "50051", ":50051", "::1:50051", "[::1]", "[::g]:1", "a:b", "a:65536", "a:-1", "a:٣"),
        *("http://a:1", "a b:1", "a:1/", "unix:", "unix:/" + "x" * 107),
    ],
)
def test_wrong_addresses_say_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match=r"write|at most"):
        parse_address(text)


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        ([], ["no service", "--service NAME", "--endpoint"]),
        (["--nonsense"], ["--nonsense", "--help"]),
        (["--serv", "greeter"], ["--serv"]),
        (["--service"], ["--service", "expected one argument"]),
        (["--service", "a/b"], ["--service", "slash"]),
        (["--service", "a", "--listen", "50051"], ["--listen", '"50051" has no port', "HOST:PORT"]),
        (["--service", "a", "--admin", "nope"], ["--admin", "no port"]),
        (["--service", "a", "--drain-timeout", "30"], ["--drain-timeout", '"30"', "30" and "3s"]),
        (["--service", "a", "--protocol", "h3"], ["--protocol", "'h3' is unknown", "grpc or http2"]),
        (["--service", "a", "--log-level", "loud"], ["--log-level", "debug or info or warning or error"]),
        (["--endpoint", "unix:/a"], ["--endpoint", "HOST:PORT"]),
        (["--endpoint", "a:0"], ["--endpoint", "port 0"]),
        (["--endpoint", "a:1", "--endpoint", "a:1"], ["--endpoint", "a:1 is given twice"]),
        (["--config", "/nowhere/x.toml"], ["--config", "/nowhere/x.toml", "No such file"]),
        (["--service", "a", "--consul", "ftp://a"], ["--consul", '"ftp"', "http://HOST:PORT"]),
        (["--service", "a", "--consul", "http://a:1/prefix"], ["--consul", "nothing may follow the port"]),
    ],
)
def test_wrong_flags_are_refused_with_what_where_and_what_to_do(argv: list[str], parts: list[str]) -> None:
    message = _refusal(argv)
    assert [part for part in parts if part not in message] == [], message
    assert "\n" not in message


def test_a_wrong_variable_is_named() -> None:
    message = _refusal(["--service", "a"], {"GRPC_SIDECAR_WAIT_FOR_INSTANCES": "soon"})
    assert message.startswith('GRPC_SIDECAR_WAIT_FOR_INSTANCES: "soon" is not a duration')


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("servise = 'a'", ["unknown key 'servise'", "did you mean service?"]),
        ("drain_timeout = '1s'", ["unknown key 'drain_timeout'", "did you mean drain-timeout?"]),
        ("[consul]\naddress = 'x'", ["consul in", "a table"]),
        ("drain-timeout = 30", ["drain-timeout in", "not an integer", 'drain-timeout = "30s"']),
        ("endpoint = ['a:1', 2]", ["endpoint in", "a string or a list of strings", "an integer"]),
        ("service = true", ["service in", "not a boolean"]),
        ("service = ['a']", ["service in", "not an array"]),
        ("service = ", ["--config", "is not TOML", "at end of document"]),
        ("config = 'other.toml'", ["unknown key 'config'"]),
        ('service = "\\u001b[31m/"', ["service in", "is not a name"]),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, content: str, parts: list[str]) -> None:
    file = tmp_path / "sidecar.toml"
    file.write_text(content)
    message = _refusal(["--config", str(file)])
    assert [part for part in [*parts, str(file)] if part not in message] == [], message
    assert "\x1b" not in message


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.toml"
    file.write_bytes(b"\xff\xfe")
    assert "is not TOML" in _refusal(["--config", str(file)])


def test_settings_without_effect_are_warned_of() -> None:
    config = _config("--endpoint", "a:1", "--tag", "blue", GRPC_SIDECAR_CONSUL="http://c:1", GRPC_SIDECAR_SERVISE="x")
    assert config.consul is None
    assert config.warnings == (
        "GRPC_SIDECAR_CONSUL has no effect, as endpoints are given",
        "--tag has no effect, as endpoints are given",
        "GRPC_SIDECAR_SERVISE has no effect: it is no setting; see --help",
    )


def test_variables_that_kubernetes_sets_are_not_warned_of() -> None:
    assert _config("--service", "a", GRPC_SIDECAR_PORT="tcp://1", GRPC_SIDECAR_SERVICE_HOST="1").warnings == ()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://10.0.0.1:8500", "http://10.0.0.1:8500"),
        ("https://consul.example", "https://consul.example:443"),
        ("http://consul.example/", "http://consul.example:80"),
        ("consul:8500", "http://consul:8500"),
        ("http://[::1]:8500", "http://[::1]:8500"),
        ("[::1]:8500", "http://[::1]:8500"),
        ("unix:///run/consul.sock", "unix:///run/consul.sock"),
        ("unix://run/consul.sock", "unix://run/consul.sock"),
    ],
)
def test_consul_urls_from_flag_and_variable(url: str, expected: str) -> None:
    assert _consul(url).url == expected
    assert _consul(CONSUL_HTTP_ADDR=url).url == expected


def test_the_flag_beats_the_variables_of_consul() -> None:
    assert _consul("http://a:1", CONSUL_HTTP_ADDR="https://b:2", CONSUL_HTTP_SSL="true").url == "http://a:1"


def test_asking_for_tls_turns_addresses_of_the_environment_to_https() -> None:
    assert _consul(CONSUL_HTTP_ADDR="b:2", CONSUL_HTTP_SSL="true").url == "https://b:2"
    assert _consul(CONSUL_HTTP_ADDR="http://b:2", CONSUL_HTTP_SSL="1").url == "https://b:2"
    assert _consul(CONSUL_HTTP_SSL="true").url == "https://127.0.0.1:8500"


def test_all_variables_of_consul(tmp_path: Path) -> None:
    files = {name: str(tmp_path / name) for name in ("token", "ca", "cert", "key")}
    for path in files.values():
        Path(path).write_text("x")
    assert _consul(
        "https://consul:8501",
        CONSUL_HTTP_TOKEN="secret",
        CONSUL_HTTP_TOKEN_FILE=files["token"],
        CONSUL_CACERT=files["ca"],
        CONSUL_CLIENT_CERT=files["cert"],
        CONSUL_CLIENT_KEY=files["key"],
        CONSUL_TLS_SERVER_NAME="agent.example",
        CONSUL_HTTP_SSL_VERIFY="false",
        CONSUL_HTTP_AUTH="user:password",
        CONSUL_NAMESPACE="team",
        CONSUL_PARTITION="east",
    ) == ConsulConfig(
        scheme="https",
        host="consul",
        port=8501,
        userinfo="user:password",
        token="secret",
        token_file=files["token"],
        ca_file=files["ca"],
        client_cert=files["cert"],
        client_key=files["key"],
        server_name="agent.example",
        verify=False,
        namespace="team",
        partition="east",
    )


def test_secrets_are_in_no_repr() -> None:
    config = load(["--service", "a", "--consul", "http://user:pass%40word@c:1"], {"CONSUL_HTTP_TOKEN": "hush-hush"})
    assert config.consul is not None
    assert config.consul.userinfo == "user:pass@word"
    for text in (repr(config), str(config.consul), config.consul.url):
        assert "hush" not in text
        assert "pass" not in text


@pytest.mark.parametrize(
    "url", ["http://user:hunter2", "http://u:hunter2@:1", "http://u:hunter2@a:b", "http://u:hunter2@[", "hunter2://a"]
)
def test_errors_never_repeat_a_password(url: str) -> None:
    message = _refusal(["--service", "a", "--consul", url])
    assert message.startswith("--consul: ")
    if not url.startswith("hunter2"):
        assert "hunter2" not in message


@pytest.mark.parametrize(
    ("environ", "part"),
    [
        ({"CONSUL_HTTP_TOKEN_FILE": "/nowhere/token"}, "CONSUL_HTTP_TOKEN_FILE: cannot read /nowhere/token: No such"),
        ({"CONSUL_HTTP_SSL_VERIFY": "maybe"}, 'CONSUL_HTTP_SSL_VERIFY: "maybe" is neither true nor false'),
        ({"CONSUL_HTTP_ADDR": "a:b"}, "CONSUL_HTTP_ADDR: its port"),
        ({"CONSUL_HTTP_TOKEN": "a\r\nb"}, "CONSUL_HTTP_TOKEN holds"),
        ({"CONSUL_HTTP_SSL": "true", "CONSUL_CLIENT_KEY": "/dev/null"}, "CONSUL_CLIENT_KEY is set without"),
        ({"CONSUL_HTTP_ADDR": "unix://"}, "CONSUL_HTTP_ADDR: the unix socket has no path"),
    ],
)
def test_wrong_variables_of_consul_are_named(environ: dict[str, str], part: str) -> None:
    assert part in _refusal(["--service", "a"], environ)
