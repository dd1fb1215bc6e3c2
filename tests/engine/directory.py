"""Storage domains, data centers, clusters and hosts. They are fixed at the start.

The syntax of a domain is NAME=TYPE[,detached][,maintenance]; TYPE is nfs, localfs, glusterfs (file) or iscsi,
fcp (block). A detached domain belongs to no data center. As in the engine, a domain that is
attached shows its status only below its data center.
"""

import uuid
from dataclasses import dataclass

from search import select
from wire import NotFound, Refused, listing

FILE_TYPES = ("nfs", "localfs", "glusterfs", "posixfs")
BLOCK_TYPES = ("iscsi", "fcp")
_NAMESPACE = uuid.UUID("6b6d1c52-0b27-4e5a-9a51-5b52f3b6a0de")


def stable_id(text):
    """Returns an id that is the same in every run, so that a test can contain it."""
    return str(uuid.uuid5(_NAMESPACE, text))


@dataclass(frozen=True)
class Domain:
    name: str
    kind: str
    attached: bool = True
    active: bool = True

    @classmethod
    def parse(cls, text):
        name, _, rest = text.partition("=")
        kind, *flags = rest.split(",")
        if not name or kind not in FILE_TYPES + BLOCK_TYPES or not set(flags) <= {"detached", "maintenance"}:
            raise ValueError(f"not a storage domain: {text}")
        return cls(name, kind, "detached" not in flags, "maintenance" not in flags)

    @property
    def id(self):
        return stable_id(f"domain {self.name}")

    @property
    def is_block(self):
        return self.kind in BLOCK_TYPES


@dataclass(frozen=True)
class Named:
    kind: str
    name: str

    @property
    def id(self):
        return stable_id(f"{self.kind} {self.name}")


class Directory:
    def __init__(self, domains, hardware_id):
        self.domains = domains
        self.data_center = Named("datacenter", "Default")
        self.host = Named("host", "host1")
        self.cluster = Named("cluster", "Default")
        self._hardware_id = hardware_id

    def find_domain(self, reference):
        """Finds the domain of a request by id or name. A missing one is a 404, but with a fault."""
        for domain in self.domains:
            if (
                reference.get("id", domain.id) == domain.id
                and reference.get("name", domain.name) == domain.name
            ):
                return domain
        raise Refused(404, f"Entity not found: StorageDomain: {reference.get('id') or reference.get('name')}")

    def storage_domain(self, domain_id):
        for domain in self.domains:
            if domain.id == domain_id:
                return domain
        raise NotFound

    def list_domains(self, query):
        found = select(self.domains, lambda one: {"name": one.name, "id": one.id}, query)
        return listing("storage_domain", [self.show_domain(one) for one in found])

    def list_attached(self, data_center_id):
        self.show_data_center(data_center_id)
        attached = [one for one in self.domains if one.attached]
        shown = [
            {**self.show_domain(one), "status": "active" if one.active else "maintenance"} for one in attached
        ]
        return listing("storage_domain", shown)

    def list_data_centers(self, query):
        def facts(center):
            names = [one.name for one in self.domains if one.attached]
            return {"name": center.name, "id": center.id, "storage.name": names}

        found = select([self.data_center], facts, query)
        return listing("data_center", [self.show_data_center(one.id) for one in found])

    def list_hosts(self, query):
        def facts(host):
            known = {"name": host.name, "id": host.id, "datacenter": self.data_center.name, "status": "up"}
            return {**known, "hw_id": self._hardware_id}

        found = select([self.host], facts, query)
        return listing("host", [self.show_host(one.id) for one in found])

    def list_clusters(self, query, level):
        found = select([self.cluster], lambda one: {"name": one.name, "id": one.id}, query)
        return listing("cluster", [self.show_cluster(one.id, level) for one in found])

    def show_domain(self, domain):
        attached = {"data_centers": {"data_center": [{"id": self.data_center.id}]}} if domain.attached else {}
        return {
            "href": f"/ovirt-engine/api/storagedomains/{domain.id}",
            "id": domain.id,
            "name": domain.name,
            "type": "data",
            "master": domain is self.domains[0],
            "storage": {"type": domain.kind},
            "storage_format": "v5",
            "available": 500 << 30,
            "used": 20 << 30,
            "status": None if domain.attached else "unattached",
            **attached,
        }

    def show_data_center(self, center_id):
        if center_id != self.data_center.id:
            raise NotFound
        href = f"/ovirt-engine/api/datacenters/{center_id}"
        return {"href": href, "id": center_id, "name": self.data_center.name, "status": "up", "local": False}

    def show_cluster(self, cluster_id, level):
        if cluster_id != self.cluster.id:
            raise NotFound
        major, minor = level.split(".")
        href = f"/ovirt-engine/api/clusters/{cluster_id}"
        shown = {"href": href, "id": cluster_id, "name": self.cluster.name}
        shown["data_center"] = {"id": self.data_center.id}
        return {**shown, "version": {"major": int(major), "minor": int(minor)}}

    def show_host(self, host_id):
        if host_id != self.host.id:
            raise NotFound
        href = f"/ovirt-engine/api/hosts/{host_id}"
        name = self.host.name
        return {
            "href": href,
            "id": host_id,
            "name": name,
            "address": "127.0.0.1",
            "status": "up",
            "type": "rhel",
        }
