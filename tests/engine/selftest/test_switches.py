"""Each fault switch does what the table in main.py says."""

import http.client
import json
import os
import socket
import ssl
import time
import unittest
import urllib.parse

from rig import API, MIB, Engine, EngineTest


class Requests(EngineTest):
    def setUp(self):
        super().setUp()
        self.engine.login()

    def get(self, path=""):
        headers = {"Accept": "application/json", "Authorization": f"Bearer {self.engine.token}"}
        return self.engine.raw("GET", API + path, **headers)

    def test_slow(self):
        self.engine.switch("slow", value=0.4, times=1)
        start = time.monotonic()
        self.get()
        self.assertGreaterEqual(time.monotonic() - start, 0.4)
        self.assertEqual(self.engine.control("GET", "/state")[1]["switches"], {"slow": []})

    def test_cut_before_and_after(self):
        for name, count in (("cut_before", 0), ("cut_after", 1)):
            self.engine.switch(name, times=1, match="POST .*/disks")
            with self.assertRaises((http.client.RemoteDisconnected, ssl.SSLError)):
                self.engine.new_disk(name=name)
            self.assertEqual(
                len(self.engine.call("GET", f"/disks?search=name%3D{name}")[1].get("disk", [])), count
            )
        self.assertEqual(
            [one["cut"] for one in self.engine.log("request") if "cut" in one], ["before", "after"]
        )

    def test_wrong_answers(self):
        self.engine.switch("unavailable", times=2)
        self.assertEqual([self.get()[0] for _ in range(3)], [503, 503, 200])
        self.engine.switch("html_error", times=1)
        status, content, headers = self.get()
        self.assertEqual((status, headers["Content-Type"][:9]), (500, "text/html"))
        self.engine.switch("garbage", times=1)
        with self.assertRaises(ValueError):
            json.loads(self.get()[1])
        self.engine.switch("huge", value=3 * MIB, times=1)
        content = self.get()[1]
        self.assertEqual((len(content), json.loads(content).keys()), (3 * MIB, {"id"}))
        self.engine.switch("redirect", value="https://127.0.0.1:2", times=1)
        status, _, headers = self.get("/disks?max=1")
        self.assertEqual((status, headers["Location"]), (302, f"https://127.0.0.1:2{API}/disks?max=1"))
        self.engine.switch("fault", value={"status": 403, "detail": "[no]"}, times=1)
        self.assertEqual(json.loads(self.get()[1])["detail"], "[no]")
        self.assertEqual(self.get()[0], 200)

    def test_limits(self):
        self.engine.switch("unavailable", times=1, after=1, match="disks")
        self.assertEqual([self.get("/disks")[0] for _ in range(3)], [200, 503, 200])
        self.engine.switch("unavailable", value=502)
        self.assertEqual(self.engine.login()[0], 200)
        self.assertEqual(self.get()[0], 502)
        self.engine.switch("unavailable", value=None)
        self.assertEqual(self.get()[0], 200)
        self.engine.switch("html_error", match="sso")
        self.assertEqual(self.engine.raw("POST", "/ovirt-engine/sso/oauth/token")[0], 500)
        self.engine.control("DELETE", "/switches")
        self.assertEqual(self.engine.login()[0], 200)
        self.assertEqual(self.engine.control("POST", "/switches", {"switch": "no_such"})[0], 400)

    def test_login_refused(self):
        self.engine.switch("login_refused", times=1)
        self.assertEqual(self.engine.login()[1]["error_code"], "access_denied")
        self.engine.switch("login_refused", value="server_error", times=1, match="^admin")
        self.assertEqual(self.engine.login()[1]["error_code"], "server_error")
        self.assertEqual(self.engine.login()[0], 200)


