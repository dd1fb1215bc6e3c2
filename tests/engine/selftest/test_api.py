"""Login, representations, errors, and the rules for new disks."""

import base64
import json
import os
import time
import unittest
import xml.etree.ElementTree as etree

from rig import API, MIB, EngineTest


class Login(EngineTest):
    def test_a_right_password_gives_a_token_that_works(self):
        value = self.ok(self.engine.login())
        self.assertEqual(value["exp"], "9223372036854775807")
        self.assertIn("product_info", self.ok(self.engine.call("GET", "")))
        self.ok(self.engine.login("admin@ovirt@internalsso"))

    def test_errors_are_400_in_the_shape_of_the_scope(self):
        value = self.ok(self.engine.login(password="wrong"), 400)
        self.assertEqual(value["error_code"], "access_denied")
        self.assertIn("Cannot authenticate user", value["error"])
        value = self.ok(self.engine.login(password="wrong", scope="other"), 400)
        self.assertEqual(value["error"], "access_denied")
        self.assertIn("error_description", value)
        self.engine.switch("sso_oauth_shape", times=1)
        self.assertIn("error_description", self.ok(self.engine.login(password="wrong"), 400))
        value = self.ok(
            self.engine.form("/ovirt-engine/sso/oauth/token", grant_type="x", scope="ovirt-app-api"), 400
        )
        self.assertEqual(value["error_code"], "unsupported_grant_type")

    def test_the_accept_header_must_be_exact(self):
        for accept in ("application/json, */*", "*/*", "application/xml"):
            value = self.ok(self.engine.login(accept=accept), 400)
            self.assertEqual(value["error_code"], "invalid_request")

    def test_without_a_session_there_is_html_and_a_challenge(self):
        status, content, headers = self.engine.raw(
            "GET", API, Accept="application/json", Authorization="Bearer x"
        )
        self.assertEqual((status, headers["WWW-Authenticate"]), (401, 'Basic realm="RESTAPI"'))
        self.assertIn(b"<html>", content)

    def test_basic_authentication_works_too(self):
        for word, status in ((b"admin@internal:secret", 200), (b"admin@internal:wrong", 401)):
            credential = base64.b64encode(word).decode()
            headers = {"Accept": "application/json", "Authorization": f"Basic {credential}"}
            self.assertEqual(self.engine.raw("GET", API, **headers)[0], status)

    def test_logout_ends_the_session(self):
        self.engine.login()
        path = "/ovirt-engine/services/sso-logout"
        self.assertEqual(self.engine.form(path, scope="ovirt-app-api", token=self.engine.token), (200, {}))
        self.ok_status(401)

    def test_sessions_can_be_ended_from_outside(self):
        self.engine.login()
        self.assertEqual(self.engine.switch("expire_sessions"), {"met": 1})
        self.ok_status(401)
        self.engine.login()
        self.engine.switch("token_expired", times=1)
        self.ok_status(401)
        self.engine.login()
        self.engine.switch("token_requests", value=2)
        self.ok_status(200)
        self.ok_status(200)
        self.ok_status(401)

    def test_no_secret_is_in_the_log(self):
        self.engine.login()
        disk = self.engine.old_disk()
        transfer = self.ok(self.engine.transfer(disk["id"]), 201)
        with open(self.engine.ready["log"], encoding="utf-8") as file:
            text = file.read()
        for secret in ('"secret"', self.engine.token, transfer["transfer_url"].rpartition("/")[2]):
            self.assertNotIn(secret, text)

    def ok_status(self, status):
        found, _, _ = self.engine.raw(
            "GET", f"{API}/disks", Accept="application/json", Authorization=f"Bearer {self.engine.token}"
        )
        self.assertEqual(found, status)


class IdleSessions(EngineTest):
    options = ("--session-idle", "0.3")

    def test_end(self):
        self.engine.login()
        time.sleep(0.5)
        status, _, _ = self.engine.raw(
            "GET", API, Accept="application/json", Authorization=f"Bearer {self.engine.token}"
        )
        self.assertEqual(status, 401)


class OwnCa(EngineTest):
    options = ("--own-ca", "--hardware-id", "H1")

    def test_the_api_has_another_anchor_and_the_pki_resource_needs_no_login(self):
        path = "/ovirt-engine/services/pki-resource?resource=ca-certificate&format=X509-PEM-CA"
        status, content, headers = self.engine.raw("GET", path)
        self.assertEqual((status, headers["Content-Type"]), (200, "application/x-x509-ca-cert"))
        with open(self.engine.ready["cafile"], "rb") as file:
            self.assertEqual(content, file.read())

    def test_hosts_are_found_by_hardware_id(self):
        query = "/hosts?search=hw_id%3D{}+and+datacenter%3DDefault+and+status%3DUp"
        self.assertEqual(len(self.ok(self.engine.call("GET", query.format("H1")))["host"]), 1)
        self.assertEqual(self.ok(self.engine.call("GET", query.format("H2"))), {})


