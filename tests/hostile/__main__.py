"""Each attack against a sidecar that serves a good client: ``python -m tests.hostile [--seconds 20] [--only NAME]``.

A row holds if the attackers get the documented answer, no call of the good client fails, its p99 is at most twice
that without the attack, and the sidecar's memory grows by 10 MB at most. The sidecar has one core for itself; the
client, the instances and the attacker share the other, where the attacker runs only when nobody else wants to.
Then each hostile instance beside two good ones: those answer all they get.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.version import core
from tests.hostile.attacks import ATTACKS, Attack
from tests.hostile.instances import BEHAVIOURS, Behaviour, HostileInstance
from tests.integration.echo_server import EchoServer
from tests.load import Ledger, Load
from tests.stack import Process, Sidecar, closing

RATE = 100.0
GROWTH = 10_000_000
FACTOR = 2.0
WARM_SECONDS = 1.0
QUIET_SECONDS = 5.0
_OWN_CORE, _OTHER_CORE = 0, 1


class Attacker(Process):
    """An attack in a process of its own."""

    def __init__(self, attack: Attack, target: str, seconds: float) -> None:
        words = ["--target", target, "--only", attack.name, "--seconds", f"{seconds:g}"]
        super().__init__(sys.executable, "-m", "tests.hostile.attacks", *words)
        on_core(self, _OTHER_CORE)
        os.sched_setscheduler(self.pid, os.SCHED_IDLE, os.sched_param(0))

    def answers(self, seconds: float) -> Counter[str]:
        """Wait for the end; how its connections ended."""
        code = self.exit(seconds)
        assert code == 0, f"the attacker ended with {code}:\n{self.output}"
        return Counter(json.loads(self.lines[-1]))


class Peak:
    """The most memory a process has had since the beginning, sampled all the time."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._first = self._most = process.rss()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def _sample(self) -> None:
        while not self._done.wait(0.02):
            self._most = max(self._most, self._process.rss())

    def growth(self) -> int:
        """Stop sampling; octets above the beginning."""
        self._done.set()
        self._thread.join()
        return self._most - self._first


@dataclass(frozen=True)
class Row:
    """What one attack came to."""

    attack: Attack
    seconds: float
    answers: Counter[str]
    calls: int
    reasons: Counter[str]
    quiet: float
    attacked: float
    growth: int
    cpu: float

    def misses(self) -> list[str]:
        """What does not hold."""
        found = []
        if not self.answers or set(self.answers) - self.attack.allowed(self.seconds):
            found.append("answer")
        if self.reasons or not self.calls:
            found.append("calls")
        if self.attacked > FACTOR * self.quiet:
            found.append("p99")
        if self.growth > GROWTH:
            found.append("memory")
        return found

    def cells(self) -> list[str]:
        answers = ", ".join(f"{answer} x{count}" for answer, count in self.answers.most_common())
        return [
            self.attack.name, self.attack.follows, answers, f"{self.reasons.total()} of {self.calls}",
            f"{self.quiet * 1e3:.1f}", f"{self.attacked * 1e3:.1f}", f"{self.growth / 1e6:.1f}",
            f"{100 * self.cpu:.0f}", " ".join(self.misses()) or "-",
        ]  # fmt: skip


INSTANCE_DEADLINE = 1.0
INSTANCE_HEAD = [
    "instance", "answers", "others' failures", "failed calls", "its own", "p99 ms of OK", "MB more", "CPU %", "misses",
]  # fmt: skip
HEAD = ["attack", "see", "answers", "failed calls", "p99 ms", "attacked", "MB more", "CPU %", "misses"]


def on_core(process: Process, number: int) -> None:
    """Let a process with its threads run there only; not where there is one core in all."""
    if len(os.sched_getaffinity(0)) > 1:
        for task in os.listdir(f"/proc/{process.pid}/task"):
            os.sched_setaffinity(int(task), {number})


