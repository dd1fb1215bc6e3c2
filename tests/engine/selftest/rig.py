"""The rig: one imageio daemon for the whole run, a stand-in for each test, and the calls that tests make."""

import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import unittest
import urllib.parse

USER, PASSWORD = "admin@internal", "secret"
API = "/ovirt-engine/api"
TOKEN = "/ovirt-engine/sso/oauth/token"
MIB = 1 << 20

_state = {}


def start(project, engine):
    directory = tempfile.mkdtemp(prefix="engine-selftest-")
    _state.update(project=project, engine=engine, dir=directory, imageio=os.path.join(directory, "imageio"))
    start_daemon()


def stop():
    stop_daemon()
    shutil.rmtree(_state["dir"])


def start_daemon():
    _script("start", _state["imageio"], "--tls")


def stop_daemon():
    _script("stop", _state["imageio"])


def _script(*arguments):
    subprocess.run([os.path.join(_state["project"], "scripts", "imageio"), *arguments], check=True)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost")
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def exchange(connection, method, path, body, headers):
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, content, response.headers


def request(url, method, body=None, headers=None, cafile=None):
    parts = urllib.parse.urlsplit(url)
    tls = ssl.create_default_context(cafile=cafile)
    connection = http.client.HTTPSConnection(parts.hostname, parts.port, context=tls, timeout=30)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    return exchange(connection, method, target, body, headers or {})


