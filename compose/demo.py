"""The scenario: blue takes over from green under live traffic, then green from blue, and no call fails."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable

from compose.process import StackError, environment, python
from compose.stack import SERVICE, Greeter, Sidecar, Stack
from compose.tally import Latency, Switch, Tally, problems, summary
from compose.view import Status, View, choose_view
from compose.watch import RegistryWatch

RATE = 250.0
"""Unary calls per second that the load makes, beside its sleepers and streams."""
WANTED_RATE = 200.0
"""Calls per second below which the scenario does not count."""
PAIRS = 400
"""Calls that are measured through the sidecar and directly."""
HOLD_S = 2.5
"""How long each state of the deployment is watched."""
STEP_S = 20.0
"""How long a step may take; generous, as the machine may be busy."""
EXIT_S = 35.0
"""How long a greeter may take to drain: its grace and what goes before."""
RATE_WINDOW_S = 1.0


class Scenario:
    """One run on a stack whose registry is up."""

    def __init__(self, stack: Stack, view: View) -> None:
        self._stack = stack
        self._view = view
        self._tally = Tally()
        self._news = asyncio.Condition()
        self._watch = RegistryWatch(stack.url, SERVICE, self._registry_changed)
        self._notified: set[asyncio.Future[None]] = set()

    async def run(self) -> bool:
        """Run the scenario and show its summary; returns whether all was well. Raises `StackError`."""
        watching = asyncio.ensure_future(self._watch.run())
        try:
            green = await self._deploy("green")
            sidecar = await self._stack.start_sidecar()
            self._view.step(f"sidecar listens on {sidecar.listen}, metrics on http://{sidecar.admin}/metrics")
            latency = await self._measure(sidecar, green)
            started = time.monotonic()
            async with self._load(sidecar):
                self._view.step(f"a client calls at {RATE:.0f}/s, with streams and calls that sleep on the server")
                await asyncio.sleep(HOLD_S)
                there, blue = await self._switch(green, "blue")
                back, _ = await self._switch(blue, "green")
                ended = time.monotonic()
                self._view.step("the client stops")
            exit_code = await sidecar.process.stop()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        found = problems(self._tally, [there, back], ended - started, WANTED_RATE)
        if exit_code:
            found.append(f"the sidecar exited with {exit_code}")
        self._view.summary(summary(self._tally, [there, back], latency, ended - started), found)
        return not found

    async def _deploy(self, tag: str) -> Greeter:
        greeter = await self._stack.start_greeter(tag)
        await self._until(lambda: self._watch.states.get(greeter.name) == "passing", f"{tag} is healthy")
        self._view.step(f"{greeter.name} serves on {greeter.address} and is healthy in the registry")
        return greeter

    async def _switch(self, old: Greeter, tag: str) -> tuple[Switch, Greeter]:
        """Deploy `tag`, let both serve, then stop `old` while calls are asleep in it."""
        new = await self._deploy(tag)
        visible = self._watch.since[new.name]
        await self._until(lambda: self._tally.first_after(new.name, visible) is not None, f"{tag} is called")
        await asyncio.sleep(HOLD_S)
        await self._until(lambda: self._tally.asleep.get(old.name, 0) > 0, f"a call is asleep in {old.name}")
        sigterm = time.monotonic()
        old.process.terminate()
        self._view.step(f"SIGTERM to {old.name}; calls asleep in it: {self._tally.asleep[old.name]}")
        await self._until(lambda: self._watch.states.get(old.name) != "passing", f"{old.name} is taken out")
        hidden = self._watch.since[old.name]
        exit_code = await old.process.ended(EXIT_S)
        ended = time.monotonic()
        self._view.step(f"{old.name} exited with {exit_code} after {ended - sigterm:.1f} s")
        await asyncio.sleep(HOLD_S)
        return Switch(old.name, new.name, visible, sigterm, hidden, exit_code, ended), new

    async def _measure(self, sidecar: Sidecar, greeter: Greeter) -> Latency:
        command = python("-m", "compose.load", "measure", "--pairs", str(PAIRS))
        command += ["--target", sidecar.listen, "--direct", greeter.address]
        child = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, env=environment(), start_new_session=True
        )
        try:
            async with asyncio.timeout(STEP_S):
                output, _ = await child.communicate()
        except TimeoutError as error:
            raise StackError(f"the latency was not measured within {STEP_S:g} s") from error
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        if child.returncode:
            raise StackError(f"the latency was not measured: exit code {child.returncode}")
        self._view.step(f"{PAIRS} calls measured through the sidecar, and as many directly")
        return Latency(**json.loads(output))

    @contextlib.asynccontextmanager
    async def _load(self, sidecar: Sidecar) -> AsyncIterator[None]:
        """Have the client call while the block runs, and wait for its last call after it."""
        command = python("-m", "compose.load", "run", "--target", sidecar.listen, "--rate", str(RATE))
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment(),
            start_new_session=True,
            limit=2**24,  # a report has one line
        )
        assert child.stdin is not None
        assert child.stdout is not None
        reading = asyncio.ensure_future(self._read(child.stdout))
        try:
            yield
            child.stdin.close()
            async with asyncio.timeout(STEP_S):
                await reading
                exit_code = await child.wait()
            if exit_code:
                raise StackError(f"the client exited with {exit_code}")
        finally:
            reading.cancel()
            if child.returncode is None:
                child.kill()
                await child.wait()

    async def _read(self, reports: asyncio.StreamReader) -> None:
        async for line in reports:
            self._tally.add(json.loads(line))
            self._view.update(
                Status(
                    self._tally.sent,
                    len(self._tally.failed),
                    self._watch.states,
                    self._tally.rate(RATE_WINDOW_S, time.monotonic()),
                    self._tally.asleep,
                )
            )
            await self._notify()

    async def _notify(self) -> None:
        async with self._news:
            self._news.notify_all()

    def _registry_changed(self) -> None:
        notified = asyncio.ensure_future(self._notify())
        self._notified.add(notified)
        notified.add_done_callback(self._notified.discard)

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(STEP_S), self._news:
                await self._news.wait_for(condition)
        except TimeoutError as error:
            raise StackError(f"waited {STEP_S:g} s in vain until {what}") from error


async def demo(with_consul: bool) -> int:
    """Run the scenario; returns 0, or 1 if a call failed or something else was not as it should be."""
    async with Stack() as stack:
        with choose_view() as view:
            try:
                await (stack.start_consul() if with_consul else stack.start_registry())
                view.step(f"{'Consul' if with_consul else 'the development registry'} answers on {stack.url}")
                well = await Scenario(stack, view).run()
            except StackError as error:
                view.step(f"failed: {error}")
                well = False
        if not well:
            print(f"the logs are in {stack.logs}")
    if well:
        stack.forget_logs()
    return 0 if well else 1
