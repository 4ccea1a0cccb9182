import os
import socket
from typing import Any

import pytest

from greeter import registration
from greeter.registration import Client, ConsulAddress, Instance, bind_address, own_address


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://127.0.0.1:8500", "http://127.0.0.1:8500"),
        ("127.0.0.1:8501", "http://127.0.0.1:8501"),
        ("consul", "http://consul:8500"),
        ("https://consul/", "https://consul:8500"),
        ("http://[::1]:8500", "http://[::1]:8500"),
    ],
)
def test_addresses_of_consul(url: str, shown: str) -> None:
    assert str(ConsulAddress.parse(url)) == shown


@pytest.mark.parametrize("url", ["", "unix:///run/consul", "http://", "http://consul/v1", "http://consul:99999"])
def test_wrong_addresses_of_consul(url: str) -> None:
    with pytest.raises(ValueError):
        ConsulAddress.parse(url)


def test_definition() -> None:
    definition = Instance("greeter", "blue", "10.0.0.1", 50000, "b").definition()
    assert definition["ID"] == "blue-10.0.0.1-50000"
    assert (definition["Name"], definition["Tags"], definition["Meta"]) == ("greeter", ["b"], {"name": "blue"})
    assert definition["Check"]["GRPC"] == "10.0.0.1:50000"
    assert Instance("greeter", "blue", "::1", 1, "").definition()["Check"]["GRPC"] == "[::1]:1"
    assert Instance("greeter", "blue", "::1", 1, "").definition()["Tags"] == []


@pytest.mark.parametrize(
    ("host", "bound"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        ("::1", "[::1]"),
        ("10.1.2.3", "0.0.0.0"),
        ("fd00::1", "[::]"),
        ("blue.example", "0.0.0.0"),
    ],
)
def test_what_is_bound_so_that_the_registered_address_works(host: str, bound: str) -> None:
    assert bind_address(host) == bound


def test_own_address_is_the_one_that_reaches_consul() -> None:
    assert own_address(ConsulAddress.parse("http://127.0.0.9:8500")) == "127.0.0.1"


def test_own_address_where_consul_has_no_name_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, port: int, **settings: Any) -> Any:
        if host == "consul":
            raise socket.gaierror("not known")
        return [(socket.AF_INET, socket.SOCK_DGRAM, 0, "", (host, port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    consul = ConsulAddress.parse("http://consul:8500")
    monkeypatch.setattr(registration, "DEFAULT_ROUTE", ("127.0.0.9", 9))
    assert own_address(consul) == "127.0.0.1"


@pytest.mark.parametrize("variable", ["https://elsewhere", "elsewhere", "[::1]:1", "unix:///x"])
def test_the_environment_does_not_override_the_address(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSUL_HTTP_ADDR", variable)
    monkeypatch.setenv("CONSUL_HTTP_SSL_VERIFY", "1")
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "secret")
    client = Client(ConsulAddress.parse("http://127.0.0.1:8511"))
    assert client.http.base_uri == "http://127.0.0.1:8511"
    assert client.http.verify is True
    assert client.token == "secret"
    assert client.http.session.trust_env is False
    assert os.environ["CONSUL_HTTP_ADDR"] == variable
