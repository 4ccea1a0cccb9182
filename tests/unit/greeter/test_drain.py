import asyncio
from dataclasses import dataclass, field

import pytest
from consul import ConsulException

from greeter import drain as module
from greeter.drain import drain


@dataclass
class Trace:
    """Server, health and registration in one, which note what they were asked in order."""

    registered: bool = True
    hidden_after: int = 0
    failing: frozenset[str] = frozenset()
    steps: list[str] = field(default_factory=list)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    open_calls: asyncio.Event = field(default_factory=asyncio.Event)

    async def enter_graceful_shutdown(self) -> None:
        self.steps.append("quiesce")

    async def maintenance(self) -> bool:
        return self._ask("maintenance")

    async def gone(self) -> bool:
        self._ask("gone?")
        self.hidden_after -= 1
        return self.hidden_after < 0

    async def deregister(self) -> bool:
        return self._ask("deregister")

    async def stop(self, grace: float | None) -> None:
        self.steps.append(f"stop {grace:g}")
        self.stopping.set()
        if grace == 30:
            await self.open_calls.wait()
        else:
            self.open_calls.set()

    def _ask(self, what: str) -> bool:
        self.steps.append(what)
        if what in self.failing:
            raise ConsulException("500 No cluster leader")
        return True


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOLD_WITHIN_S", 0.1)


async def test_order() -> None:
    trace = Trace(hidden_after=2)
    await drain(trace, trace, trace, 5, 0, asyncio.Event())
    assert trace.steps == ["quiesce", "maintenance", "gone?", "gone?", "gone?", "stop 5", "deregister"]


async def test_it_settles_before_it_stops() -> None:
    trace = Trace()
    loop = asyncio.get_running_loop()
    started = loop.time()
    await drain(trace, trace, trace, 5, 0.2, asyncio.Event())
    assert loop.time() - started >= 0.2


async def test_it_goes_on_without_consul(caplog: pytest.LogCaptureFixture) -> None:
    trace = Trace(failing=frozenset({"maintenance", "gone?", "deregister"}))
    await drain(trace, trace, trace, 5, 0, asyncio.Event())
    assert list(dict.fromkeys(trace.steps)) == ["quiesce", "maintenance", "gone?", "stop 5", "deregister"]
    assert trace.steps.count("maintenance") > 1, "it was not tried again"
    assert "No cluster leader" in caplog.text


async def test_an_instance_that_consul_never_had() -> None:
    trace = Trace(registered=False)
    await drain(trace, trace, trace, 5, 60, asyncio.Event())
    assert trace.steps == ["quiesce", "maintenance", "stop 5"]


async def test_a_second_signal_cuts_settling_and_grace_short() -> None:
    trace, hurry = Trace(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(drain(trace, trace, trace, 30, 60, hurry))
        hurry.set()
    assert trace.steps[-3:] == ["stop 30", "stop 1", "deregister"]


async def test_a_second_signal_while_stopping() -> None:
    trace, hurry = Trace(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(drain(trace, trace, trace, 30, 0, hurry))
        await trace.stopping.wait()
        hurry.set()
    assert trace.steps[-3:] == ["stop 30", "stop 1", "deregister"]