class Engine:
    def __init__(self, *options):
        self.dir = tempfile.mkdtemp(prefix="e", dir=_state["dir"])
        python = os.path.join(_state["project"], "target", "venv", "bin", "python")
        command = [python, "-B", os.path.join(_state["engine"], "main.py"), "--imageio", _state["imageio"]]
        self.process = subprocess.Popen(
            [*command, "--dir", self.dir, *options], stdout=subprocess.PIPE, text=True
        )
        self.ready = json.loads(self.process.stdout.readline())
        self.token = None

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=30)
        self.process.stdout.close()

    def raw(self, method, path, body=None, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return request(self.ready["url"] + path, method, body, headers, self.ready["cafile"])

    def form(self, path, accept="application/json", **fields):
        kind = "application/x-www-form-urlencoded"
        body = urllib.parse.urlencode(fields)
        status, content, _ = self.raw("POST", path, body, Accept=accept, Content_Type=kind)
        return status, json.loads(content)

    def login(self, user=USER, password=PASSWORD, scope="ovirt-app-api", accept="application/json"):
        fields = {"grant_type": "password", "scope": scope, "username": user, "password": password}
        status, value = self.form(TOKEN, accept, **fields)
        self.token = value.get("access_token", self.token)
        return status, value

    def call(self, method, path, value=None, **headers):
        """Makes an API call, logged in; returns its status and JSON (None for an empty body)."""
        if self.token is None:
            self.login()
        headers = {"Authorization": f"Bearer {self.token}", "Accept": "application/json", **headers}
        body = None
        if value is not None or method == "POST":
            body, headers["Content_Type"] = json.dumps(value or {}), "application/json"
        status, content, _ = self.raw(method, API + path, body, **headers)
        return status, json.loads(content) if content else None

    def control(self, method, path, value=None):
        connection = UnixConnection(self.ready["control"])
        status, content, _ = exchange(
            connection, method, path, json.dumps(value) if value is not None else None, {}
        )
        return status, json.loads(content)

    def switch(self, name, **order):
        status, value = self.control("POST", "/switches", {"switch": name, **order})
        assert status == 200, value
        return value

    def state(self, kind, which):
        found = [one for one in self.control("GET", "/state")[1][kind] if one["id"] == which]
        return found[0] if found else None

    def log(self, kind):
        with open(self.ready["log"], encoding="utf-8") as file:
            # The last line may be on its way into the file.
            whole = [line for line in file if line.endswith("\n")]
        return [line for line in map(json.loads, whole) if line["kind"] == kind]

    def phases(self, transfer_id):
        return [one["phase"] for one in self.log("phase") if one["transfer"] == transfer_id]

    def old_disk(self, **spec):
        return self.control("POST", "/disks", {"name": "old", "size": MIB, **spec})[1]

    def vm(self, **spec):
        """Adds a VM; returns its id."""
        status, added = self.control("POST", "/vms", [{"name": "web", **spec}])
        assert status == 200, added
        return added[0]["id"]

    def guest(self, disk_id, *writes):
        status, value = self.control("POST", f"/disks/{disk_id}/guest", list(writes))
        assert status == 200, value

    def guest_bytes(self, disk_id):
        """Returns what the guest reads."""
        path = os.path.join(self.dir, "guest.raw")
        status, value = self.control("POST", f"/disks/{disk_id}/copy", {"to": path})
        assert status == 200, value
        with open(path, "rb") as file:
            return file.read()

    def content(self, name, data):
        """Writes a file for the `content` of a disk; returns its path."""
        path = os.path.join(self.dir, name)
        with open(path, "wb") as file:
            file.write(data)
        return path

    def new_disk(self, **spec):
        wanted = {"name": "new", "format": "raw", "provisioned_size": str(MIB), "sparse": "true"}
        domains = {"storage_domains": {"storage_domain": [{"name": spec.pop("domain", "data")}]}}
        return self.call("POST", "/disks", {**wanted, **domains, **spec})

    def ready_disk(self, **spec):
        disk = self.new_disk(**spec)[1]
        self.wait_disk(disk["id"], "ok")
        return disk

    def transfer(self, disk_id, **spec):
        body = {
            "disk": {"id": disk_id},
            "direction": "upload",
            "format": "raw",
            "timeout_policy": "pause",
            **spec,
        }
        return self.call("POST", "/imagetransfers", body)

    def act(self, transfer_id, action):
        return self.call("POST", f"/imagetransfers/{transfer_id}/{action}")

    def backup(self, vm, disks, query="", **spec):
        """Starts a backup; returns the status and what is answered."""
        body = {"disks": {"disk": [{"id": disk} for disk in disks]}, **spec}
        return self.call("POST", f"/vms/{vm}/backups{query}", body)

    def wait_backup(self, vm, backup_id, *phases):
        return self._wait(f"/vms/{vm}/backups/{backup_id}", "phase", phases)

    def finalize_backup(self, vm, backup_id):
        return self.call("POST", f"/vms/{vm}/backups/{backup_id}/finalize")

    def backup_transfer(self, backup_id, disk_id, **spec):
        spec = {"backup": {"id": backup_id}, "direction": "download", **spec}
        return self.transfer(disk_id, **spec)

    def end_transfer(self, transfer_id):
        self.act(transfer_id, "finalize")
        self.wait_phase(transfer_id, "finished_success")

    def codes(self, search):
        """Returns the codes of the events that are found, the oldest first."""
        found = self.call("GET", f"/events?search={search}")[1].get("event", [])
        return [int(one["code"]) for one in reversed(found)]

    def wait_phase(self, transfer_id, *phases):
        return self._wait(f"/imagetransfers/{transfer_id}", "phase", phases)

    def wait_disk(self, disk_id, *statuses):
        return self._wait(f"/disks/{disk_id}", "status", statuses)

    def _wait(self, path, name, wanted):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            status, value = self.call("GET", path)
            if (value[name] if status == 200 else status) in wanted:
                return value
            time.sleep(0.02)
        raise AssertionError(f"{path}: {status} {value}, not {wanted}")

    def data(self, transfer, method, body=None, offset=0, length=None):
        """Sends a request to imageio on the transfer's URL."""
        headers = {}
        if method == "PUT":
            headers["Content-Range"] = f"bytes {offset}-{offset + len(body) - 1}/*"
        if method == "GET" and length:
            headers["Range"] = f"bytes={offset}-{offset + length - 1}"
        cafile = os.path.join(_state["imageio"], "ca.pem")
        status, content, _ = request(transfer["transfer_url"], method, body, headers, cafile)
        return status, content

    def extents(self, transfer, context="zero"):
        """Returns the extents that imageio reports, or the status if it is not 200."""
        url = f"{transfer['transfer_url']}/extents?context={context}"
        cafile = os.path.join(_state["imageio"], "ca.pem")
        status, content, _ = request(url, "GET", cafile=cafile)
        return json.loads(content) if status == 200 else status


class EngineTest(unittest.TestCase):
    """A test with a stand-in; `options` are its command line."""

    options = ()

    def setUp(self):
        self.engine = Engine(*self.options)
        self.addCleanup(self.engine.stop)

    def ok(self, result, status=200):
        self.assertEqual(result[0], status, result[1])
        return result[1]

    def raw_bytes(self, disk_id):
        disk = self.engine.state("disks", disk_id)
        target = disk["path"] + ".raw"
        kind = {"raw": "raw", "cow": "qcow2"}[disk["format"]]
        subprocess.run(["qemu-img", "convert", "-f", kind, "-O", "raw", disk["path"], target], check=True)
        with open(target, "rb") as file:
            return file.read()
