"""The query against a real HTTP server on loopback that answers what the test wants."""

import asyncio
import base64
import os
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from proxy.consul_config import ConsulConfig
from proxy.discovery import client
from proxy.discovery.health import Answer, ConsulHealth, QueryError
from proxy.discovery.tls import tls_context
from proxy.errors import UsageError
from tests.tools import require
from tests.unit.discovery.samples import check, raw


class _Agent:
    """A scripted agent: the answer to give, and the requests it got."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.peers: set[Any] = set()
        self.answer: Callable[[], web.Response] = lambda: entries([])
        self.silent = False

    async def handle(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        assert request.transport is not None
        self.peers.add(request.transport)
        if self.silent:
            await asyncio.Event().wait()
        return self.answer()


def entries(items: list[Any], **headers: str) -> web.Response:
    return web.json_response(items, headers={"X-Consul-Index": "7", "X-Consul-KnownLeader": "true"} | headers)


@asynccontextmanager
async def _serving(agent: _Agent, path: str = "", context: ssl.SSLContext | None = None) -> AsyncIterator[ConsulConfig]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", agent.handle)
    runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    site = web.UnixSite(runner, path) if path else web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    try:
        if path:
            yield ConsulConfig(path=path)
        else:
            yield ConsulConfig(scheme="https" if context else "http", port=runner.addresses[0][1])
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _asking(config: ConsulConfig, service: str = "greeter", datacenter: str = "") -> AsyncIterator[ConsulHealth]:
    health = ConsulHealth(config, service, datacenter)
    try:
        yield health
    finally:
        await health.close()


async def _one(agent: _Agent, index: int = 0, **settings: Any) -> Answer:
    async with _serving(agent) as config, _asking(replace(config, **settings)) as health:
        return await health.read(index, 30.0)


async def test_reads_entries_index_and_what_the_headers_say() -> None:
    agent = _Agent()
    agent.answer = lambda: entries([raw("a", check("c", "passing"))])
    answer = await _one(agent)
    assert [entry.key for entry in answer.entries] == ["vm/a"]
    assert (answer.index, answer.known_leader, answer.filtered, answer.hidden_by_default) == (7, True, False, False)
    assert agent.requests[0].path_qs == "/v1/health/service/greeter"


async def test_asks_with_index_wait_and_scope() -> None:
    agent = _Agent()
    async with _serving(agent) as config:
        scoped = replace(config, namespace="team a", partition="east")
        async with _asking(scoped, "greeter v2", "dc2") as health:
            await health.read(7, 29.9995)
            await health.read(0, 30.0)
    assert [request.path_qs for request in agent.requests] == [
        "/v1/health/service/greeter%20v2?dc=dc2&ns=team+a&partition=east&index=7&wait=30000ms",
        "/v1/health/service/greeter%20v2?dc=dc2&ns=team+a&partition=east",
    ]


async def test_many_queries_share_one_connection() -> None:
    agent = _Agent()
    async with _serving(agent) as config, _asking(config) as health:
        for index in range(5):
            await health.read(index, 30.0)
    assert len(agent.requests) == 5
    assert len(agent.peers) == 1


async def test_doubts_are_read_from_the_headers() -> None:
    agent = _Agent()
    doubts = {
        "X-Consul-KnownLeader": "false",
        "X-Consul-Results-Filtered-By-ACLs": "true",
        "X-Consul-Default-ACL-Policy": "deny",
    }
    agent.answer = lambda: entries([], **doubts)
    answer = await _one(agent)
    assert (answer.known_leader, answer.filtered, answer.hidden_by_default) == (False, True, True)
    assert not (await _one(agent, token="t")).hidden_by_default


@pytest.mark.parametrize(
    ("code", "body", "reason"),
    [
        (403, "Permission denied: token with AccessorID '0' lacks permission", "acl"),
        (403, "ACL not found", "acl"),
        (401, "ACL support disabled", "acl"),
        (429, "Your IP is issuing too many concurrent connections", "rate_limited"),
        (500, "No cluster leader", "no_leader"),
        (500, "Raft leader not found in server lookup mapping", "no_leader"),
        (500, "rpc error getting client: failed to get conn: connection refused", "server_error"),
        (400, "Invalid wait time", "refused"),
        (404, "404 page not found", "refused"),
        (301, "", "malformed"),
        (200, "<html>", "malformed"),
        (200, "[1]", "malformed"),
    ],
)
async def test_failures_have_a_reason_and_consuls_words(code: int, body: str, reason: str) -> None:
    agent = _Agent()
    agent.answer = lambda: web.Response(status=code, text=body, headers={"X-Consul-Index": "7", "Location": "/x"})
    with pytest.raises(QueryError) as caught:
        await _one(agent)
    assert caught.value.reason == reason
    if reason != "malformed":
        assert str(caught.value) == f"{code} {body}"
    assert len(agent.requests) == 1


async def test_an_answer_without_an_index_is_malformed() -> None:
    agent = _Agent()
    agent.answer = lambda: web.json_response([])
    with pytest.raises(QueryError, match="no index") as caught:
        await _one(agent)
    assert caught.value.reason == "malformed"


async def test_nobody_there_is_told_in_the_systems_words() -> None:
    async with _serving(_Agent()) as config:
        pass
    async with _asking(config) as health:
        with pytest.raises(QueryError, match=r"^Connection refused$") as caught:
            await health.read(0, 0.0)
    assert caught.value.reason == "connection"


async def test_an_agent_that_is_silent_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = _Agent()
    agent.silent = True
    monkeypatch.setattr("proxy.discovery.health.READ_SECONDS", 0.05)
    monkeypatch.setattr("proxy.discovery.health._SLACK_SECONDS", 0.1)
    async with _serving(agent) as config, _asking(config) as health:
        for index, seconds in ((0, "0.05"), (7, "0.117")):
            with pytest.raises(QueryError, match=f"no answer within {seconds} s") as caught:
                await health.read(index, 0.016)
            assert caught.value.reason == "timeout"


async def test_token_and_password_go_into_headers_alone() -> None:
    agent = _Agent()
    await _one(agent, token="secret", userinfo="user:pässword")
    (request,) = agent.requests
    assert request.headers["X-Consul-Token"] == "secret"
    assert base64.b64decode(request.headers["Authorization"].removeprefix("Basic ")).decode() == "user:pässword"
    assert "secret" not in request.path_qs


async def test_the_token_file_is_read_for_each_query(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    agent, file = _Agent(), tmp_path / "token"
    file.write_text("first\n")
    async with _serving(agent) as config, _asking(replace(config, token="fixed", token_file=str(file))) as health:
        await health.read(0, 0.0)
        file.write_text("second")
        await health.read(0, 0.0)
        file.unlink()
        await health.read(0, 0.0)
        await health.read(0, 0.0)
        file.write_text("")
        await health.read(0, 0.0)
    tokens = [request.headers["X-Consul-Token"] for request in agent.requests]
    assert tokens == ["first", "second", "second", "second", "fixed"]
    (record,) = caplog.records
    assert "cannot read the token file" in record.message
    assert "second" not in record.message


async def test_over_a_unix_socket(tmp_path: Path) -> None:
    agent = _Agent()
    async with _serving(agent, path=str(tmp_path / "consul.sock")) as config, _asking(config) as health:
        assert (await health.read(0, 0.0)).index == 7


async def test_the_environment_does_not_reach_python_consul2(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = {"CONSUL_HTTP_ADDR": "a:b:c:d:e", "CONSUL_HTTP_TOKEN": "other", "CONSUL_HTTP_SSL_VERIFY": "1"}
    for name, value in hostile.items():
        monkeypatch.setenv(name, value)
    agent = _Agent()
    await _one(agent)
    assert "X-Consul-Token" not in agent.requests[0].headers
    assert {name: os.environ[name] for name in hostile} == hostile


async def test_the_other_methods_of_python_consul2_work_over_the_transport() -> None:
    agent = _Agent()
    agent.answer = lambda: web.json_response(True)
    async with _serving(agent) as config:
        consul = client.Client(config, None)
        assert await consul.kv.put("a/b", "1") is True
        assert await consul.kv.delete("a/b") is True
        assert await consul.agent.service.deregister("x") is True
        await consul.http.post(lambda response: response, "/v1/x", data="body")
        await consul.http.close()
    assert [(request.method, request.path) for request in agent.requests] == [
        ("PUT", "/v1/kv/a/b"),
        ("DELETE", "/v1/kv/a/b"),
        ("PUT", "/v1/agent/service/deregister/x"),
        ("POST", "/v1/x"),
    ]


class _Certificates:
    """An authority, and what it signed for `agent.test` and for a client."""

    def __init__(self, folder: Path) -> None:
        self._openssl = str(require("openssl"))
        self._folder = folder
        self.authority = self._path("ca.pem")
        self._run("req", "-x509", "-subj", "/CN=authority", "-keyout", self._path("ca.key"), "-out", self.authority)
        self.server = self._signed("agent.test")
        self.client = self._signed("client.test")

    def _path(self, name: str) -> str:
        return str(self._folder / name)

    def _run(self, command: str, *arguments: str) -> None:
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        subprocess.run([self._openssl, command, *key, *arguments], check=True, capture_output=True, timeout=20)

    def _signed(self, name: str) -> tuple[str, str]:
        cert, secret = self._path(f"{name}.pem"), self._path(f"{name}.key")
        self._run(
            "req", "-x509", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}",
            "-addext", "basicConstraints=critical,CA:FALSE",
            "-CA", self.authority, "-CAkey", self._path("ca.key"), "-keyout", secret, "-out", cert,
        )  # fmt: skip
        return cert, secret

    def context(self) -> ssl.SSLContext:
        """A server's context that demands a client certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.server)
        context.load_verify_locations(self.authority)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> _Certificates:
    return _Certificates(tmp_path_factory.mktemp("certificates"))


