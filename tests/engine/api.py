"""The REST resources: routing and authentication.

One table maps method and path to a function. The function gets the request and the ids in its path; it
returns a value (status 200) or an Answer, or raises Refused or NotFound.
"""

import json
import re
from dataclasses import dataclass, replace

import markup
from machines import routes as machine_routes
from sso import parse_form
from transfers import ACTIONS
from wire import Answer, Date, NotFound, Refused

PREFIX = "/ovirt-engine/api"
_DROPPED = re.compile("[^0-9a-zA-Z_-]")


@dataclass
class Request:
    method: str
    path: str
    query: dict
    headers: object
    body: bytes
    user: str | None = None

    @property
    def correlation_id(self):
        given = self.headers.get("Correlation-Id") or self.query.get("correlation_id")
        return _DROPPED.sub("", given)[:36] if given else None

    def json(self):
        kind = self.headers.get("Content-Type", "")
        if kind.startswith("application/xml"):
            value = markup.read(self.body)
            return value if isinstance(value, dict) else {}
        if not kind.startswith("application/json"):
            raise Refused(415, f"This stand-in reads JSON and XML, not {kind or 'a body without a type'}")
        try:
            value = json.loads(self.body or b"{}")
        except ValueError:
            raise Refused(400, "The request's body is not valid JSON") from None
        if not isinstance(value, dict):
            raise Refused(400, "The request's body is not an object")
        return value


