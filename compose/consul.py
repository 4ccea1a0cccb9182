"""A real Consul as a development agent on loopback."""

import asyncio
import os
import shutil
from pathlib import Path

import aiohttp

from compose.process import READY_S, Process, StackError, environment, free_port

BUILT = Path(__file__).resolve().parents[1] / "tests" / "tools" / "bin" / "consul"
"""Where ``make tools`` puts it."""
POLL_S = 0.1


def find_consul() -> Path | None:
    """Return the consul of PATH, else the built one, else None."""
    installed = shutil.which("consul")
    if installed is not None:
        return Path(installed)
    return BUILT if os.access(BUILT, os.X_OK) else None


async def start_consul(binary: Path, port: int, logs: Path) -> Process:
    """Start an agent in development mode with HTTP on `port`, and wait until it has a leader and knows itself.

    It keeps everything in memory and serves nothing but loopback. Raises `StackError`.
    """
    command = [str(binary), "agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1", "-log-level=warn"]
    command += [f"-http-port={port}", "-grpc-port=-1", "-grpc-tls-port=-1", "-dns-port=-1"]
    command += [f"-{name}-port={free_port()}" for name in ("serf-lan", "serf-wan", "server")]
    process = await Process.start("consul", command, logs, environment())
    try:
        await _led(process, f"http://127.0.0.1:{port}")
    except BaseException:
        await process.stop()
        raise
    return process


async def _led(process: Process, url: str) -> None:
    """Wait until the agent has registered itself with the leader: then its catalog takes services."""
    deadline = asyncio.get_running_loop().time() + READY_S
    async with aiohttp.ClientSession() as session:
        while asyncio.get_running_loop().time() < deadline:
            if process.child.returncode is not None:
                raise StackError(f"consul ended with exit code {process.child.returncode}:\n{process.tail()}")
            try:
                async with session.get(f"{url}/v1/health/service/consul") as answer:
                    if answer.status == 200 and await answer.json():
                        return
            except aiohttp.ClientError:
                pass  # not listening yet; the deadline bounds this
            await asyncio.sleep(POLL_S)
    raise StackError(f"consul had no leader within {READY_S:g} s:\n{process.tail()}")
