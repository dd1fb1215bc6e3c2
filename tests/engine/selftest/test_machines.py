"""VMs: their status, attachments, snapshots in real layers, and what the guest writes."""

import os
import unittest

from rig import MIB, EngineTest

KIB = 1 << 10
CONTENT = os.urandom(MIB)


class Attachments(EngineTest):
    def setUp(self):
        super().setUp()
        self.shared = self.engine.old_disk(name="shared", shareable=True, vm_up=False)["id"]
        self.lun = self.engine.old_disk(name="lun", is_lun=True)["id"]
        self.plain = self.engine.old_disk(name="plain", format="cow")["id"]
        mine = [
            {"disk": self.shared, "interface": "virtio", "logical_name": "/dev/vdb"},
            {"disk": self.lun},
            {"disk": self.plain, "bootable": True, "read_only": True},
        ]
        self.web = self.engine.vm(attachments=mine)
        self.other = self.engine.vm(name="other", attachments=[{"disk": self.shared, "active": False}])

    def attachments(self, vm):
        found = self.ok(self.engine.call("GET", f"/vms/{vm}/diskattachments?follow=disk"))
        return {one["id"]: one for one in found.get("disk_attachment", [])}

    def test_tell_how_each_vm_has_the_disk(self):
        found = self.attachments(self.web)
        self.assertEqual(found.keys(), {self.shared, self.lun, self.plain})
        facts = [found[self.shared][name] for name in ("interface", "logical_name", "bootable", "active")]
        self.assertEqual(facts, ["virtio", "/dev/vdb", "false", "true"])
        self.assertEqual([found[self.plain][name] for name in ("bootable", "read_only")], ["true", "true"])
        lun = found[self.lun]["disk"]
        self.assertEqual(lun["storage_type"], "lun")
        self.assertNotIn("provisioned_size", lun)
        self.assertEqual(self.attachments(self.other)[self.shared]["active"], "false")
        vms = self.ok(self.engine.call("GET", f"/disks/{self.shared}"))["vms"]["vm"]
        self.assertEqual({one["id"] for one in vms}, {self.web, self.other})
        for disk, status in ((self.lun, 400), (self.plain, 201)):
            self.ok(self.engine.transfer(disk, direction="download"), status)

    def test_of_a_vm_that_is_not_down_refuse_a_transfer_if_they_are_active(self):
        for vm, status, answer in (("web", "up", 409), ("web", "paused", 409), ("web", "down", 201)):
            self.ok(self.engine.control("POST", f"/vms/{vm}", {"status": status}))
            self.ok(self.engine.transfer(self.plain, direction="download"), answer)
        self.ok(self.engine.control("POST", "/vms/other", {"status": "up"}))
        self.ok(self.engine.transfer(self.shared, direction="download"), 201)

    def test_are_made_changed_and_removed(self):
        disk = self.engine.old_disk(name="late", format="cow")["id"]
        path = f"/vms/{self.web}/diskattachments"
        self.ok(self.engine.call("POST", path, {"disk": {"id": disk}}), 400)
        self.ok(self.engine.call("POST", path, {"id": self.plain, "interface": "virtio"}), 409)
        made = self.ok(self.engine.call("POST", path, {"id": disk, "interface": "virtio"}), 201)
        self.assertEqual((made["interface"], made["bootable"]), ("virtio", "false"))
        body = {"active": "false", "disk": {"backup": "incremental"}}
        changed = self.ok(self.engine.call("PUT", f"{path}/{disk}", body))
        self.assertEqual(changed["active"], "false")
        self.assertEqual(self.ok(self.engine.call("GET", f"/disks/{disk}"))["backup"], "incremental")
        self.ok(self.engine.call("PUT", f"/disks/{self.shared}", {"backup": "incremental"}), 400)
        self.ok(self.engine.call("DELETE", f"{path}/{disk}"))
        self.assertNotIn(disk, self.attachments(self.web))

    def test_cluster_and_level_are_shown(self):
        old = self.engine.vm(name="old", level="4.6")
        shown = self.ok(self.engine.call("GET", f"/vms/{old}"))
        self.assertEqual(shown["custom_compatibility_version"], {"major": "4", "minor": "6"})
        cluster = self.ok(self.engine.call("GET", f"/clusters/{shown['cluster']['id']}"))
        self.assertEqual(cluster["version"], {"major": "4", "minor": "7"})


