"""The stack until Ctrl-C."""

import asyncio

from compose.consul import find_consul
from compose.process import StackError
from compose.stack import Stack

HINTS = """
  the gRPC address for clients   {listen}
  metrics, health, status        http://{admin}/metrics, /healthz, /readyz, /status
  the registry                   {url}{ui}
  logs                           {logs}

Try:
  python -m greeter.client --name foo --count 10 --interval 200ms --target {listen}
  grpcurl -plaintext -d '{{"name": "foo"}}' {listen} helloworld.Greeter/SayHello
  curl {url}/v1/health/service/greeter
  kill {blue}          # stops blue as a deployment does: it finishes its calls first
  kill -9 {green}       # crashes green: its check turns critical
Ctrl-C stops everything.
"""


async def up(stop: asyncio.Event) -> int:
    """Run the stack until `stop`; returns 0, or 1 if it does not come up."""
    async with Stack() as stack:
        try:
            real = find_consul() is not None
            if not real:
                print("there is no consul on PATH and none in tests/tools/bin: using the development registry")
            await (stack.start_consul() if real else stack.start_registry())
            blue, green = [await stack.start_greeter(tag) for tag in ("blue", "green")]
            sidecar = await stack.start_sidecar()
        except StackError as error:
            print(f"failed: {error}\nthe logs are in {stack.logs}")
            return 1
        ui = f", {stack.url}/ui" if real else ""
        print(
            HINTS.format(
                listen=sidecar.listen,
                admin=sidecar.admin,
                url=stack.url,
                ui=ui,
                logs=stack.logs,
                blue=blue.process.child.pid,
                green=green.process.child.pid,
            ),
            flush=True,
        )
        await stop.wait()
        print("stopping", flush=True)
    stack.forget_logs()
    return 0
