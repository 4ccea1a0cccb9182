"""What is registered, the health of it, and the indexes that say when it changed. No I/O and no clock."""

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from compose.registry.definitions import (
    CRITICAL,
    PASSING,
    CheckDefinition,
    RefusedError,
    ServiceDefinition,
    notation,
)

DATACENTER = "dc1"
NODE_ADDRESS = "127.0.0.1"
VERSION = "1.19.2"
"""The Consul whose behaviour this is."""
DEFAULT_REASON = "Maintenance mode is enabled for this service, but no reason was provided. This is a default message."


@dataclass(slots=True)
class Service:
    """An instance; the indexes are those of its creation and of its last change."""

    definition: ServiceDefinition
    created: int
    modified: int


@dataclass(slots=True)
class Check:
    """A check and its state; `definition` is None where nothing probes it (maintenance, serfHealth)."""

    id: str
    name: str
    notes: str
    service_id: str
    kind: str
    status: str
    output: str
    definition: CheckDefinition | None
    created: int
    modified: int


@dataclass(slots=True)
class Catalog:
    """The services and checks of one node. `changed` is called after every change of an index."""

    node: str
    changed: Callable[[], None]
    node_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    index: int = 1
    services: dict[str, Service] = field(default_factory=dict)
    checks: dict[str, Check] = field(default_factory=dict)
    # The index of the last change of each service, by name; stays when the last instance has gone, so that its
    # watchers see a higher one.
    _service_indexes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.checks["serfHealth"] = Check(
            "serfHealth", "Serf Health Status", "", "", "", PASSING, "Agent alive and reachable", None, 1, 1
        )

    # -- changes ------------------------------------------------------------------------------------------------

    def register(self, service: ServiceDefinition, checks: Iterable[CheckDefinition], replace: bool) -> None:
        """Add or update an instance. Checks of it that are not named stay, also maintenance, unless `replace`."""
        touched = set()
        known = self.services.get(service.id)
        if known is None:
            self.services[service.id] = Service(service, self.index + 1, self.index + 1)
            touched.add(service.name)
        elif known.definition != service:
            touched |= {known.definition.name, service.name}
            known.definition, known.modified = service, self.index + 1
        named = set()
        for check in checks:
            named.add(check.id)
            if self._put_check(check):
                touched.add(service.name)
        if replace:
            for stale in [c.id for c in self._checks_of(service.id) if c.id not in named]:
                del self.checks[stale]
                touched.add(service.name)
        self._touch(touched)

    def deregister(self, service_id: str) -> None:
        """Remove an instance and its checks; raises `RefusedError` 404."""
        service = self._service(service_id)
        del self.services[service_id]
        for check in self._checks_of(service_id):
            del self.checks[check.id]
        self._touch({service.definition.name})

    def register_check(self, check: CheckDefinition) -> None:
        """Add or update a check of an instance or of the node; raises `RefusedError` 404."""
        if check.service_id and check.service_id not in self.services:
            raise RefusedError(404, f'ServiceID "{check.service_id}" does not exist')
        if self._put_check(check):
            self._touch(self._names_of(check.service_id))

    def deregister_check(self, check_id: str) -> None:
        """Remove a check; raises `RefusedError` 404."""
        check = self._check(check_id)
        del self.checks[check_id]
        self._touch(self._names_of(check.service_id))

    def maintenance(self, service_id: str, enable: bool, reason: str) -> None:
        """Take an instance out of traffic or back; raises `RefusedError` 404."""
        service = self._service(service_id)
        check_id = f"_service_maintenance:{service_id}"
        if enable == (check_id in self.checks):
            return
        if enable:
            self.checks[check_id] = Check(
                check_id,
                "Service Maintenance Mode",
                reason or DEFAULT_REASON,
                service_id,
                "maintenance",
                CRITICAL,
                "",
                None,
                self.index + 1,
                self.index + 1,
            )
        else:
            del self.checks[check_id]
        self._touch({service.definition.name})

    def ttl_check(self, check_id: str) -> Check:
        """Return a check whose status clients set; raises `RefusedError` 404, or 500 where it is probed."""
        check = self._check(check_id)
        if check.kind != "ttl":
            raise RefusedError(500, f'CheckID "{check_id}" does not have associated TTL')
        return check

    def update(self, check: Check, status: str, output: str) -> None:
        """Set the state of a check. New output alone is no change: Consul too passes it on much later."""
        if self.checks.get(check.id) is not check:
            return
        check.output = output
        if check.status != status:
            check.status, check.modified = status, self.index + 1
            self._touch(self._names_of(check.service_id))

    def _put_check(self, definition: CheckDefinition) -> bool:
        """Add a check, or give a known one its new definition and leave its status; returns whether it is new."""
        known = self.checks.get(definition.id)
        self.checks[definition.id] = Check(
            definition.id,
            definition.name,
            definition.notes,
            definition.service_id,
            definition.kind,
            known.status if known else definition.status,
            known.output if known else "",
            definition,
            known.created if known else self.index + 1,
            known.modified if known else self.index + 1,
        )
        return known is None

    def _touch(self, names: set[str]) -> None:
        if not names:
            return
        self.index += 1
        for name in names:
            self._service_indexes[name] = self.index
        self.changed()

    # -- look-ups -----------------------------------------------------------------------------------------------

    def service_index(self, name: str) -> int:
        """Return the index of the last change of the service `name`, 1 if there never was one."""
        return self._service_indexes.get(name, 1)

    def health(self, name: str, passing: bool, tags: Iterable[str]) -> list[dict[str, Any]]:
        """Return the instances of a service that have all `tags`, as ``/v1/health/service`` does."""
        entries = []
        for service in self.named(name, tags):
            checks = self.checks_for(service.definition.id)
            if not passing or all(check.status == PASSING for check in checks):
                entries.append(
                    {
                        "Node": self.node_entry(),
                        "Service": self._health_service(service),
                        "Checks": [self.check_entry(check) for check in checks],
                    }
                )
        return entries

    def checks_for(self, service_id: str) -> list[Check]:
        """Return the checks that decide over an instance: those of the node, then its own."""
        return [check for key in ("", service_id) for check in self._checks_of(key)]

    def service_checks(self, name: str) -> list[Check]:
        """Return the checks of all instances of a service."""
        return [check for service in self.named(name, ()) for check in self._checks_of(service.definition.id)]

    def _service(self, service_id: str) -> Service:
        if service_id not in self.services:
            hint = "Ensure that the service ID is passed, not the service name."
            raise RefusedError(404, f'Unknown service ID "{service_id}". {hint}')
        return self.services[service_id]

    def _check(self, check_id: str) -> Check:
        if check_id not in self.checks:
            hint = "Ensure that the check ID is passed, not the check name."
            raise RefusedError(404, f'Unknown check ID "{check_id}". {hint}')
        return self.checks[check_id]

    def _checks_of(self, service_id: str) -> list[Check]:
        own = [check for check in self.checks.values() if check.service_id == service_id]
        return sorted(own, key=lambda check: check.id)

    def named(self, name: str, tags: Iterable[str]) -> list[Service]:
        """Return the instances of a service that have all `tags`, which have no case, by id."""
        wanted = {tag.lower() for tag in tags}
        found = [service for _, service in sorted(self.services.items()) if service.definition.name == name]
        return [one for one in found if wanted <= {tag.lower() for tag in one.definition.tags}]

    def _names_of(self, service_id: str) -> set[str]:
        """The services that a check of `service_id` concerns: all of them for a check of the node."""
        ids = [service_id] if service_id else list(self.services)
        return {self.services[each].definition.name for each in ids if each in self.services}

    # -- JSON ---------------------------------------------------------------------------------------------------

    def node_entry(self) -> dict[str, Any]:
        """Return the node as ``/v1/catalog/nodes`` does."""
        addresses = ("lan", "lan_ipv4", "wan", "wan_ipv4")
        return {
            "ID": self.node_id,
            "Node": self.node,
            "Address": NODE_ADDRESS,
            "Datacenter": DATACENTER,
            "TaggedAddresses": dict.fromkeys(addresses, NODE_ADDRESS),
            "Meta": {"consul-network-segment": "", "consul-version": VERSION},
            "CreateIndex": 1,
            "ModifyIndex": 1,
        }

    def agent_service(self, service: Service) -> dict[str, Any]:
        """Return an instance as ``/v1/agent/services`` does."""
        definition = service.definition
        entry = {
            "ID": definition.id,
            "Service": definition.name,
            "Tags": list(definition.tags),
            "Meta": dict(definition.meta),
            "Port": definition.port,
            "Address": definition.address,
            "Weights": {"Passing": definition.weights[0], "Warning": definition.weights[1]},
            "EnableTagOverride": definition.enable_tag_override,
            "Datacenter": DATACENTER,
        }
        if tagged := self._tagged(definition):
            entry["TaggedAddresses"] = tagged
        return entry

    def catalog_entry(self, service: Service) -> dict[str, Any]:
        """Return an instance as ``/v1/catalog/service`` does."""
        definition, node = service.definition, self.node_entry()
        return {
            **{name: node[name] for name in ("ID", "Node", "Address", "Datacenter", "TaggedAddresses")},
            "NodeMeta": node["Meta"],
            "ServiceKind": "",
            "ServiceID": definition.id,
            "ServiceName": definition.name,
            "ServiceTags": list(definition.tags),
            "ServiceAddress": definition.address,
            "ServiceTaggedAddresses": self._tagged(definition),
            "ServiceWeights": {"Passing": definition.weights[0], "Warning": definition.weights[1]},
            "ServiceMeta": dict(definition.meta),
            "ServicePort": definition.port,
            "ServiceEnableTagOverride": definition.enable_tag_override,
            "CreateIndex": service.created,
            "ModifyIndex": service.modified,
        }

    def check_entry(self, check: Check) -> dict[str, Any]:
        """Return a check as the health endpoints and ``/v1/agent/checks`` do."""
        service = self.services.get(check.service_id)
        probed = check.definition if check.definition and check.definition.interval else None
        return {
            "Node": self.node,
            "CheckID": check.id,
            "Name": check.name,
            "Status": check.status,
            "Notes": check.notes,
            "Output": check.output,
            "ServiceID": check.service_id,
            "ServiceName": service.definition.name if service else "",
            "ServiceTags": list(service.definition.tags) if service else [],
            "Type": check.kind,
            "Interval": notation(probed.interval) if probed else "",
            "Timeout": notation(probed.timeout) if probed else "",
            "ExposedPort": 0,
            "Definition": {},
            "CreateIndex": check.created,
            "ModifyIndex": check.modified,
        }

    def _health_service(self, service: Service) -> dict[str, Any]:
        entry = self.agent_service(service)
        del entry["Datacenter"]
        entry["Meta"] = entry["Meta"] or None
        if not entry["Port"]:
            del entry["Port"]
        return entry | {"CreateIndex": service.created, "ModifyIndex": service.modified}

    def _tagged(self, definition: ServiceDefinition) -> dict[str, Any]:
        given = {name: {"Address": host, "Port": port} for name, (host, port) in definition.tagged_addresses}
        if not definition.address:
            return given
        own = {"Address": definition.address, "Port": definition.port}
        return {"lan_ipv4": own, "wan_ipv4": own} | given
