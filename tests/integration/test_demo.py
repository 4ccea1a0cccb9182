"""``python -m compose``: the scenario, the stack and the registry, with everything real in them."""

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from compose import demo as module
from compose import up as up_module
from compose.demo import demo
from compose.process import Process, environment, free_port, python
from tests.tools import require

DEADLINE_S = 40.0


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The scenario with less to look at, and its logs where they go away."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(module, "HOLD_S", 0.3)
    monkeypatch.setattr(module, "PAIRS", 30)


@pytest.mark.usefixtures("_short")
@pytest.mark.parametrize("with_consul", [False, True], ids=["registry", "consul"])
async def test_no_call_fails(with_consul: bool, capsys: pytest.CaptureFixture[str]) -> None:
    if with_consul:
        require("consul")
    code = await demo(with_consul)
    shown = capsys.readouterr().out
    assert code == 0, shown
    lines = dict(line.split("  ", 1) for line in shown.splitlines() if "  " in line and not line.startswith("["))
    assert lines["failed"].strip() == "0"
    for switch, old in (("green -> blue", "green"), ("blue -> green", "blue")):
        assert f"calls by {old} after SIGTERM" in lines[f"{switch}, finished"]
        assert "exit 0" in lines[f"{switch}, finished"]


@pytest.mark.usefixtures("_short")
async def test_a_failed_call_fails_the_scenario(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(process: Process, number: int = signal.SIGTERM) -> None:
        if process.child.returncode is None:
            process.child.send_signal(signal.SIGKILL if process.name.startswith("greeter") else number)

    monkeypatch.setattr(Process, "terminate", kill)
    assert await demo(False) == 1
    shown = capsys.readouterr().out
    assert "calls failed" in shown
    assert "greeter-server-green exited with -9" in shown


class Command:
    """Starts ``python -m compose ...``, which ends with the test."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._started: list[Process] = []

    async def start(self, *arguments: str) -> Process:
        process = await Process.start(
            "-".join(("compose", *arguments)).replace("/", "_"),
            python("-u", "-m", "compose", *arguments),
            self._logs,
            environment() | {"TMPDIR": str(self._logs)},
        )
        self._started.append(process)
        return process

    async def end(self) -> None:
        for process in self._started:
            await process.stop()


@pytest.fixture
async def compose(tmp_path: Path) -> AsyncIterator[Command]:
    command = Command(tmp_path)
    yield command
    await command.end()


async def test_up_until_ctrl_c(compose: Command, tmp_path: Path) -> None:
    stack = await compose.start("up")
    target = (await stack.logged(r"address for clients\s+(\S+)"))[1]
    await stack.logged("Ctrl-C stops everything")
    command = python("-m", "greeter.client", "--name", "foo", "--count", "4", "--interval", "1ms", "--target", target)
    client = await Process.start("client", command, tmp_path, environment())
    assert await client.ended(DEADLINE_S) == 0, client.tail()
    served = client.log.read_text()
    assert served.count("greeter-server-blue") == served.count("greeter-server-green") == 2
    stack.terminate(signal.SIGINT)
    assert await stack.ended(DEADLINE_S) == 0


@pytest.mark.usefixtures("_short")
async def test_up_without_consul(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up_module, "find_consul", lambda: None)
    stop = asyncio.Event()
    stop.set()
    assert await up_module.up(stop) == 0
    shown = capsys.readouterr().out
    assert "using the development registry" in shown
    assert "Ctrl-C stops everything" in shown


async def test_an_interrupted_demo_leaves_no_process(compose: Command) -> None:
    running = await compose.start("demo")
    listen = (await running.logged(r"sidecar listens on \S+:(\d+)"))[1]
    running.terminate(signal.SIGINT)
    assert await running.ended(DEADLINE_S) == 1
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", int(listen))


async def test_the_registry_alone(compose: Command) -> None:
    port = free_port()
    first = await compose.start("registry", "--listen", f"127.0.0.1:{port}")
    await first.logged(f"ready listen=127.0.0.1:{port}")
    second = await compose.start("registry", "--listen=127.0.0.1:" + str(port))
    assert await second.ended(DEADLINE_S) == 69
    first.terminate()
    assert await first.ended(DEADLINE_S) == 0


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("registry", "--listen", "x"), ("demo", "--nope")])
async def test_usage_errors(compose: Command, arguments: tuple[str, ...]) -> None:
    assert await (await compose.start(*arguments)).ended(DEADLINE_S) == 64
