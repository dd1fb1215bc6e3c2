"""The control socket: plain HTTP with JSON on a unix socket, for tests.

    GET    /state       {"disks": [...], "vms": [...], "snapshots": [...], "backups": [...],
                        "checkpoints": [...], "events": [...], "transfers": [...], "sessions": [...],
                        "jobs": [...], "switches": {...}, "secrets": [...]}
    POST   /switches    {"switch": NAME, "value": V, "times": N, "after": N, "match": RE}; only NAME is needed
    DELETE /switches    clears all of them
    POST   /disks       adds an existing disk, and answers with it as in /state
    POST   /disks/ID    changes `status`, `name`, `vm`, `vm_up`, `shareable` or `wipe_after_delete` of a disk
    POST   /disks/ID/guest      writes as the disk's guest does: a list of writes (see guest)
    POST   /disks/ID/copy       copies what the guest reads now into the raw file {"to": PATH}
    POST   /vms         adds VMs, a list of {"name": N, "id": ID, "status": "down", "level": "4.6",
                        "description": D, "is_engine": false, "attachments": [...]}; only `name` is needed.
                        An attachment is {"disk": ID, "active": true, "bootable": false, "interface":
                        "virtio_scsi", "read_only": false, ...}; several VMs may have a `shareable` disk. A
                        VM that a disk names is there without
    POST   /vms/VM      changes a VM (by id or name); `attachments` then changes those that are there
    POST   /vms/VM/snapshots    makes a snapshot {"description": D} at once, and answers with its id
    DELETE /vms/VM/snapshots/S  merges it away at once
    POST   /vms/VM/checkpoints/C    changes its `state`, and its `bitmap` ("removed" or "disabled") in
                        `disk` or in all disks
    DELETE /vms/VM/checkpoints  removes all of a VM, as a restored snapshot does
    POST   /storage     restarts every qemu-nbd that has ended by itself

An act (`pause_now`, ...) is posted like a switch. Its `value` may select one transfer, by the id of the
transfer or of its disk, or by the disk's name. The answer counts the transfers that it acted on: {"met": 1}.

The state holds tokens and tickets, the log does not: tests need them to search for leaks. `secrets` are all
that were ever given out.
"""

import http.server
import json
import os
import re
import socketserver
import threading
import urllib.parse

from daemon import DaemonError
from images import ImageError
from switches import ACTS, ACTS_ON_BACKUPS, UnknownSwitch
from wire import NotFound, Refused


class Control(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path, world):
        self.path = path
        if os.path.exists(path):
            os.unlink(path)
        super().__init__(path, Handler)
        self.world = world
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self):
        self.shutdown()
        self.server_close()
        os.unlink(self.path)

    def state(self):
        world = self.world
        names = (
            "disks",
            "vms",
            "snapshots",
            "backups",
            "checkpoints",
            "events",
            "transfers",
            "jobs",
            "switches",
        )
        parts = {name: getattr(world, name).dump() for name in names}
        return {**parts, "sessions": world.sso.dump(), "secrets": [*world.tickets, *world.sso.tokens()]}

    def switch(self, order):
        order = dict(order)
        name = order.pop("switch")
        if name in ACTS + ACTS_ON_BACKUPS:
            return {"met": getattr(self, f"_{name}")(order.get("value"))}
        self.world.switches.set(name, **order)
        return {}

    def disk(self, found):
        return next(one for one in self.world.disks.dump() if one["id"] == found.id)

    def change_vm(self, call, order):
        method, reference, snapshot = call.groups()
        if method == "POST" and "/snapshots" not in call.string:
            return self.world.vms.change(reference, order)
        vm = self.world.vms.find(urllib.parse.unquote(reference))
        if vm is None:
            raise NotFound
        if method == "POST":
            return {"id": self.world.snapshots.make(vm, order.get("description", "")).id}
        self.world.snapshots.get(vm, snapshot)
        self.world.snapshots.merge(vm, snapshot)
        return {}

    def change_checkpoints(self, call, order):
        vm = self.world.vms.find(urllib.parse.unquote(call[2]))
        if vm is None:
            raise NotFound
        if call[1] == "POST":
            return self.world.checkpoints.change(vm, call[3], order)
        self.world.checkpoints.remove_all(vm)
        return {}

    def act_as_guest(self, disk, act, order):
        if act == "guest":
            self.world.guest.write(disk, order)
        else:
            self.world.guest.copy(disk, order["to"])
        return {}

    def restart_storage(self):
        sessions = [one.session for one in self._transfers(True) if one.session]
        return sum(session.restart_nbd() for session in sessions)

    def _expire_sessions(self, _):
        return self.world.sso.expire_all()

    def _engine_restart(self, _):
        return self.world.backups.engine_restarted()

    def _pause_now(self, which):
        return self._to_phase(which, "paused_system")

    def _cancel_now(self, which):
        return self._to_phase(which, "cancelled_system")

    def _ticket_remove(self, which):
        sessions = [one.session for one in self._transfers(which) if one.session]
        for session in sessions:
            session.remove_ticket()
        return len(sessions)

    def _ticket_expire(self, which):
        transfers = [one for one in self._transfers(which) if one.session]
        for one in transfers:
            one.session.expire()
            one.expires = 0.0
        return len(transfers)

    def _to_phase(self, which, phase):
        return sum(
            self.world.transfers.set_phase(one, phase, "transferring") for one in self._transfers(which)
        )

    def _transfers(self, which):
        return self.world.transfers.matching(None if which is True else which)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            status, value = 200, self._answer(json.loads(body) if body else None)
        except NotFound:
            status, value = 404, {"error": "not found"}
        except Refused as error:
            status, value = 400, {"error": error.detail}
        except (UnknownSwitch, ImageError, DaemonError, KeyError, TypeError, ValueError) as error:
            status, value = 400, {"error": f"{type(error).__name__}: {error}"}
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = handle_any

    def log_message(self, *args):
        """Logs nothing: the control socket is not under test."""

    def _answer(self, order):
        call, control = f"{self.command} {self.path}", self.server
        if call == "GET /state":
            return control.state()
        if call == "POST /switches":
            return control.switch(order)
        if call == "DELETE /switches":
            control.world.switches.clear()
            return {}
        if call == "POST /disks":
            return control.disk(control.world.disks.add_existing(order))
        if call == "POST /vms":
            return [control.world.vms.add(spec) for spec in order]
        if found := re.fullmatch(r"(POST|DELETE) /vms/([^/]+)/checkpoints(?:/([^/]+))?", call):
            return control.change_checkpoints(found, order)
        if found := re.fullmatch(r"(POST|DELETE) /vms/([^/]+)(?:/snapshots(?:/([^/]+))?)?", call):
            return control.change_vm(found, order or {})
        if call == "POST /storage":
            return {"met": control.restart_storage()}
        if found := re.fullmatch(r"POST /disks/([^/]+)/(guest|copy)", call):
            return control.act_as_guest(control.world.disks.get(found[1]), found[2], order)
        if call.startswith("POST /disks/"):
            return control.disk(control.world.disks.change(self.path.rpartition("/")[2], order))
        raise NotFound
