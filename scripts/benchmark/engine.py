"""The other side: a real ovirt-imageio daemon, the stand-in for the engine, and what they know."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter

from measure import Failed, run
from storage import SCRIPTS, TOP

ENDED = ("finished_success", "finished_failure")


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Site:
    def __init__(self, place):
        self.place, self.imageio, self.engine, self.ready = place, place / "imageio", None, {}

    def start(self, finalize_seconds=1):
        """Starts both. A real engine takes longer than a second to finalize: its poll of a transfer slows
        down to 10 s.
        """
        run([SCRIPTS / "imageio", "start", self.imageio, "--tls"])
        words = [sys.executable, "-B", TOP / "tests/engine/main.py", "--imageio", self.imageio]
        words += ["--dir", self.place / "engine", "--domain", "data=nfs", "--keep-success", "7200"]
        words += ["--switch", json.dumps({"switch": "finalize_slow", "value": finalize_seconds})]
        with (self.place / "engine.err").open("wb") as errors:
            self.engine = subprocess.Popen(
                [str(word) for word in words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        line = self.engine.stdout.readline()
        if not line:
            raise Failed(f"the engine does not start: {(self.place / 'engine.err').read_text()[-800:]}")
        self.ready = json.loads(line)
        # rhv-mount finds the login as ovirt-img does.
        config = self.place / "config/ovirt-img.conf"
        config.parent.mkdir()
        config.touch(mode=0o600)
        config.write_text(
            f"[prod]\nengine_url = {self.ready['url']}\nusername = admin@internal\npassword = secret\n"
            f"cafile = {self.ready['cafile']}\nstorage_domain = data\n"
        )

    def state(self):
        return self.control("GET", "/state")

    def control(self, method, path, order=None):
        """Asks the stand-in's control socket (tests/engine/control.py); returns its answer."""
        connection = UnixConnection(self.ready["control"])
        connection.request(method, path, json.dumps(order) if order is not None else None)
        answer = connection.getresponse()
        value = json.loads(answer.read())
        connection.close()
        if answer.status != 200:
            raise Failed(f"{method} {path}: {value}")
        return value

    def events(self):
        with open(self.ready["log"], encoding="utf-8") as log:
            return [json.loads(line) for line in log]

    def open_transfers(self):
        return [one for one in self.state()["transfers"] if one["phase"] not in ENDED]

    def most_at_a_time(self, which=None):
        """The most transfers that were open at once; of those in `which`, where that is given."""
        now = most = 0
        for event in self.events():
            if which is not None and event.get("transfer") not in which:
                continue
            if event["kind"] == "transfer_created":
                now += 1
                most = max(most, now)
            elif event["kind"] == "phase" and event["phase"] in ENDED:
                now -= 1
        return most

    def transfers(self):
        """How often each disk was transferred, by its id."""
        events = (event for event in self.events() if event["kind"] == "transfer_created")
        return Counter(event["disk"] for event in events)

    def restart_imageio(self):
        """Kills the daemon, which forgets its tickets, and starts it again, as its host would."""
        os.kill(int((self.imageio / "pid").read_text()), signal.SIGKILL)
        run([SCRIPTS / "imageio", "restart", self.imageio])

    def stop(self):
        if self.engine:
            self.engine.terminate()
            try:
                self.engine.wait(20)
            except subprocess.TimeoutExpired:
                self.engine.kill()
                self.engine.wait(20)
        run([SCRIPTS / "imageio", "stop", self.imageio])
