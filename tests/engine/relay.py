"""A server in front of imageio that answers like an old one: its dirty extents have no member `zero`.

The stand-in gives out its address instead of imageio's for a transfer with the switch extents_without_zero.
All other requests pass unchanged, but for the name of imageio's unix socket, by which a client would get
around.
"""

import http.client
import http.server
import json
import ssl
import threading
import urllib.parse

MAX_BODY = 64 << 20


class Relay(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, certificate, key, daemon):
        super().__init__(("127.0.0.1", 0), Handler)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate, key)
        self.daemon = daemon
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def address(self):
        return f"127.0.0.1:{self.server_port}"

    def stop(self):
        self.shutdown()
        self.server_close()

    def finish_request(self, request, client_address):
        try:
            request.settimeout(60)
            with self._tls.wrap_socket(request, server_side=True) as connection:
                super().finish_request(connection, client_address)
        except OSError:
            return

    def connect(self):
        """Connects to imageio; the relay does not check the certificate, which it shares."""
        url = urllib.parse.urlsplit(self.daemon.url())
        if url.scheme == "http":
            return http.client.HTTPConnection(url.hostname, url.port, timeout=60)
        context = ssl._create_unverified_context()
        return http.client.HTTPSConnection(url.hostname, url.port, timeout=60, context=context)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self):
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(min(length, MAX_BODY)) if length else None
        upstream = self.server.connect()
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            upstream.request(self.command, self.path, body, headers)
            response = upstream.getresponse()
            content = self._altered(response.status, response.read())
        finally:
            upstream.close()
        self.send_response_only(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("content-length", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_PATCH = do_OPTIONS = handle_any

    def log_message(self, *args):
        """Logs nothing: imageio logs every request."""

    def _altered(self, status, content):
        is_dirty = "/extents" in self.path and "context=dirty" in self.path
        if status != 200 or not (is_dirty or self.command == "OPTIONS"):
            return content
        value = json.loads(content)
        for one in value if is_dirty else [value]:
            one.pop("zero" if is_dirty else "unix_socket", None)
        return json.dumps(value).encode()
