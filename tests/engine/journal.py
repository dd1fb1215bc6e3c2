"""The log: one JSON object per line, each with `time` (epoch seconds) and `kind`.

    request   method, path, query, status, user, correlation_id, version (the header), body,
              error (the fault's detail, or the switch), cut (before or after: no answer was sent);
              status 0: it was not performed
    phase     transfer, disk, phase, previous
    disk_*    created, existing, changed, status, removed, creation_failed: disk, name, status, ...
    ticket_*  added, extended, removed, not_extended, not_removed, lost: transfer, reason
    transfer_created, transfer_gone, session_failed, inactive, verification_failed, lock_released:
              transfer, ...
    vm_*      existing, created, changed; disk_attached, disk_detached; snapshot_made, snapshot_removed:
              vm, snapshot, ...
    guest_wrote: disk, name, writes
    backup_*  created, phase, gone, not_started: backup, phase, previous, modes, ...; redefinition_failed
    checkpoint_created, checkpoint_removed: vm, checkpoint; event: code, vm, description
    session_opened, session_closed, sessions_expired; switch, switches_cleared; connection_failed; error;
    stopped

Absent and null values have no key.

A line is written before its answer is sent, so a client that has the answer finds the line. The log never
contains a password, a token or a ticket id.
"""

import json
import threading
import time
import urllib.parse

SECRET_FIELDS = ("password", "token", "access_token")


class Journal:
    def __init__(self, path):
        self.path = path
        self._file = open(path, "a", encoding="utf-8")
        self._lock = threading.Lock()

    def event(self, kind, **fields):
        known = {name: value for name, value in fields.items() if value is not None}
        line = json.dumps({"time": round(time.time(), 4), "kind": kind, **known})
        with self._lock:
            if not self._file.closed:
                self._file.write(line + "\n")
                self._file.flush()

    def close(self):
        with self._lock:
            self._file.close()


def loggable(body, content_type):
    """Returns a request's body without its secrets, for the log."""
    if not body:
        return None
    text = body.decode("utf-8", "replace")
    if content_type.startswith("application/x-www-form-urlencoded"):
        return {
            name: "***" if name in SECRET_FIELDS else value
            for name, value in urllib.parse.parse_qsl(text, keep_blank_values=True)
        }
    try:
        return json.loads(text)
    except ValueError:
        return text[:1000]
