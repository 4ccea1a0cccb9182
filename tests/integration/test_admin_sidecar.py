"""The admin side and the command line of a real sidecar process, and a real Prometheus that scrapes it."""

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stack import Process, Sidecar, closing, free_port, get, until
from tests.tools import require

MEGABYTE = 1024 * 1024


def test_an_idle_sidecar_is_small_and_soon_ready() -> None:
    with closing(
        sidecar := Sidecar("--endpoint", f"127.0.0.1:{free_port()}", "--endpoint", f"127.0.0.1:{free_port()}")
    ):
        # The limit is 0.8 s on the clock, which tests that run beside this one would stretch; start-up waits for
        # nothing, so on a machine at rest its CPU time is the time it takes.
        assert sidecar.cpu() < 0.8
        assert get(f"http://{sidecar.admin}/metrics")[0] == 200
        assert sidecar.rss() < 50 * MEGABYTE


def test_readiness_says_what_is_missing_and_ends_with_the_drain() -> None:
    with closing(sidecar := Sidecar("--service", "greeter", "--consul", f"http://127.0.0.1:{free_port()}")):
        reason = "nothing heard from Consul at .* yet: connection: Connection refused"
        code, text = until(lambda: _ready(sidecar, reason), "the reason")
        assert code == 503
        assert sidecar.status()["discovery"]["age_seconds"] is None
        assert sidecar.total("sidecar_discovery_errors_total", reason="connection") >= 1
        assert len([line for line in sidecar.lines if "is lost" in line]) == 1, text
        sidecar.signal(signal.SIGTERM)
        assert sidecar.exit() == 0


def _ready(sidecar: Sidecar, reason: str) -> tuple[int, str] | None:
    code, text = get(f"http://{sidecar.admin}/readyz")
    return (code, text) if re.search(reason, text) else None


@pytest.mark.parametrize("flag", ["--listen", "--admin"])
def test_a_port_in_use_exits_69_and_names_it(flag: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        addresses = {"--listen": "127.0.0.1:0", "--admin": "127.0.0.1:0", flag: address}
        flags = [text for pair in addresses.items() for text in pair]
        command = [sys.executable, "-m", "proxy", "--endpoint", "127.0.0.1:1", *flags]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert answer.returncode == 69
    (line,) = answer.stderr.splitlines()
    assert f"cannot listen on {address} ({flag[2:]})" in line


def test_without_an_admin_port() -> None:
    with closing(sidecar := Process(
        sys.executable, "-m", "proxy", "--endpoint", "127.0.0.1:1", "--listen", "127.0.0.1:0", "--admin", "off",
        "--log-format", "json",
    )):  # fmt: skip
        line = sidecar.line("ready")
        assert " admin=off " in json.loads(line.string)["message"]
        sidecar.signal(signal.SIGTERM)
        assert sidecar.exit() == 0


def test_no_secret_is_logged_at_any_level() -> None:
    with closing(
        sidecar := Sidecar(
            "--service", "greeter", "--log-level", "debug",
            "--consul", f"http://someone:hunter2@127.0.0.1:{free_port()}",
            env={"CONSUL_HTTP_TOKEN": "hush-hush"},
        )
    ):  # fmt: skip
        sidecar.line("is lost")
        status = json.dumps(sidecar.status())
        sidecar.signal(signal.SIGTERM)
        assert sidecar.exit() == 0
        for secret in ("hunter2", "hush-hush", "someone"):
            assert secret not in sidecar.output
            assert secret not in status


def test_prometheus_scrapes_it_without_a_complaint(tmp_path: Path) -> None:
    prometheus = str(require("prometheus"))
    with closing(sidecar := Sidecar("--endpoint", "127.0.0.1:1")):
        port, config = free_port(), tmp_path / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\n"
            f"scrape_configs: [{{job_name: sidecar, static_configs: [{{targets: ['{sidecar.admin}']}}]}}]\n"
        )
        with closing(server := Process(
            prometheus, f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}", "--log.level=debug",
        )):  # fmt: skip
            server.line("Server is ready to receive web requests")

            def scraped() -> str:
                answer = json.loads(get(f"http://127.0.0.1:{port}/api/v1/query?query=sidecar_instances")[1])
                states = {item["metric"]["state"] for item in answer["data"]["result"]}
                return "yes" if "passing" in states else ""

            until(scraped, "samples in Prometheus")
            target = json.loads(get(f"http://127.0.0.1:{port}/api/v1/targets")[1])["data"]["activeTargets"][0]
            assert (target["health"], target["lastError"]) == ("up", "")
            complaints = [line for line in server.lines if "scrape" in line.lower() and re.search("warn|error", line)]
            assert complaints == []