class Representations(EngineTest):
    def test_numbers_are_strings_lists_are_wrapped_and_empty_lists_are_empty(self):
        self.assertEqual(self.ok(self.engine.call("GET", "/disks")), {})
        disk = self.engine.old_disk()
        shown = self.ok(self.engine.call("GET", "/disks"))["disk"][0]
        self.assertEqual(
            (shown["provisioned_size"], shown["sparse"], shown["id"]), (str(MIB), "true", disk["id"])
        )
        self.assertNotIn(None, shown.values())
        self.assertIsInstance(self.ok(self.engine.call("GET", ""))["time"], int)

    def test_the_same_is_said_in_xml(self):
        domains = "<storage_domains><storage_domain><name>data</name></storage_domain></storage_domains>"
        facts = "<name>a &amp; b</name><format>raw</format><provisioned_size>4096</provisioned_size>"
        kinds = {"Accept": "application/xml", "Content_Type": "application/xml"}
        self.engine.login()
        kinds["Authorization"] = f"Bearer {self.engine.token}"

        def call(method, path, body=None):
            status, content, headers = self.engine.raw(method, f"{API}{path}", body, **kinds)
            self.assertEqual(headers["Content-Type"], "application/xml")
            return status, etree.fromstring(content)

        status, disk = call("POST", "/disks", f"<disk>{facts}{domains}</disk>")
        self.assertEqual((status, disk.tag, disk.findtext("name")), (202, "disk", "a & b"))
        self.engine.wait_disk(disk.get("id"), "ok")
        disks = call("GET", "/disks")[1]
        self.assertEqual((disks.tag, [one.get("id") for one in disks]), ("disks", [disk.get("id")]))
        job = call("GET", "/jobs")[1][0]
        self.assertRegex(job.findtext("start_time"), r"^20\d\d-\d\d-\d\dT[\d:.]+\+00:00$")
        status, fault = call("POST", "/disks", "<disk/>")
        self.assertEqual((status, fault.tag, fault[0].tag), (400, "fault", "detail"))
        self.assertEqual(call("DELETE", f"/disks/{disk.get('id')}")[1].tag, "action")
        self.assertEqual(call("GET", "")[1].tag, "api")

    def test_what_is_missing_is_404_without_a_body(self):
        for path in (
            "/disks/x",
            "/imagetransfers/x",
            "/hosts/x",
            "/datacenters/x",
            "/jobs/x",
            "/storagedomains/x",
            "/vms/x",
            "/vms/x/diskattachments",
            "/vms/x/snapshots",
            "/disks/x/disksnapshots",
        ):
            self.assertEqual(self.engine.call("GET", path), (404, None))

    def test_searches(self):
        for name, case, count in (
            ("data", "true", 1),
            ("nothing", "true", 0),
            ("DATA", "true", 0),
            ("DATA", "false", 1),
        ):
            path = f"/storagedomains?search=name%3D{name}&case_sensitive={case}"
            found = self.ok(self.engine.call("GET", path))
            self.assertEqual(len(found.get("storage_domain", [])), count)
            self.assertFalse([one for one in found.get("storage_domain", []) if "status" in one])
        self.assertIn(
            "data_center", self.ok(self.engine.call("GET", "/datacenters?search=storage.name%3Dsan"))
        )
        self.assertEqual(self.ok(self.engine.call("GET", "/datacenters?search=storage.name%3Dlost")), {})
        self.engine.old_disk()
        self.engine.old_disk()
        self.assertEqual(len(self.ok(self.engine.call("GET", "/disks?search=name%3Dold"))["disk"]), 2)
        for search in ("nonsense", "name%3D%22it's%22"):
            self.ok(self.engine.call("GET", f"/disks?search={search}"), 400)

    def test_a_domain_without_a_data_center_shows_that_it_is_unattached(self):
        found = self.ok(self.engine.call("GET", "/storagedomains"))["storage_domain"]
        statuses = {one["name"]: one.get("status") for one in found}
        self.assertEqual(statuses, {"data": None, "san": None, "lost": "unattached"})
        center = found[0]["data_centers"]["data_center"][0]["id"]
        below = self.ok(self.engine.call("GET", f"/datacenters/{center}/storagedomains"))
        self.assertEqual({one["status"] for one in below["storage_domain"]}, {"active"})

    def test_vms_have_pages_and_disks_have_none(self):
        names = [f"n{number}" for number in range(5)]
        self.ok(self.engine.control("POST", "/vms", [{"name": name} for name in reversed(names)]))
        for name in names:
            self.engine.old_disk(name=name)

        def page(collection, number, search=""):
            query = f"search={search}%20sortby%20name%20asc%20page%20{number}&max=2".replace("=%20", "=")
            found = self.ok(self.engine.call("GET", f"/{collection}s?{query}")).get(collection, [])
            return [one["name"] for one in found]

        pages = [page("vm", number) for number in (1, 2, 3, 4)]
        self.assertEqual(pages, [names[:2], names[2:4], names[4:], []])
        self.assertEqual(page("vm", 1, "name%3Dn4"), ["n4"])
        self.assertEqual([page("disk", number) for number in (1, 2)], [names[:2], []])
        self.assertEqual(len(self.ok(self.engine.call("GET", "/disks?max=2"))["disk"]), 5)

    def test_jobs_are_found_by_correlation_id(self):
        body = {"name": "a", "format": "raw", "provisioned_size": "4096", "sparse": "true"}
        body["storage_domains"] = {"storage_domain": [{"name": "data"}]}
        disk = self.ok(self.engine.call("POST", "/disks", body, Correlation_Id="a b/c-1_"), 202)
        self.engine.wait_disk(disk["id"], "ok")
        job = {"status": "started"}
        while job["status"] == "started":
            job = self.ok(self.engine.call("GET", "/jobs?search=correlation_id%3Dabc-1_"))["job"][0]
        self.assertEqual((job["status"], type(job["start_time"])), ("finished", int))
        self.assertIn("abc-1_", [one.get("correlation_id") for one in self.engine.log("request")])


