"""Registration, maintenance and errors: the same on the development registry and on Consul."""

import asyncio
import warnings
from functools import partial

import consul as python_consul2
import pytest

from tests.contract.conftest import Api

pytestmark = pytest.mark.asyncio(loop_scope="session")

REGISTER = "/v1/agent/service/register"
CHECK = "/v1/agent/check"
TTL = {"TTL": "60s", "Status": "passing"}


async def test_entry_has_the_fields_that_clients_read(api: Api) -> None:
    name = api.name()
    await api.register(
        ID=f"{name}-id", Name=name, Address="127.0.0.7", Port=-1, Tags=["blue"], Meta={"k": "v"}, Check=TTL
    )
    (entry,) = (await api.health(name)).json
    node, service, checks = entry["Node"], entry["Service"], entry["Checks"]
    assert {"ID", "Node", "Address", "Datacenter", "TaggedAddresses", "Meta"} <= set(node)
    assert node["Datacenter"] == "dc1"
    assert service["ID"] == f"{name}-id"
    assert service["Service"] == name
    assert (service["Address"], service["Port"]) == ("127.0.0.7", -1)
    assert (service["Tags"], service["Meta"]) == (["blue"], {"k": "v"})
    assert service["Weights"] == {"Passing": 1, "Warning": 1}
    assert service["TaggedAddresses"]["lan_ipv4"] == {"Address": "127.0.0.7", "Port": -1}
    assert [(check["CheckID"], check["ServiceID"]) for check in checks] == [
        ("serfHealth", ""),
        (f"service:{name}-id", f"{name}-id"),
    ]
    own = checks[1]
    assert (own["Status"], own["Output"], own["Notes"], own["Type"]) == ("passing", "", "", "ttl")
    assert (own["ServiceName"], own["ServiceTags"], own["Node"]) == (name, ["blue"], node["Node"])


async def test_what_is_not_given(api: Api) -> None:
    name = api.name()
    await api.register(name=name, Tags=None, Check={})
    (entry,) = (await api.health(name)).json
    assert (entry["Service"]["Tags"], entry["Service"]["Meta"]) == ([], None)
    assert entry["Service"]["Address"] == ""
    assert not {"Port", "TaggedAddresses"} & set(entry["Service"])
    assert [check["CheckID"] for check in entry["Checks"]] == ["serfHealth"]


async def test_unknown_service_is_an_empty_list_with_an_index(api: Api) -> None:
    answer = await api.health(api.name("unknown"))
    assert answer.json == []
    assert answer.index >= 1


async def test_names_have_no_case_and_snake_case_aliases(api: Api) -> None:
    name = api.name()
    tagged = {"lan": {"address": "127.0.0.9", "port": 9}}
    check = {"checkid": f"{name}-c", "ttl": "60s", "STATUS": "warning", "deregister_critical_service_after": "1m"}
    await api.register(name=name, PORT=7, enable_tag_override=True, tagged_addresses=tagged, checks=[check])
    await api.put(f"{CHECK}/register", {"id": f"{name}-d", "name": "d", "service_id": name, "ttl": "60s"})
    assert await api.statuses(name) == {f"{name}-c": "warning", f"{name}-d": "critical"}
    (entry,) = (await api.health(name)).json
    assert (entry["Service"]["Port"], entry["Service"]["EnableTagOverride"]) == (7, True)
    assert entry["Service"]["TaggedAddresses"]["lan"] == {"Address": "127.0.0.9", "Port": 9}
    refused = await api.request("PUT", REGISTER, {"Name": name, "Check": {"check_id": "x", "TTL": "1s"}})
    assert refused.text == 'Request decode failed: json: unknown field "check_id"'