class Layers(EngineTest):
    def setUp(self):
        super().setUp()
        content = self.engine.content("content", CONTENT)
        self.disks = [
            self.engine.old_disk(name=kind, format=kind, content=content)["id"] for kind in ("raw", "cow")
        ]
        attachments = [{"disk": disk} for disk in self.disks]
        self.vm = self.engine.vm(status="up", attachments=attachments)

    def snapshot(self, description):
        made = self.ok(
            self.engine.call("POST", f"/vms/{self.vm}/snapshots", {"description": description}), 202
        )
        self.assertEqual(made["snapshot_status"], "locked")
        return self.engine._wait(f"/vms/{self.vm}/snapshots/{made['id']}", "snapshot_status", ("ok",))["id"]

    def read(self, **reference):
        body = {"direction": "download", "format": "raw", **reference}
        transfer = self.ok(self.engine.call("POST", "/imagetransfers", body), 201)
        # A download that was read whole is finalized by the engine, so the extents come first.
        extents = self.engine.extents(transfer)
        content = self.engine.data(transfer, "GET")[1]
        self.engine.act(transfer["id"], "finalize")
        self.engine.wait_phase(transfer["id"], "finished_success")
        return content, extents

    def volume(self, snapshot, disk):
        found = self.ok(self.engine.call("GET", f"/vms/{self.vm}/snapshots/{snapshot}/disks"))["disk"]
        return next(one["image_id"] for one in found if one["id"] == disk)

    def test_a_download_is_of_the_chain_at_its_layer(self):
        first = self.snapshot("first")
        bytes_at = {first: CONTENT}
        for disk in self.disks:
            self.engine.guest(disk, {"offset": 0, "length": 64 * KIB, "pattern": 7})
        second = self.snapshot("second")
        bytes_at[second] = b"\7" * (64 * KIB) + CONTENT[64 * KIB :]
        for disk in self.disks:
            self.engine.guest(disk, {"offset": MIB - 64 * KIB, "length": 64 * KIB, "zero": True})
            now = bytes_at[second][: MIB - 64 * KIB] + bytes(64 * KIB)
            self.assertEqual(self.engine.guest_bytes(disk), now)
            for snapshot, content in bytes_at.items():
                volume = {"id": self.volume(snapshot, disk)}
                self.assertEqual(self.read(snapshot=volume)[0], content)
            extents = self.read(snapshot={"id": self.volume(second, disk)}, shallow="true")[1]
            self.assertEqual([one["hole"] for one in extents], [False, True])
            self.assertEqual(extents[0]["length"], 64 * KIB)
        self.assertEqual(self.ok(self.engine.call("GET", f"/disks/{self.disks[0]}"))["format"], "cow")

    def test_a_removed_snapshot_is_merged_and_no_byte_changes(self):
        snapshots = []
        for number in range(3):
            snapshots.append(self.snapshot(str(number)))
            for disk in self.disks:
                place = {"offset": number * 128 * KIB, "length": 64 * KIB}
                self.engine.guest(disk, {**place, "pattern": number + 1})
        before = [self.engine.guest_bytes(disk) for disk in self.disks]
        volumes = [self.volume(snapshots[0], disk) for disk in self.disks]
        for number in (1, 0, 2):
            path = f"/vms/{self.vm}/snapshots/{snapshots[number]}"
            self.ok(self.engine.call("DELETE", path))
            self.engine._wait(path, "snapshot_status", (404,))
            self.assertEqual([self.engine.guest_bytes(disk) for disk in self.disks], before)
        for disk, volume, kind in zip(self.disks, volumes, ("raw", "cow")):
            state = self.engine.state("disks", disk)
            self.assertEqual((state["image_id"], state["format"]), (volume, kind))
            self.assertEqual(os.listdir(os.path.dirname(state["path"])), [volume])

    def test_a_locked_disk_and_the_active_snapshot_are_refused(self):
        active = self.ok(self.engine.call("GET", f"/vms/{self.vm}/snapshots"))["snapshot"][-1]
        self.assertEqual(active["snapshot_type"], "active")
        self.ok(self.engine.call("DELETE", f"/vms/{self.vm}/snapshots/{active['id']}"), 409)
        made = self.ok(self.engine.control("POST", f"/vms/{self.vm}/snapshots", {"description": "d"}))["id"]
        volume = {"id": self.volume(made, self.disks[1])}
        body = {"snapshot": volume, "direction": "download", "format": "raw"}
        self.ok(self.engine.call("POST", "/imagetransfers", body), 201)
        self.ok(self.engine.call("DELETE", f"/vms/{self.vm}/snapshots/{made}"), 409)
        self.ok(self.engine.call("POST", f"/vms/{self.vm}/snapshots"), 409)


if __name__ == "__main__":
    unittest.main()