class Machines(EngineTest):
    def test_a_vm_is_there_as_soon_as_a_disk_names_it(self):
        first = self.engine.old_disk(name="a", vm="web")
        self.engine.old_disk(name="b", vm="web", vm_up=False)
        vm = self.ok(self.engine.call("GET", "/vms"))["vm"][0]
        self.assertEqual((vm["name"], vm["status"]), ("web", "up"))
        self.assertNotIn("disk_attachments", vm)
        self.assertEqual(self.ok(self.engine.call("GET", f"/vms/{vm['id']}")), vm)
        alone = self.ok(self.engine.call("GET", f"/disks/{first['id']}"))
        self.assertEqual(alone["vms"], {"vm": [{"id": vm["id"]}]})
        self.assertNotIn("vms", self.ok(self.engine.call("GET", "/disks"))["disk"][0])

    def test_disks_of_a_vm_are_followed_on_request(self):
        [vm] = self.ok(self.engine.control("POST", "/vms", [{"name": "web", "status": "up"}]))
        disk = self.engine.old_disk(vm=vm["id"])
        path = f"/vms/{vm['id']}/diskattachments"
        plain = self.ok(self.engine.call("GET", path))["disk_attachment"][0]
        reference = {"href": f"{API}/disks/{disk['id']}", "id": disk["id"]}
        self.assertEqual((plain["disk"], plain["bootable"]), (reference, "true"))
        followed = self.ok(self.engine.call("GET", f"{path}?follow=disk"))["disk_attachment"][0]
        self.assertEqual(followed["disk"]["provisioned_size"], str(MIB))
        listed = self.ok(self.engine.call("GET", "/vms?follow=disk_attachments"))["vm"][0]
        self.assertEqual(listed["disk_attachments"]["disk_attachment"], [plain])

    def test_a_snapshot_of_a_vm_has_another_id_than_the_volumes_of_its_disks(self):
        disks = [self.engine.old_disk(name=name, vm="web", snapshots=2) for name in ("a", "b")]
        vm = self.ok(self.engine.call("GET", "/vms"))["vm"][0]["id"]
        snapshots = self.ok(self.engine.call("GET", f"/vms/{vm}/snapshots"))["snapshot"]
        self.assertEqual([one["snapshot_type"] for one in snapshots], ["regular", "regular", "active"])
        self.assertIsInstance(snapshots[0]["date"], int)
        for disk in disks:
            path = f"/disks/{disk['id']}/disksnapshots"
            below = self.ok(self.engine.call("GET", path))["disk_snapshot"]
            volumes = self.ok(self.engine.call("GET", f"{path}?include_active=true"))["disk_snapshot"]
            self.assertEqual(volumes[:2], below)
            ids = [one["id"] for one in volumes]
            self.assertEqual(ids[2], self.engine.state("disks", disk["id"])["image_id"])
            self.assertEqual([one.get("parent", {}).get("id") for one in volumes], [None, *ids[:2]])
            shared = [one["snapshot"]["id"] for one in volumes]
            self.assertEqual(shared, [one["id"] for one in snapshots])
            self.assertFalse(set(ids) & set(shared))
            self.assertNotIn("image_id", volumes[0])
        path = f"/vms/{vm}/snapshots/{snapshots[1]['id']}"
        self.assertEqual(self.ok(self.engine.call("GET", path)), snapshots[1])
        at_that_time = self.ok(self.engine.call("GET", f"{path}/disks"))["disk"]
        self.assertEqual([one["id"] for one in at_that_time], [one["id"] for one in disks])
        self.assertEqual(
            [one["image_id"] for one in at_that_time], [disk["snapshots"][1]["id"] for disk in disks]
        )
        self.assertEqual(self.engine.call("GET", f"/vms/{vm}/snapshots/{ids[0]}"), (404, None))

    def test_a_storage_domain_lists_the_volumes_of_all_its_disks(self):
        one = self.engine.old_disk(name="a", snapshots=1)
        self.engine.old_disk(name="b")
        found = self.ok(self.engine.call("GET", "/storagedomains?search=name%3Ddata"))
        path = f"/storagedomains/{found['storage_domain'][0]['id']}/disksnapshots"
        below = self.ok(self.engine.call("GET", path))["disk_snapshot"]
        self.assertEqual([volume["disk"]["id"] for volume in below], [one["id"]])
        volumes = self.ok(self.engine.call("GET", f"{path}?include_active=true"))["disk_snapshot"]
        self.assertEqual(len(volumes), 3)


