"""gRPC's interop suite: grpc-go's client and server, with the sidecar between them."""

import subprocess
from collections.abc import Callable

import pytest

from tests.stack import Process, Sidecar, free_port, until
from tests.tools import require

# The four compressed cases are missing: grpc-go's client has none of them. The clients' tests send gzip.
CASES = (
    "empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream",
    "custom_metadata", "status_code_and_message", "special_status_message", "unimplemented_method",
    "unimplemented_service", "cancel_after_begin", "cancel_after_first_response", "timeout_on_sleeping_server",
    "rpc_soak", "channel_soak",
)  # fmt: skip


@pytest.fixture
def target(running: list[Process], sidecar_to: Callable[..., Sidecar]) -> Sidecar:
    port = free_port()
    running.append(Process(str(require("interop-server")), f"-port={port}"))
    return sidecar_to(f"127.0.0.1:{port}")


@pytest.mark.timeout(240)
def test_all_cases(target: Sidecar) -> None:
    port = target.target.rsplit(":", 1)[1]
    failed: dict[str, str] = {}
    for case in CASES:
        done = subprocess.run(
            [require("interop-client"), "-server_host=127.0.0.1", f"-server_port={port}", f"-test_case={case}"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            failed[case] = done.stderr
    assert failed == {}
    # The last one has ended for the client; what it counted is there when the relay has seen it, too.
    until(lambda: target.total("sidecar_rpcs_in_flight") == 0, "no call in flight")
    started = target.total("sidecar_rpcs_started_total")
    assert started == target.total("sidecar_rpcs_handled_total") > 20