async def test_check_ids_are_numbered_where_there_are_several(api: Api) -> None:
    name = api.name()
    await api.register(Name=name, Check=TTL, Checks=[TTL, {**TTL, "CheckID": f"{name}-own"}])
    assert set(await api.statuses(name)) == {f"service:{name}:1", f"service:{name}:2", f"{name}-own"}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "Request decode failed: EOF"),
        (b"{", "Request decode failed: "),
        ({"Name": "a", "Foo": 1}, 'Request decode failed: json: unknown field "Foo"'),
        ({"Name": "a", "Check": {"Foo": 1}}, 'Request decode failed: json: unknown field "Foo"'),
        ({"Name": 5}, "Request decode failed: json: cannot unmarshal number into Go struct field "),
        ({"Name": "a", "Port": "x"}, "Request decode failed: json: cannot unmarshal string into Go struct field "),
        ({"Address": "x"}, "Missing service name"),
        ({"Name": "a", "Address": "0.0.0.0"}, "Invalid service address"),
        (
            {"Name": "a", "Check": {"GRPC": "127.0.0.1:1"}},
            "Invalid check: Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks",
        ),
        (
            {"Name": "a", "Check": {"TTL": "1s", "GRPC": "127.0.0.1:1", "Interval": "1s"}},
            "Invalid check: Interval and TTL cannot both be specified",
        ),
        ({"Name": "a", "Check": {"TTL": "abc"}}, 'Request decode failed: time: invalid duration "abc"'),
        (
            {"Name": "a", "Check": {"TTL": "1s", "Status": "x"}},
            "Status for checks must 'passing', 'warning', 'critical'",
        ),
    ],
)
async def test_refused_registrations(api: Api, body: object, text: str) -> None:
    answer = await api.request("PUT", REGISTER, body)
    assert answer.status == 400
    assert answer.text.startswith(text)


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/v1/agent/service/deregister/nope", 404, 'Unknown service ID "nope". Ensure that the service ID is passed'),
        (
            "/v1/agent/service/maintenance/nope?enable=true",
            404,
            'Unknown service ID "nope". Ensure that the service ID is passed, not the service name.',
        ),
        ("/v1/agent/service/maintenance/nope", 400, "Missing value for enable"),
        ("/v1/agent/service/maintenance/nope?enable=maybe", 400, 'Invalid value for enable: "maybe"'),
        (
            f"{CHECK}/pass/nope",
            404,
            'Unknown check ID "nope". Ensure that the check ID is passed, not the check name.',
        ),
        (f"{CHECK}/deregister/nope", 404, 'Unknown check ID "nope". Ensure that the check ID is passed'),
    ],
)
async def test_refused_changes(api: Api, path: str, status: int, text: str) -> None:
    answer = await api.request("PUT", path)
    assert answer.status == status
    assert answer.text.startswith(text)


async def test_refused_checks(api: Api) -> None:
    missing = await api.request("PUT", f"{CHECK}/register", {"TTL": "1s"})
    assert (missing.status, missing.text) == (400, "Missing check name")
    homeless = await api.request("PUT", f"{CHECK}/register", {"Name": "x", "TTL": "1s", "ServiceID": "nope"})
    assert (homeless.status, homeless.text) == (404, 'ServiceID "nope" does not exist')


@pytest.mark.parametrize("path", ["/v1/agent/services", "/v1/health/service/a", "/v1/catalog/nodes", REGISTER])
async def test_wrong_method(api: Api, path: str) -> None:
    answer = await api.request("POST", path)
    assert (answer.status, answer.text) == (405, "method POST not allowed")


async def test_maintenance_hides_an_instance_and_says_why(api: Api) -> None:
    name = api.name()
    await api.register(Name=name, Check=TTL)
    await api.put(f"/v1/agent/service/maintenance/{name}?enable=true&reason=because")
    (entry,) = (await api.health(name)).json
    check = entry["Checks"][1]
    assert check["CheckID"] == f"_service_maintenance:{name}"
    assert (check["Status"], check["Notes"], check["Output"]) == ("critical", "because", "")
    assert (await api.health(name, "passing")).json == []
    await api.put(f"/v1/agent/service/maintenance/{name}?enable=false")
    assert len((await api.health(name, "passing")).json) == 1


async def test_registering_again_keeps_status_and_maintenance_and_replacing_drops_maintenance(api: Api) -> None:
    name = api.name()
    other = {"TTL": "60s", "CheckID": f"{name}-other"}
    await api.register(Name=name, Checks=[{"TTL": "60s", "Status": "critical", "CheckID": f"{name}-c"}, other])
    await api.put(f"/v1/agent/service/maintenance/{name}?enable=true")
    again = {"Name": name, "Check": {"TTL": "60s", "Status": "passing", "CheckID": f"{name}-c"}}
    await api.put(REGISTER, again)
    assert await api.statuses(name) == {
        f"_service_maintenance:{name}": "critical",
        f"{name}-c": "critical",
        f"{name}-other": "critical",
    }
    await api.put(f"{REGISTER}?replace-existing-checks=true", again)
    assert await api.statuses(name) == {f"{name}-c": "critical"}


