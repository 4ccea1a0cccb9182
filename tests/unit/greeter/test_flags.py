import pytest

from greeter import client, server
from greeter.flags import duration


@pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("3s", 3.0), ("1m", 60.0), ("0s", 0.0), ("1.5s", 1.5)])
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["3", "", "-1s", "3 s", "s", "1h", "1s2s"])
def test_a_wrong_duration_is_a_usage_error(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        server.flags([f"--sleep={text}"], {})
    assert stopped.value.code == 64
    assert "write 500ms, 3s or 1m" in capsys.readouterr().err


def test_server_defaults() -> None:
    options = server.flags([], {})
    assert (options.name, options.service, options.port, options.tag) == ("greeter-server", "greeter", 50000, "")
    assert (options.host, options.sleep, options.grace, options.settle) == (None, 0.0, 30.0, 3.0)
    assert str(options.consul) == "http://127.0.0.1:8500"


def test_flag_beats_environment_beats_default() -> None:
    environ = {"GREETER_NAME": "env", "GREETER_TAG": "green", "CONSUL_HTTP_ADDR": "consul:8501"}
    options = server.flags(["--tag", "blue"], environ)
    assert (options.name, options.tag, str(options.consul)) == ("env", "blue", "http://consul:8501")


def test_a_wrong_variable_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        server.flags([], {"GREETER_PORT": "65536"})
    assert stopped.value.code == 64
    assert "it goes from 0 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["-name=foo"], ["-name", "foo"], ["--name=foo"], ["--name", "foo"]])
def test_flags_as_go_programs_have_them(argv: list[str]) -> None:
    assert client.flags(argv, {}).name == "foo"


def test_values_keep_their_dashes() -> None:
    assert client.flags(["--name=-x-y"], {}).name == "-x-y"


def test_client_target_from_the_environment() -> None:
    assert client.flags([], {}).target == "127.0.0.1:50051"
    assert client.flags([], {"GREETER_TARGET": "sidecar:50051"}).target == "sidecar:50051"


def test_an_unknown_flag_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        client.flags(["--nmae=foo"], {})
    assert stopped.value.code == 64
    assert "--nmae" in capsys.readouterr().err