class Changes(EngineTest):
    def test_a_raw_disk_becomes_one_that_can_be_backed_up_incrementally(self):
        content = os.urandom(MIB)
        disk = self.engine.old_disk(content=self.engine.content("content", content))["id"]
        body = {"disk": {"format": "cow", "backup": "incremental"}}
        self.ok(self.engine.call("POST", f"/disks/{disk}/convert", body))
        self.engine.wait_disk(disk, "ok")
        shown = self.ok(self.engine.call("GET", f"/disks/{disk}"))
        self.assertEqual((shown["format"], shown["backup"]), ("cow", "incremental"))
        self.assertEqual(self.engine.guest_bytes(disk), content)
        wrong = {"disk": {"format": "raw"}}
        self.ok(self.engine.call("POST", f"/disks/{disk}/convert", wrong), 409)

    def test_a_disk_grows_and_does_not_shrink(self):
        disk = self.engine.old_disk(format="cow")["id"]
        grown = self.ok(self.engine.call("PUT", f"/disks/{disk}", {"provisioned_size": str(2 * MIB)}))
        self.assertEqual(grown["provisioned_size"], str(2 * MIB))
        self.assertEqual(len(self.engine.guest_bytes(disk)), 2 * MIB)
        self.ok(self.engine.call("PUT", f"/disks/{disk}", {"provisioned_size": str(MIB)}), 400)


class NewDisks(EngineTest):
    def test_are_locked_and_then_ok(self):
        disk = self.ok(self.engine.new_disk(id="11111111-2222-3333-4444-555555555555"), 202)
        self.assertEqual((disk["status"], disk["id"][:8]), ("locked", "11111111"))
        self.assertEqual(disk["creation_status"], "in_progress")
        self.engine.wait_disk(disk["id"], "ok")
        self.ok(self.engine.new_disk(id=disk["id"]), 409)
        self.ok(self.engine.call("DELETE", f"/disks/{disk['id']}"))
        self.engine.wait_disk(disk["id"], 404)

    def test_rules(self):
        refused = (
            (409, {"domain": "san"}),
            (409, {"backup": "incremental"}),
            (409, {"format": "cow", "sparse": "false"}),
            (409, {"content_type": "iso"}),
            (409, {"domain": "lost"}),
            (404, {"domain": "nowhere"}),
            (400, {"format": None}),
            (400, {"provisioned_size": None}),
            (400, {"provisioned_size": "many"}),
            (400, {"id": "x"}),
        )
        for status, spec in refused:
            fault = self.ok(self.engine.new_disk(**spec), status)
            self.assertEqual({"detail", "reason"}, fault.keys(), json.dumps(spec))
        fault = self.engine.new_disk(format=None)[1]
        self.assertEqual(fault["reason"], "Incomplete parameters")
        self.assertTrue(self.engine.new_disk(domain="san")[1]["detail"].startswith("["))

    def test_every_kind_that_is_allowed(self):
        kinds = (
            {"sparse": "false"},
            {"format": "cow"},
            {"format": "cow", "backup": "incremental", "sparse": "false"},
            {"domain": "san", "sparse": "false"},
            {"domain": "san", "format": "cow", "initial_size": str(MIB)},
        )
        for spec in kinds:
            self.engine.ready_disk(**spec)


if __name__ == "__main__":
    unittest.main()