async def test_deregistering_drops_maintenance(api: Api) -> None:
    name = api.name()
    await api.register(Name=name, Check=TTL)
    await api.put(f"/v1/agent/service/maintenance/{name}?enable=true")
    await api.put(f"/v1/agent/service/deregister/{name}")
    assert (await api.health(name)).json == []
    await api.register(Name=name, Check=TTL)
    assert len((await api.health(name, "passing")).json) == 1


async def test_tags_narrow_and_have_no_case(api: Api) -> None:
    name = api.name()
    await api.register(ID=f"{name}-b", Name=name, Tags=["Blue", "v1"])
    await api.register(ID=f"{name}-g", Name=name, Tags=["green", "v1"])

    async def ids(query: str) -> list[str]:
        return sorted(entry["Service"]["ID"] for entry in (await api.health(name, query)).json)

    assert await ids("tag=v1") == [f"{name}-b", f"{name}-g"]
    assert await ids("tag=v1&tag=blue") == [f"{name}-b"]
    assert await ids("tag=red") == []


async def test_a_check_of_the_node_counts_for_every_instance(api: Api) -> None:
    name, check = api.name(), api.name("node-check")
    await api.register(Name=name)
    await api.put(f"{CHECK}/register", {"Name": check, "TTL": "60s"})
    try:
        assert (await api.health(name, "passing")).json == []
        (entry,) = (await api.health(name)).json
        assert {one["CheckID"]: one["Status"] for one in entry["Checks"]}[check] == "critical"
    finally:
        await api.put(f"{CHECK}/deregister/{check}")
    assert len((await api.health(name, "passing")).json) == 1


async def test_lists_of_the_agent_and_the_catalog(api: Api) -> None:
    name = api.name()
    await api.register(Name=name, Tags=["blue"], Address="127.0.0.1", Port=5, Check=TTL)
    assert (await api.get("/v1/agent/services")).json[name]["Service"] == name
    assert (await api.get("/v1/agent/checks")).json[f"service:{name}"]["Status"] == "passing"
    assert (await api.get("/v1/agent/self")).json["Config"]["Datacenter"] == "dc1"
    assert (await api.get("/v1/catalog/services")).json[name] == ["blue"]
    (entry,) = (await api.get(f"/v1/catalog/service/{name}")).json
    assert (entry["ServiceID"], entry["ServiceAddress"], entry["ServicePort"]) == (name, "127.0.0.1", 5)
    (node,) = (await api.get("/v1/catalog/nodes")).json
    assert node["Address"] == "127.0.0.1"
    assert (await api.get("/v1/catalog/datacenters")).json == ["dc1"]
    assert ":" in (await api.get("/v1/status/leader")).json
    passing = {check["CheckID"] for check in (await api.get("/v1/health/state/passing")).json}
    assert {"serfHealth", f"service:{name}"} <= passing
    assert f"service:{name}" not in (await api.get("/v1/health/state/critical")).text


async def test_node_meta_and_datacenter(api: Api) -> None:
    name = api.name()
    await api.register(Name=name)
    assert (await api.health(name, "node-meta=no:such")).json == []
    assert len((await api.health(name, "dc=dc1")).json) == 1
    answer = await api.get(f"/v1/health/service/{name}?dc=elsewhere")
    assert (answer.status, answer.text) == (500, "No path to datacenter")


async def test_python_consul2_works_on_it(api: Api) -> None:
    name = api.name()
    host, _, port = api.url.removeprefix("http://").partition(":")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # its own, about legacy ACLs
        client = python_consul2.Consul(host, int(port), timeout=5)
    client.http.session.trust_env = False
    check = {"CheckID": f"{name}-c", "TTL": "60s", "Status": "passing"}
    register = partial(client.agent.service.register, name, port=9, tags=["blue"], check=check)
    assert await asyncio.to_thread(register)
    index, entries = await asyncio.to_thread(client.health.service, name, passing=True)
    assert (int(index) > 0, len(entries)) == (True, 1)
    assert await asyncio.to_thread(client.agent.check.ttl_fail, f"{name}-c", "no")
    later, entries = await asyncio.to_thread(client.health.service, name, index=index, wait="5s", passing=True)
    assert (int(later) > int(index), entries) == (True, [])
    assert await asyncio.to_thread(client.agent.service.maintenance, name, "true")
    assert await asyncio.to_thread(client.agent.service.deregister, name)
    assert not await asyncio.to_thread(client.agent.service.deregister, name)
    client.http.session.close()
