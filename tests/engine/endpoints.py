"""Loopback addresses for URLs: those that do not answer, and a server that answers like an old one.

dead    bound but not listening: a connection is refused at once
silent  listening with a full queue that is never emptied: a connection attempt gets no answer
"""

import os
import socket
import threading
import urllib.parse

from relay import Relay


class Endpoints:
    def __init__(self, daemon):
        self._daemon = daemon
        self._relay = None
        self._lock = threading.Lock()
        self._dead = socket.socket()
        self._dead.bind(("127.0.0.1", 0))
        self._silent = socket.socket()
        self._silent.bind(("127.0.0.1", 0))
        self._silent.listen(0)
        self._queue = []
        for _ in range(3):
            waiting = socket.socket()
            waiting.setblocking(False)
            waiting.connect_ex(self._silent.getsockname())
            self._queue.append(waiting)

    def address(self, name):
        """Returns HOST:PORT of `dead` or `silent`; any other name is already an address."""
        known = {"dead": self._dead, "silent": self._silent}.get(name)
        return "{}:{}".format(*known.getsockname()) if known else name

    def replace_host(self, url, name):
        return urllib.parse.urlsplit(url)._replace(netloc=self.address(name)).geturl()

    def old_imageio(self):
        """Returns HOST:PORT of the relay, which is started when it is first wanted."""
        with self._lock:
            if self._relay is None:
                names = ("server.pem", "server.key")
                files = (os.path.join(self._daemon.directory, name) for name in names)
                self._relay = Relay(*files, self._daemon)
            return self._relay.address

    def close(self):
        if self._relay:
            self._relay.stop()
        for one in (self._dead, self._silent, *self._queue):
            one.close()
