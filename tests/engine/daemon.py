"""Tickets on a real ovirt-imageio daemon, over its control socket.

scripts/imageio fills the daemon's directory: `control.sock`, and `url`, which is read anew for each ticket
because a restarted daemon may listen on another port.
"""

import http.client
import json
import os
import socket


class DaemonError(Exception):
    pass


class TicketBusy(DaemonError):
    """Requests still run on the ticket, and the daemon's wait for them has timed out."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=90)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Daemon:
    def __init__(self, directory):
        self.directory = directory

    def url(self):
        with open(os.path.join(self.directory, "url"), encoding="ascii") as file:
            return file.read().strip()

    def add(self, ticket):
        self._request("PUT", ticket["uuid"], ticket)

    def show(self, ticket_id):
        return json.loads(self._request("GET", ticket_id))

    def extend(self, ticket_id, timeout):
        self._request("PATCH", ticket_id, {"timeout": timeout})

    def remove(self, ticket_id):
        self._request("DELETE", ticket_id)

    def _request(self, method, ticket_id, value=None):
        body = None if value is None else json.dumps(value)
        connection = _Connection(os.path.join(self.directory, "control.sock"))
        try:
            connection.request(method, f"/tickets/{ticket_id}", body=body)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise DaemonError(f"{method} ticket: {error}") from error
        finally:
            connection.close()
        if response.status == 409:
            raise TicketBusy(f"{method} ticket: still in use")
        if response.status >= 300:
            raise DaemonError(f"{method} ticket: the daemon answers {response.status}")
        return content
