import json
import logging
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy import cli, logs
from proxy.config import Config
from proxy.errors import BindError, UsageError


@pytest.fixture(autouse=True)
def _logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("GRPC_SIDECAR_", "CONSUL_")):
            monkeypatch.delenv(name)


def _app(monkeypatch: pytest.MonkeyPatch, run: Callable[[Config], int]) -> None:
    module = types.ModuleType("proxy.app")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "proxy.app", module)


def _raising(error: Exception) -> Callable[[Config], int]:
    def run(config: Config) -> int:
        raise error

    return run


def test_runs_the_app_with_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Config] = []

    def run(config: Config) -> int:
        seen.append(config)
        return 0

    _app(monkeypatch, run)
    assert cli.main(["--service", "greeter"]) == 0
    assert [config.service for config in seen] == ["greeter"]


@pytest.mark.parametrize(
    ("error", "code", "part"),
    [
        (UsageError("CONSUL_CACERT: nonsense"), 64, "CONSUL_CACERT: nonsense"),
        (
            BindError("listen", "127.0.0.1:1", "Address already in use"),
            69,
            "cannot listen on 127.0.0.1:1 (listen): Address",
        ),
        (RuntimeError("a defect"), 70, "a defect"),
    ],
)
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, code: int, part: str
) -> None:
    _app(monkeypatch, _raising(error))
    assert cli.main(["--service", "greeter"]) == code
    assert part in capsys.readouterr().err


def test_wrong_usage_exits_64_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--service", "a", "--listen", "x"]) == 64
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith('grpc-sidecar: --listen: "x" has no port')
    assert err.count("\n") == 1


def test_check_config_starts_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _app(monkeypatch, _raising(RuntimeError("started")))
    assert cli.main(["--check-config", "--endpoint", "a:1", "--tag", "x"]) == 0
    out, err = capsys.readouterr()
    assert out == "configuration is valid: service static from a:1, listening on 127.0.0.1:50051\n"
    assert err == "grpc-sidecar: --tag has no effect, as endpoints are given\n"


def test_check_config_reads_certificates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("no certificate")
    monkeypatch.setenv("CONSUL_CACERT", str(authority))
    assert cli.main(["--check-config", "--service", "a", "--consul", "https://c:1"]) == 64
    assert f"CONSUL_CACERT: {authority} holds no certificate" in capsys.readouterr().err


def test_settings_without_effect_are_logged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _app(monkeypatch, lambda config: 0)
    monkeypatch.setenv("GRPC_SIDECAR_TAGS", "blue")
    assert cli.main(["--service", "a"]) == 0
    assert "WARNING proxy.cli: GRPC_SIDECAR_TAGS has no effect" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--help", "--version", "--check-config"])
def test_questions_are_answered_without_the_heavy_imports(flag: str) -> None:
    script = (
        "import sys\nfrom proxy.cli import main\n"
        f"assert main(['--service', 'a', '{flag}']) == 0\n"
        "heavy = {'aiohttp', 'prometheus_client', 'consul', 'requests'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert answer.returncode == 0, answer.stderr
    if flag == "--version":
        expected = r"grpc-sidecar \d+\.\d+\.\d+ \((compiled|interpreted) core, (uvloop \S+|asyncio), Python 3\.\S+\)\n"
        assert re.fullmatch(expected, answer.stdout)
    if flag == "--help":
        for name in ("--service NAME", "--wait-for-instances TIME", "127.0.0.1:9464", "Exit codes: 0"):
            assert name in answer.stdout


def test_python_m_proxy_is_the_same_program() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "proxy", "--nonsense"], capture_output=True, text=True, timeout=30, check=False
    )
    assert (answer.returncode, answer.stdout) == (64, "")
    assert answer.stderr == "grpc-sidecar: unrecognized arguments: --nonsense; see --help\n"


def test_text_log(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info", "text")
    logging.getLogger("proxy.x").debug("unseen")
    logging.getLogger("proxy.x").info("seen %d", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO proxy\.x: seen 1\n", capsys.readouterr().err)


def test_json_log(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("debug", "json")
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("proxy.x").exception("it\nbroke")
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    entry = json.loads(line)
    assert (entry["level"], entry["logger"], entry["message"]) == ("error", "proxy.x", "it\nbroke")
    assert "ValueError: why" in entry["exception"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["time"])