class Api:
    def __init__(self, world, ca_file):
        self._world = world
        self._ca_file = ca_file
        surroundings, disks, transfers, jobs = world.directory, world.disks, world.transfers, world.jobs
        self._routes = [
            (method, re.compile(f"{PREFIX}{pattern}/?$"), function)
            for method, pattern, function in (
                ("GET", "", lambda request: self._root()),
                ("GET", "/storagedomains", lambda request: surroundings.list_domains(request.query)),
                ("GET", "/storagedomains/([^/]+)", lambda request, one: self._domain(one)),
                (
                    "GET",
                    "/storagedomains/([^/]+)/disksnapshots",
                    lambda request, one: self._domain_snapshots(request, one),
                ),
                ("GET", "/datacenters", lambda request: surroundings.list_data_centers(request.query)),
                ("GET", "/datacenters/([^/]+)", lambda request, one: surroundings.show_data_center(one)),
                (
                    "GET",
                    "/datacenters/([^/]+)/storagedomains",
                    lambda request, one: surroundings.list_attached(one),
                ),
                ("GET", "/hosts", lambda request: surroundings.list_hosts(request.query)),
                ("GET", "/hosts/([^/]+)", lambda request, one: surroundings.show_host(one)),
                (
                    "GET",
                    "/clusters",
                    lambda request: surroundings.list_clusters(request.query, world.options.level),
                ),
                (
                    "GET",
                    "/clusters/([^/]+)",
                    lambda request, one: surroundings.show_cluster(one, world.options.level),
                ),
                ("GET", "/jobs", lambda request: jobs.list(request.query)),
                ("GET", "/jobs/([^/]+)", lambda request, one: jobs.show(one)),
                ("GET", "/disks", lambda request: disks.list(request.query)),
                ("POST", "/disks", self._create_disk),
                ("GET", "/disks/([^/]+)", lambda request, one: disks.show_alone(disks.get(one))),
                ("PUT", "/disks/([^/]+)", lambda request, one: disks.update(one, request.json())),
                ("DELETE", "/disks/([^/]+)", self._delete_disk),
                ("POST", "/disks/([^/]+)/convert", self._convert_disk),
                (
                    "GET",
                    "/disks/([^/]+)/disksnapshots",
                    lambda request, one: self._disk_snapshots(request, one),
                ),
                ("GET", "/imagetransfers", lambda request: transfers.list()),
                ("POST", "/imagetransfers", self._create_transfer),
                ("GET", "/imagetransfers/([^/]+)", lambda request, one: transfers.show(one)),
                ("POST", f"/imagetransfers/([^/]+)/({'|'.join(ACTIONS)}|extend)", self._act),
                *machine_routes(world),
            )
        ]

    def answer(self, request):
        path = request.path
        if path == "/ovirt-engine/sso/oauth/token" and request.method == "POST":
            return self._world.sso.token(request.headers, parse_form(request.body))
        if path == "/ovirt-engine/sso/oauth/token-http-auth":
            return self._world.sso.negotiate()
        if path == "/ovirt-engine/services/sso-logout" and request.method == "POST":
            return self._world.sso.logout(parse_form(request.body))
        if path == "/ovirt-engine/services/pki-resource":
            return self._pki(request.query)
        if path == PREFIX or path.startswith(PREFIX + "/"):
            return self._resource(request)
        return Answer(404, b"<html><body>Not Found</body></html>", "text/html;charset=UTF-8")

    def _resource(self, request):
        subject = f"{request.method} {request.path}"
        request.user = self._world.sso.authenticate(request.headers, subject)
        if request.user is None:
            return self._world.sso.unauthorized()
        answer = self._answer_of_resource(request)
        accepted = request.headers.get("Accept", "")
        if answer.value is None or "json" in accepted:
            return answer
        parts = [part for part in request.path[len(PREFIX) :].split("/") if part]
        root = markup.root_of(request.method, parts, answer.status)
        return replace(answer, body=markup.write(root, answer.value), content_type="application/xml")

    def _answer_of_resource(self, request):
        try:
            if not {"json", "xml"} & set(re.findall("[a-z]+", request.headers.get("Accept", ""))):
                raise Refused(406, "This stand-in answers in JSON and XML only")
            methods = set()
            for method, pattern, function in self._routes:
                found = pattern.match(request.path)
                if found and method == request.method:
                    value = function(request, *found.groups())
                    return value if isinstance(value, Answer) else Answer.json(200, value)
                if found:
                    methods.add(method)
            if methods:
                return Answer(405, headers={"Allow": ",".join(sorted(methods))})
            raise NotFound
        except (Refused, NotFound) as error:
            return error.answer()

    def _root(self):
        options = self._world.options
        names = ("major", "minor", "build", "revision")
        version = {**dict(zip(names, options.version)), "full_version": options.engine_version}
        info = {"name": "oVirt Engine", "vendor": "ovirt.org", "version": version}
        return {"product_info": info, "time": Date.now()}

    def _domain(self, domain_id):
        return self._world.directory.show_domain(self._world.directory.storage_domain(domain_id))

    def _domain_snapshots(self, request, domain_id):
        self._world.directory.storage_domain(domain_id)
        return self._world.disks.list_snapshots(request.query, domain_id=domain_id)

    def _disk_snapshots(self, request, disk_id):
        if not self._world.options.disks_list_snapshots:
            raise NotFound
        return self._world.disks.list_snapshots(request.query, disk_id=disk_id)

    def _create_disk(self, request):
        return Answer.json(202, self._world.disks.create(request.json(), request.correlation_id))

    def _convert_disk(self, request, disk_id):
        self._world.disks.convert(disk_id, request.json(), request.correlation_id)
        return {"status": "complete"}

    def _delete_disk(self, request, disk_id):
        self._world.disks.delete(disk_id)
        return {"status": "complete"}

    def _create_transfer(self, request):
        return Answer.json(201, self._world.transfers.create(request.json(), request.correlation_id))

    def _act(self, request, transfer_id, action):
        request.json()
        self._world.transfers.act(transfer_id, action)
        asynchronous = request.query.get("async") == "true" or "202-accepted" in request.headers.get(
            "Expect", ""
        )
        return Answer.json(202 if asynchronous else 200, {"status": "complete"})

    def _pki(self, query):
        if query.get("resource") != "ca-certificate" or query.get("format", "X509-PEM-CA") != "X509-PEM-CA":
            return Answer(404)
        with open(self._ca_file, "rb") as file:
            return Answer(200, file.read(), "application/x-x509-ca-cert")
