"""The HTTPS server on loopback, with a thread per connection, and the faults between a request and its
answer.

The TLS handshake runs in the connection's thread, so that a client that does not finish it delays no other.
"""

import http.server
import json
import ssl
import time
import traceback
import urllib.parse

from api import PREFIX, Request
from journal import loggable
from wire import Answer

IDLE_SECONDS = 60
MAX_BODY = 1 << 20
HTML = "text/html;charset=UTF-8"
PAGE = b"<html><head><title>Error</title></head><body><h1>Internal Server Error</h1></body></html>"


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 40

    def __init__(self, port, cert, key, world, api):
        super().__init__(("127.0.0.1", port), Handler)
        self.world = world
        self.api = api
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(cert, key)

    def finish_request(self, request, client_address):
        try:
            request.settimeout(IDLE_SECONDS)
            with self._tls.wrap_socket(request, server_side=True) as connection:
                super().finish_request(connection, client_address)
        except OSError as error:
            self.world.journal.event("connection_failed", reason=str(error))


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self):
        request = self._read()
        if request is None:
            return
        if self._take(request, "cut_before"):
            self._cut(request, "before", Answer(0))
            return
        answer = self._failed(request) or self._performed(request)
        if self._take(request, "cut_after"):
            self._cut(request, "after", answer)
            return
        self._log(request, answer)
        time.sleep(self._take(request, "answer_slow") or 0)
        self._send(answer)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS = handle_any

    def log_message(self, *args):
        """Logs nothing: the journal already has every request."""

    def _read(self):
        try:
            length = int(self.headers.get("Content-Length", 0))
        except ValueError:
            length = -1
        if not 0 <= length <= MAX_BODY:
            self.send_error(413)
            self.close_connection = True
            return None
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        return Request(self.command, url.path, query, self.headers, self.rfile.read(length))

    def _performed(self, request):
        try:
            return self.server.api.answer(request)
        except Exception:
            self.server.world.journal.event("error", traceback=traceback.format_exc())
            return Answer(500, PAGE, HTML, error="the stand-in itself failed")

    def _take(self, request, name):
        """Takes a switch. One without `match` applies to the API, not to the login."""
        outside = not request.path.startswith(PREFIX)
        return self.server.world.switches.take(name, f"{self.command} {self.path}", only_matched=outside)

    def _failed(self, request):
        """Returns the answer of a fault that strikes before the request is handled, or None."""
        time.sleep(self._take(request, "slow") or 0)
        if status := self._take(request, "unavailable"):
            page = b"<html><body>Service Unavailable</body></html>"
            return Answer(status, page, HTML, {"Retry-After": "1"}, error="by a switch")
        if status := self._take(request, "html_error"):
            return Answer(status, PAGE, HTML, error="by a switch")
        if front_end := self._take(request, "front_end"):
            body = front_end.get("body", "").encode()
            return Answer(front_end["status"], body, front_end.get("type", HTML), error="by a switch")
        if self._take(request, "garbage"):
            return Answer(200, b'{"id": "42", "phase": [[[', error="garbage, by a switch")
        if size := self._take(request, "huge"):
            return Answer(200, padding=size, error="huge, by a switch")
        if target := self._take(request, "redirect"):
            return Answer(302, headers={"Location": target + self.path}, error="redirect, by a switch")
        if fault := self._take(request, "fault"):
            body = json.dumps({"detail": fault["detail"], "reason": "Operation Failed"}).encode()
            return Answer(fault["status"], body, error=fault["detail"])
        return None

    def _cut(self, request, when, answer):
        self._log(request, answer, cut=when)
        self.close_connection = True

    def _send(self, answer):
        self.send_response(answer.status)
        if answer.body or answer.padding:
            self.send_header("Content-Type", answer.content_type)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(answer.padding or len(answer.body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if answer.padding:
            self._pour(answer.padding)
        else:
            self.wfile.write(answer.body)

    def _pour(self, size):
        """Sends a JSON document of `size` bytes."""
        head, tail, chunk = b'{"id":"', b'"}', b"a" * 65536
        self.wfile.write(head)
        left = size - len(head) - len(tail)
        while left > 0:
            self.wfile.write(chunk[:left])
            left -= len(chunk)
        self.wfile.write(tail)

    def _log(self, request, answer, cut=None):
        self.server.world.journal.event(
            "request",
            method=request.method,
            path=request.path,
            query=request.query or None,
            status=answer.status,
            user=request.user,
            correlation_id=request.correlation_id,
            version=request.headers.get("Version"),
            body=loggable(request.body, request.headers.get("Content-Type", "")),
            error=answer.error,
            cut=cut,
        )
