"""OVF of VMs and of their snapshots, and VMs made from it."""

import unittest
import xml.etree.ElementTree as etree

from rig import EngineTest

OVF = "{http://schemas.dmtf.org/ovf/envelope/1/}"


class Configurations(EngineTest):
    def setUp(self):
        super().setUp()
        self.root = self.engine.old_disk(name="root", format="cow", backup="incremental")["id"]
        self.data = self.engine.old_disk(name="data")["id"]
        mine = [{"disk": self.root, "bootable": True}, {"disk": self.data, "interface": "virtio"}]
        self.vm = self.engine.vm(description="a & b", attachments=mine)

    def configuration(self, path, **headers):
        shown = self.ok(self.engine.call("GET", path, **headers))
        return shown["initialization"]["configuration"]

    def disks(self, text):
        return [
            {name.removeprefix(OVF): value for name, value in one.attrib.items()}
            for one in etree.fromstring(text).iter("Disk")
        ]

    def test_of_a_vm_is_shown_on_request(self):
        self.assertNotIn("initialization", self.ok(self.engine.call("GET", f"/vms/{self.vm}")))
        by_query = self.configuration(f"/vms/{self.vm}?all_content=true")
        self.assertEqual(by_query, self.configuration(f"/vms/{self.vm}", All_Content="true"))
        self.assertEqual(by_query["type"], "ovf")
        root, data = self.disks(by_query["data"])
        volume = self.engine.state("disks", self.root)["image_id"]
        self.assertEqual((root["diskId"], root["fileRef"]), (volume, f"{self.root}/{volume}"))
        self.assertEqual((root["size"], root["volume-format"], root["boot"]), ("1", "COW", "true"))
        self.assertEqual((root["incremental-backup"], data["disk-interface"]), ("true", "VirtIO"))
        domains = [one.text for one in etree.fromstring(by_query["data"]).iter() if "StorageId" in one.tag]
        self.assertEqual(len(domains), 2)
        ova = self.configuration(f"/vms/{self.vm}?all_content=true&ovf_as_ova=true")
        self.assertEqual(ova["type"], "ovf")
        root = self.disks(ova["data"])[0]
        self.assertEqual((root["diskId"], root["fileRef"]), (self.root, volume))

    def test_of_a_snapshot_is_that_of_its_moment(self):
        volume = self.engine.state("disks", self.root)["image_id"]
        made = self.ok(self.engine.control("POST", f"/vms/{self.vm}/snapshots", {"description": "d"}))["id"]
        self.ok(self.engine.control("POST", f"/vms/{self.vm}", {"name": "renamed"}))
        text = self.configuration(f"/vms/{self.vm}/snapshots/{made}")["data"]
        self.assertEqual(etree.fromstring(text).findtext("Content/Name"), "web")
        self.assertEqual(self.disks(text)[0]["fileRef"], f"{self.root}/{volume}")
        now = self.configuration(f"/vms/{self.vm}?all_content=true")["data"]
        self.assertEqual(self.disks(now)[0]["parentRef"], f"{self.root}/{volume}")

    def post(self, data, kind="ovf", **spec):
        initialization = {"configuration": {"type": kind, "data": data}, **spec.pop("initialization", {})}
        body = {"cluster": {"name": "Default"}, "initialization": initialization, **spec}
        return self.engine.call("POST", "/vms", body)

    def attached(self, vm):
        return self.ok(self.engine.call("GET", f"/vms/{vm}/diskattachments")).get("disk_attachment", [])

    def test_is_imported_with_its_disks_and_only_if_its_id_is_free(self):
        text = self.configuration(f"/vms/{self.vm}?all_content=true")["data"]
        self.assertIn("already exists", self.ok(self.post(text, name="other"), 409)["detail"])
        self.ok(self.post(text), 409)
        self.ok(self.engine.call("DELETE", f"/vms/{self.vm}?detach_only=true"))
        self.assertEqual(self.engine.call("GET", f"/vms/{self.vm}"), (404, None))
        self.assertEqual(self.ok(self.post(text), 201)["id"], self.vm)
        facts = [(one["id"], one["bootable"], one["interface"]) for one in self.attached(self.vm)]
        self.assertEqual(facts, [(self.root, "true", "virtio_scsi"), (self.data, "false", "virtio")])
        shown = self.ok(self.engine.call("GET", f"/vms/{self.vm}"))
        self.assertEqual((shown["name"], shown["description"], shown["status"]), ("web", "a & b", "down"))
        self.ok(self.engine.call("DELETE", f"/vms/{self.vm}"))
        self.engine.wait_disk(self.root, 404)

    def test_with_new_ids_lacks_the_disks_that_another_vm_has(self):
        ova = self.configuration(f"/vms/{self.vm}?all_content=true&ovf_as_ova=true")["data"]
        copies = {disk: self.engine.old_disk(name="copy")["id"] for disk in (self.root, self.data)}
        text = ova
        for old, new in copies.items():
            text = text.replace(old, new)
        self.engine.switch("attach_fails", match=copies[self.data], times=1)
        for data, name, disks in ((ova, "first", []), (text, "second", [copies[self.root]])):
            spec = {"name": name, "initialization": {"regenerate_ids": "true"}}
            made = self.ok(self.post(data, "ova", **spec), 201)["id"]
            self.assertNotEqual(made, self.vm)
            self.assertEqual([one["id"] for one in self.attached(made)], disks)
            self.assertEqual(len(self.engine.codes(name)), 1)
        late = {"id": copies[self.data], "interface": "virtio", "bootable": "false"}
        self.ok(self.engine.call("POST", f"/vms/{made}/diskattachments", late), 201)

    def test_that_is_wrong_is_refused(self):
        cluster = {"cluster": {"name": "Default"}}
        for status, body in (
            (400, {"name": "n", "template": {"name": "Blank"}}),
            (400, {"name": "n", **cluster}),
            (400, {**cluster, "initialization": {"configuration": {"type": "ovf", "data": "<no"}}}),
            (400, {**cluster, "initialization": {"configuration": {"type": "ovf", "data": "<a/>"}}}),
            (400, {**cluster, "initialization": {"configuration": {"type": "x", "data": "<a/>"}}}),
            (201, {"name": "n", "template": {"name": "Blank"}, **cluster}),
            (409, {"name": "n", "template": {"name": "Blank"}, **cluster}),
        ):
            self.ok(self.engine.call("POST", "/vms", body), status)


if __name__ == "__main__":
    unittest.main()