class DisksAndStarts(EngineTest):
    def test_disks(self):
        self.engine.switch("disk_illegal", times=1)
        self.engine.wait_disk(self.engine.new_disk()[1]["id"], "illegal")
        self.engine.switch("disk_slow", value=6, times=1)
        disk = self.engine.new_disk()[1]["id"]
        time.sleep(0.3)
        self.assertEqual(self.engine.call("GET", f"/disks/{disk}")[1]["status"], "locked")
        self.assertIn("are locked", self.engine.transfer(disk)[1]["detail"])
        self.engine.wait_disk(disk, "ok")

    def test_a_transfer_is_refused(self):
        disk = self.engine.old_disk()["id"]
        self.engine.switch("transfer_locked", times=2)
        self.ok(self.engine.transfer(disk), 409)
        self.ok(self.engine.transfer(disk), 409)
        self.engine.switch("transfer_fault", times=1)
        self.ok(self.engine.transfer(disk), 400)
        self.engine.wait_disk(disk, "ok")
        self.engine.switch("transfer_fault", value="failed", times=1)
        self.ok(self.engine.transfer(disk), 400)
        self.engine.wait_disk(disk, 404)

    def test_a_transfer_is_not_listed_at_once(self):
        transfer = self.engine.transfer(self.engine.old_disk()["id"])[1]["id"]
        # A list without a member has no key.
        members = lambda: self.engine.call("GET", "/imagetransfers")[1].get("image_transfer", [])
        listed = lambda: [one["id"] for one in members()]
        self.engine.switch("transfer_unlisted", times=1, match=transfer)
        self.assertNotIn(transfer, listed())
        self.assertIn(transfer, listed())

    def test_initializing(self):
        self.engine.switch("stay_initializing", value=2, times=1)
        transfer = self.engine.transfer(self.engine.old_disk()["id"])[1]
        self.assertEqual((transfer["phase"], transfer.get("transfer_url")), ("initializing", None))
        self.assertIn("transfer_url", self.engine.wait_phase(transfer["id"], "transferring"))
        self.engine.switch("stay_initializing", times=1)
        disk = self.engine.old_disk()["id"]
        transfer = self.engine.transfer(disk)[1]["id"]
        time.sleep(0.3)
        self.assertEqual(self.engine.phases(transfer), [])
        self.engine.act(transfer, "cancel")
        self.engine.wait_phase(transfer, "finished_failure")

    def test_paused_before_data(self):
        self.engine.switch("paused_before_data", times=1)
        disk = self.engine.old_disk()["id"]
        transfer = self.engine.transfer(disk)[1]
        self.assertEqual((transfer["phase"], transfer.get("transfer_url")), ("paused_system", None))
        self.ok(self.engine.act(transfer["id"], "resume"))
        self.engine.wait_phase(transfer["id"], "paused_system")
        self.engine.act(transfer["id"], "finalize")
        self.engine.wait_phase(transfer["id"], "finished_success")
        self.engine.wait_disk(disk, "ok")

    def test_phases_and_urls_that_are_shown(self):
        self.engine.switch("unknown_phase", times=2)
        self.engine.switch("url_missing", times=1)
        self.engine.switch("url_missing", value="both", times=1)
        disk = self.engine.old_disk()["id"]
        transfer = self.engine.transfer(disk)[1]
        self.assertEqual(transfer["phase"], "warming_up")
        self.assertEqual(transfer.keys() & {"transfer_url", "proxy_url"}, {"proxy_url"})
        path = f"/imagetransfers/{transfer['id']}"
        second, third = self.engine.call("GET", path)[1], self.engine.call("GET", path)[1]
        self.assertEqual((second["phase"], third["phase"]), ("warming_up", "transferring"))
        self.assertEqual(second.keys() & {"transfer_url", "proxy_url"}, set())
        for name, error in (("dead", ConnectionRefusedError), ("silent", TimeoutError)):
            self.engine.switch("url_host", value=name, times=1)
            shown = self.engine.call("GET", path)[1]
            self.assertNotEqual(shown["transfer_url"], shown["proxy_url"])
            address = urllib.parse.urlsplit(shown["transfer_url"])
            with self.assertRaises(error):
                socket.create_connection((address.hostname, address.port), timeout=1)