async def test_over_tls_with_authority_server_name_and_client_certificate(certificates: _Certificates) -> None:
    agent = _Agent()
    cert, key = certificates.client
    async with _serving(agent, context=certificates.context()) as config:
        good = replace(
            config, ca_file=certificates.authority, client_cert=cert, client_key=key, server_name="agent.test"
        )
        async with _asking(good) as health:
            assert (await health.read(0, 0.0)).index == 7
        async with _asking(replace(good, verify=False, ca_file="", server_name="")) as health:
            assert (await health.read(0, 0.0)).index == 7
        for wrong in (replace(good, server_name=""), replace(good, ca_file=""), replace(good, client_cert="")):
            async with _asking(wrong) as health:
                with pytest.raises(QueryError) as caught:
                    await health.read(0, 0.0)
                assert caught.value.reason == "connection"
    assert len(agent.requests) == 2


def test_given_authorities_are_trusted_alone(certificates: _Certificates) -> None:
    context = tls_context(ConsulConfig(scheme="https", ca_file=certificates.authority))
    assert [found["subject"] for found in context.get_ca_certs()] == [((("commonName", "authority"),),)]


def test_a_key_that_belongs_to_another_certificate_is_a_usage_error(certificates: _Certificates) -> None:
    config = ConsulConfig(scheme="https", client_cert=certificates.client[0], client_key=certificates.server[1])
    with pytest.raises(UsageError, match="CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY"):
        tls_context(config)