def p99(ledger: Ledger, since: float, until: float) -> float:
    """Seconds that 99 of 100 calls of a span took at most."""
    times = sorted(call.seconds for call in ledger.calls if since <= call.started < until)
    return times[min(len(times) - 1, len(times) * 99 // 100)]


def measure(attack: Attack, seconds: float) -> Row:
    """One row: fresh instances, so that no earlier attack shows, and a sidecar with its good client."""
    instances = [EchoServer(name) for name in ("blue", "green")]
    with closing(*instances):
        for instance in instances:
            on_core(instance, _OTHER_CORE)
        return attacked(attack, instances, seconds)


def attacked(attack: Attack, instances: Sequence[EchoServer], seconds: float) -> Row:
    """The good client for a while without the attack, and then with it."""
    sidecar = Sidecar(*(word for instance in instances for word in ("--endpoint", instance.address)))
    with closing(sidecar):
        on_core(sidecar, _OWN_CORE)
        sidecar.connected(len(instances))
        load = Load(sidecar.target, unary=RATE)
        with closing(load):
            on_core(load, _OTHER_CORE)
            time.sleep(WARM_SECONDS)
            began = time.monotonic()
            time.sleep(min(seconds, QUIET_SECONDS))
            peak = Peak(sidecar)
            attacker = Attacker(attack, sidecar.target, seconds)
            with closing(attacker):
                start, cpu = time.monotonic(), sidecar.cpu()
                answers = attacker.answers(seconds + 30)
                ended = time.monotonic()
                cpu = sidecar.cpu() - cpu
            growth = peak.growth()
            ledger = load.finish()
    return Row(
        attack, seconds, answers, len(ledger.calls),
        Counter(f"{call.code} {call.details}" for call in ledger.failed), p99(ledger, began, start),
        p99(ledger, start, ended), growth, cpu / (ended - start),
    )  # fmt: skip


def spoiled(sidecar: Sidecar, addresses: Sequence[str]) -> float:
    """Calls that these instances did not finish with OK, by the sidecar's count."""
    metric = "sidecar_upstream_rpcs_total"
    totals = [
        sidecar.total(metric, instance=at) - sidecar.total(metric, instance=at, grpc_code="OK") for at in addresses
    ]
    return sum(totals)


def beside(behaviour: Behaviour, seconds: float) -> tuple[list[str], bool]:
    """One row of a hostile instance beside two good ones: its cells, and whether it holds."""
    instances = [EchoServer(name) for name in ("blue", "green")]
    hostile = HostileInstance(behaviour)
    good = [instance.address for instance in instances]
    sidecar = Sidecar(*(word for address in [*good, hostile.address] for word in ("--endpoint", address)))
    with closing(*instances, hostile), closing(sidecar):
        for process in (*instances, hostile):
            on_core(process, _OTHER_CORE)
        on_core(sidecar, _OWN_CORE)
        sidecar.connected(2)
        peak = Peak(sidecar)
        load = Load(sidecar.target, unary=RATE, deadline=INSTANCE_DEADLINE)
        with closing(load):
            on_core(load, _OTHER_CORE)
            cpu = sidecar.cpu()
            time.sleep(seconds)
            cpu = sidecar.cpu() - cpu
            ledger = load.finish()
        growth = peak.growth()
        others, own = spoiled(sidecar, good), spoiled(sidecar, [hostile.address])
        answers = hostile.answers()
    answered = sorted(call.seconds for call in ledger.calls if call.code == "OK")
    misses = [
        what
        for what, missed in (
            ("answer", not answers or set(answers) - {*behaviour.answers}),
            ("calls", others or len(ledger.failed) > own or not answered),
            ("memory", growth > GROWTH),
        )
        if missed
    ]
    said = ", ".join(f"{answer} x{count}" for answer, count in answers.most_common())
    cells = [
        behaviour.name, said, f"{others:.0f}", f"{len(ledger.failed)} of {len(ledger.calls)}", f"{own:.0f}",
        f"{answered[len(answered) * 99 // 100] * 1e3:.1f}" if answered else "", f"{growth / 1e6:.1f}",
        f"{100 * cpu / seconds:.0f}", " ".join(misses) or "-",
    ]  # fmt: skip
    return cells, not misses


def show(cells: Sequence[str]) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20, help="how long each attack lasts")
    parser.add_argument(
        "--only", action="append", help="an attack's name, or `instance NAME`; may be given several times"
    )
    options = parser.parse_args()
    if core() != "compiled":
        print("the core is not compiled: figures would say nothing", file=sys.stderr)
        return 2
    only = options.only
    missed = 0
    if attacks := [attack for attack in ATTACKS if not only or attack.name in only]:
        show(HEAD)
        show(["---"] * len(HEAD))
    for attack in attacks:
        row = measure(attack, options.seconds)
        show(row.cells())
        for reason, count in row.reasons.most_common(3):
            print(f"  {count} calls failed: {reason}", file=sys.stderr)
        missed += bool(row.misses())
    if behaviours := [behaviour for behaviour in BEHAVIOURS if not only or "instance " + behaviour.name in only]:
        print(flush=True)
        show(INSTANCE_HEAD)
        show(["---"] * len(INSTANCE_HEAD))
    for behaviour in behaviours:
        cells, holds = beside(behaviour, options.seconds)
        show(cells)
        missed += not holds
    rows = len(attacks) + len(behaviours)
    print(f"{missed} of {rows} rows miss" if missed else f"all {rows} rows hold")
    return 1 if missed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