class Runs(EngineTest):
    def test_resume_fails(self):
        transfer = self.engine.transfer(self.engine.old_disk()["id"])[1]["id"]
        self.engine.switch("pause_now")
        self.engine.switch("resume_fails", times=1)
        self.engine.act(transfer, "resume")
        self.engine.wait_phase(transfer, "paused_system")
        self.assertEqual(self.engine.phases(transfer)[1:], ["paused_system", "resuming", "paused_system"])
        self.engine.act(transfer, "resume")
        self.engine.wait_phase(transfer, "transferring")

    def test_cancel_now(self):
        disk = self.engine.old_disk()["id"]
        transfer = self.engine.transfer(disk)[1]["id"]
        self.assertEqual(self.engine.switch("cancel_now", value="other"), {"met": 0})
        self.assertEqual(self.engine.switch("cancel_now"), {"met": 1})
        self.engine.wait_phase(transfer, "finished_failure")
        phases = ["cancelled_system", "finalizing_failure", "finished_failure"]
        self.assertEqual(self.engine.phases(transfer)[1:], phases)
        self.engine.wait_disk(disk, 404)

    def test_finalize_slow(self):
        transfer = self.finalized("finalize_slow", 6)[1]
        time.sleep(0.3)
        self.assertEqual(
            self.engine.call("GET", f"/imagetransfers/{transfer}")[1]["phase"], "finalizing_success"
        )
        self.engine.wait_phase(transfer, "finished_success")

    def test_finalize_pause(self):
        disk, transfer = self.finalized("finalize_pause")
        self.engine.wait_phase(transfer, "paused_system")
        self.engine.wait_disk(disk, "illegal")
        self.assertTrue(os.path.exists(self.engine.state("disks", disk)["path"]))

    def test_finalize_failure(self):
        disk, transfer = self.finalized("finalize_failure")
        self.engine.wait_phase(transfer, "finished_failure")
        self.assertIn("finalizing_failure", self.engine.phases(transfer))
        self.engine.wait_disk(disk, 404)

    def test_finalize_vanish(self):
        for outcome, seen in (("ok", "ok"), ("illegal", "illegal"), ("removed", 404)):
            disk, transfer = self.finalized("finalize_vanish", outcome)
            self.engine.wait_phase(transfer, 404)
            self.engine.wait_disk(disk, seen)

    def test_finalize_without_an_answer(self):
        disk = self.engine.old_disk()["id"]
        transfer = self.engine.transfer(disk)[1]["id"]
        self.engine.switch("cut_after", times=1, match="finalize")
        with self.assertRaises((http.client.RemoteDisconnected, ssl.SSLError)):
            self.engine.act(transfer, "finalize")
        self.engine.wait_phase(transfer, "finished_success")

    def finalized(self, name, value=True):
        disk = self.engine.old_disk()["id"]
        transfer = self.engine.transfer(disk)[1]["id"]
        self.engine.switch(name, value=value, times=1)
        self.engine.act(transfer, "finalize")
        return disk, transfer


class AtTheStart(unittest.TestCase):
    def test_switches_disks_users_and_domains_can_be_options(self):
        engine = Engine(
            "--switch",
            json.dumps({"switch": "login_refused", "times": 1}),
            "--disk",
            json.dumps({"name": "a", "size": MIB, "domain": "x", "format": "cow", "vm": "v", "vm_up": False}),
            "--domain",
            "x=fcp,maintenance",
        )
        try:
            self.assertEqual(engine.login()[0], 400)
            disk = engine.call("GET", "/disks?search=name%3Da")[1]["disk"][0]
            domain = engine.call(
                "GET", f"/storagedomains/{disk['storage_domains']['storage_domain'][0]['id']}"
            )[1]
            self.assertEqual((domain["storage"]["type"], "status" in domain), ("fcp", False))
            center = domain["data_centers"]["data_center"][0]["id"]
            attached = engine.call("GET", f"/datacenters/{center}/storagedomains")[1]["storage_domain"]
            self.assertEqual(attached[0]["status"], "maintenance")
            engine.control("POST", f"/disks/{disk['id']}", {"status": "illegal"})
            self.assertEqual(engine.call("GET", f"/disks/{disk['id']}")[1]["status"], "illegal")
        finally:
            engine.stop()


if __name__ == "__main__":
    unittest.main()
