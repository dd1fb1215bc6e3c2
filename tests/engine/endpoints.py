"""Loopback addresses that do not answer, for URLs that must not work.

dead    bound but not listening: a connection is refused at once
silent  listening with a full queue that is never emptied: a connection attempt gets no answer
"""

import socket
import urllib.parse


class Endpoints:
    def __init__(self):
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

    def close(self):
        for one in (self._dead, self._silent, *self._queue):
            one.close()
