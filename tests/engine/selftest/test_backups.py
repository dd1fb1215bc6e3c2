"""Backups of every kind with real data: full and incremental, while the guest goes on writing."""

import os
import subprocess
import threading
import time
import unittest

from rig import MIB, EngineTest

KIB = 1 << 10
BLOCK = 64 * KIB
CONTENT = bytes(1) + os.urandom(MIB - 1)
PATTERNS = 251


def laid_over(base, extents, content):
    """Returns the base with what a client of an incremental backup writes over it."""
    made = bytearray(base)
    for one in extents:
        if one["dirty"]:
            place = slice(one["start"], one["start"] + one["length"])
            made[place] = bytes(one["length"]) if one["zero"] else content[place]
    return bytes(made)


class BackupTest(EngineTest):
    """A VM with a raw and a qcow2 disk of the same content."""

    query = ""
    status = "up"

    def setUp(self):
        super().setUp()
        content = self.engine.content("content", CONTENT)
        self.raw, self.cow = (
            self.engine.old_disk(name=kind, format=kind, content=content)["id"] for kind in ("raw", "cow")
        )
        attachments = [{"disk": disk} for disk in (self.raw, self.cow)]
        self.vm = self.engine.vm(status=self.status, attachments=attachments)

    def start(self, *disks, **spec):
        started = self.ok(self.engine.backup(self.vm, disks or (self.raw, self.cow), self.query, **spec), 201)
        # A busy machine shows it later than it was begun.
        self.assertIn(started["phase"], ("initializing", "starting", "ready"))
        return self.engine.wait_backup(self.vm, started["id"], "ready")

    def modes(self, backup):
        shown = self.ok(self.engine.call("GET", f"/vms/{self.vm}/backups/{backup['id']}/disks"))["disk"]
        return {one["id"]: one["backup_mode"] for one in shown}

    def read(self, backup, disk):
        """Returns a disk's bytes in the backup, and its dirty extents (or 404)."""
        transfer = self.ok(self.engine.backup_transfer(backup["id"], disk), 201)
        self.assertEqual(transfer["phase"], "transferring")
        extents = self.engine.extents(transfer, "dirty")
        content = self.engine.data(transfer, "GET")[1]
        self.engine.end_transfer(transfer["id"])
        return content, extents

    def finish(self, backup):
        self.ok(self.engine.finalize_backup(self.vm, backup["id"]))
        return self.engine.wait_backup(self.vm, backup["id"], "succeeded")

    def phases(self, backup):
        return [one["phase"] for one in self.engine.log("backup_phase") if one["backup"] == backup["id"]]


class Chains:
    """Full, guest writes, incremental, guest zeroes, incremental: what every kind does."""

    def write(self, *writes):
        for disk in (self.raw, self.cow):
            self.engine.guest(disk, *writes)

    def test_each_point_in_time_is_what_the_guest_had_then(self):
        full = self.start()
        self.assertEqual(self.modes(full), {self.raw: "full", self.cow: "full"})
        if self.status == "up":
            self.write({"offset": 0, "length": BLOCK, "pattern": 1})
        for disk in (self.raw, self.cow):
            self.assertEqual(self.read(full, disk), (CONTENT, 404))
        self.finish(full)
        if self.status == "down":
            self.write({"offset": 0, "length": BLOCK, "pattern": 1})
        point, base = CONTENT, full["to_checkpoint_id"]
        for offset, what in ((2, {"pattern": 2}), (4, {"zero": True})):
            self.write({"offset": offset * BLOCK, "length": BLOCK, **what})
            now = self.engine.guest_bytes(self.cow)
            backup = self.start(from_checkpoint_id=base)
            self.assertEqual(self.modes(backup), {self.raw: "full", self.cow: "incremental"})
            self.assertEqual(backup["from_checkpoint_id"], base)
            if self.status == "up":
                self.write({"offset": 6 * BLOCK, "length": BLOCK, "pattern": offset})
                self.assertNotEqual(self.engine.guest_bytes(self.cow), now)
            self.assertEqual(self.read(backup, self.raw), (now, 404))
            content, extents = self.read(backup, self.cow)
            self.assertEqual(content, now)
            self.assertEqual(laid_over(point, extents, content), now)
            dirty = sum(one["length"] for one in extents if one["dirty"])
            self.assertLessEqual(dirty, 3 * BLOCK)
            point, base = now, backup["to_checkpoint_id"]
            self.finish(backup)
        chain = self.ok(self.engine.call("GET", f"/vms/{self.vm}/checkpoints"))["checkpoint"]
        parents = [one.get("parent_id") for one in chain]
        self.assertEqual(parents, [None, *(one["id"] for one in chain[:-1])])
        self.assertEqual((chain[-1]["id"], chain[-1]["state"]), (base, "created"))
        disks = self.ok(self.engine.call("GET", f"/vms/{self.vm}/checkpoints/{base}/disks"))["disk"]
        self.assertEqual([one["id"] for one in disks], [self.cow])
        self.assertEqual(self.engine.codes(full["id"])[0], 10790)
        self.assertEqual(self.engine.codes(full["id"])[-1], 10793)
        # Since the first checkpoint more is dirty, and the data are of now.
        now = self.engine.guest_bytes(self.cow)
        late = self.start(self.cow, from_checkpoint_id=full["to_checkpoint_id"])
        content, extents = self.read(late, self.cow)
        self.assertEqual(laid_over(CONTENT, extents, content), now)
        self.assertEqual(laid_over(point, extents, content), now)
        self.finish(late)


class Moments:
    """Every backup of a running VM promises this of several disks."""

    def test_all_disks_are_of_one_moment(self):
        number, ended = 0, threading.Event()

        def write():
            nonlocal number
            while not ended.is_set():
                number += 1
                for disk in (self.raw, self.cow):
                    self.engine.guest(disk, {"offset": 0, "length": BLOCK, "pattern": number % PATTERNS})

        guest = threading.Thread(target=write)
        guest.start()
        try:
            backup = self.start()
            before = number
            while guest.is_alive() and number < before + 2:
                time.sleep(0.01)
        finally:
            ended.set()
            guest.join()
        of_raw, of_cow = (self.read(backup, disk)[0][0] for disk in (self.raw, self.cow))
        self.assertIn((of_raw - of_cow) % PATTERNS, (0, 1))
        self.finish(backup)
        self.assertGreaterEqual(number, before + 2)
        self.assertEqual(self.engine.guest_bytes(self.raw)[0], number % PATTERNS)


class HybridChains(Chains, Moments, BackupTest):
    def test_a_snapshot_freezes_the_disks_and_is_merged_at_the_end(self):
        backup = self.start(description="token")
        found = self.ok(self.engine.call("GET", f"/vms/{self.vm}/backups"))["backup"]
        self.assertEqual([(one["id"], one["description"]) for one in found], [(backup["id"], "token")])
        path = f"/vms/{self.vm}/snapshots/{backup['snapshot']['id']}"
        snapshot = self.ok(self.engine.call("GET", path))
        self.assertEqual(snapshot["description"], "Auto-generated for Backup VM")
        self.ok(self.engine.call("DELETE", path), 409)
        self.ok(self.engine.call("DELETE", f"/vms/{self.vm}"), 409)
        self.assertEqual(self.ok(self.engine.call("GET", f"/disks/{self.cow}"))["status"], "ok")
        self.ok(self.engine.backup(self.vm, [self.cow]), 409)
        for status in ("down", "up"):
            self.ok(self.engine.control("POST", f"/vms/{self.vm}", {"status": status}))
        self.finish(backup)
        self.assertEqual(self.engine.call("GET", path), (404, None))
        self.assertEqual(self.phases(backup), ["starting", "ready", "finalizing", "succeeded"])
        self.assertEqual(self.ok(self.engine.call("GET", f"/disks/{self.raw}"))["format"], "raw")
        self.assertEqual(self.engine.codes(backup["id"]), [10790, 10796, 10793])

    def test_a_bitmap_in_several_layers_is_merged_for_the_transfer(self):
        full = self.start()
        self.finish(full)
        self.engine.guest(self.cow, {"offset": 0, "length": BLOCK, "pattern": 1})
        self.ok(self.engine.control("POST", f"/vms/{self.vm}/snapshots", {"description": "by hand"}))
        self.engine.guest(self.cow, {"offset": 4 * BLOCK, "length": BLOCK, "pattern": 2})
        backup = self.start(self.cow, from_checkpoint_id=full["to_checkpoint_id"])
        extents = self.read(backup, self.cow)[1]
        self.assertEqual([one["start"] // BLOCK for one in extents if one["dirty"]], [0, 4])
        self.finish(backup)

    def test_a_disk_that_was_added_since_comes_whole(self):
        full = self.start()
        self.finish(full)
        disk = self.engine.old_disk(name="added", format="cow")["id"]
        body = {"id": disk, "interface": "virtio"}
        self.ok(self.engine.call("POST", f"/vms/{self.vm}/diskattachments", body), 201)
        backup = self.start(self.cow, disk, from_checkpoint_id=full["to_checkpoint_id"])
        self.assertEqual(self.modes(backup), {self.cow: "incremental", disk: "full"})
        self.finish(backup)

    def test_a_disk_that_grew_since_is_still_incremental(self):
        full = self.start(self.cow)
        self.finish(full)
        self.ok(self.engine.call("PUT", f"/disks/{self.cow}", {"provisioned_size": str(2 * MIB)}))
        self.engine.guest(self.cow, {"offset": 2 * MIB - BLOCK, "length": BLOCK, "pattern": 1})
        backup = self.start(self.cow, from_checkpoint_id=full["to_checkpoint_id"])
        content, extents = self.read(backup, self.cow)
        self.assertEqual(laid_over(CONTENT + bytes(MIB), extents, content), self.engine.guest_bytes(self.cow))
        self.finish(backup)

    def test_raw_disks_alone_have_a_checkpoint_without_disks(self):
        backup = self.start(self.raw)
        path = f"/vms/{self.vm}/checkpoints/{backup['to_checkpoint_id']}/disks"
        self.assertEqual(self.ok(self.engine.call("GET", path)), {})
        self.finish(backup)


class LiveChains(Chains, Moments, BackupTest):
    query = "?legacy=true"

    def test_locks_the_disks_and_shows_scratch_disks_while_it_lasts(self):
        backup = self.start()
        self.assertNotIn("snapshot", backup)
        disks = self.ok(self.engine.call("GET", "/disks"))["disk"]
        scratch = [one for one in disks if one["content_type"] == "backup_scratch"]
        self.assertEqual([(one["status"], one["format"]) for one in scratch], [("illegal", "cow")] * 2)
        self.assertEqual(self.engine.wait_disk(self.cow, "locked")["status"], "locked")
        self.finish(backup)
        self.engine.wait_disk(self.cow, "ok")
        self.assertEqual(len(self.ok(self.engine.call("GET", "/disks"))["disk"]), 2)
        self.assertEqual(self.phases(backup), ["starting", "ready", "finalizing", "succeeded"])
        self.assertEqual(self.engine.codes(backup["id"]), [10790, 10799, 10805, 10794, 10793])

    def test_of_raw_disks_alone_has_no_checkpoint(self):
        backup = self.start(self.raw)
        self.assertNotIn("to_checkpoint_id", backup)
        self.finish(backup)
        self.assertEqual(self.ok(self.engine.call("GET", f"/vms/{self.vm}/checkpoints")), {})

    def test_whose_vm_is_powered_off_fails_its_transfers_and_yet_ends(self):
        backup = self.start()
        transfer = self.ok(self.engine.backup_transfer(backup["id"], self.cow), 201)
        self.ok(self.engine.control("POST", f"/vms/{self.vm}", {"status": "down"}))
        self.assertEqual(self.engine.data(transfer, "GET", length=1)[0], 500)
        self.engine.end_transfer(transfer["id"])
        self.ok(self.engine.backup_transfer(backup["id"], self.cow), 400)
        self.finish(backup)

    def test_whose_vm_crashes_loses_the_bitmaps_that_were_in_use(self):
        full = self.start(self.cow)
        self.finish(full)
        backup = self.start(self.cow, from_checkpoint_id=full["to_checkpoint_id"])
        self.ok(self.engine.control("POST", f"/vms/{self.vm}", {"status": "down", "crashed": True}))
        self.finish(backup)
        self.query = ""
        late = self.start(self.cow, from_checkpoint_id=full["to_checkpoint_id"])
        transfer = self.ok(self.engine.backup_transfer(late["id"], self.cow), 201)
        self.engine.wait_phase(transfer["id"], "finished_failure")
        self.finish(late)


class ColdChains(Chains, BackupTest):
    query = "?legacy=true"
    status = "down"

    def test_is_never_starting_and_locks_the_disks(self):
        backup = self.start()
        self.engine.wait_disk(self.raw, "locked")
        self.ok(self.engine.transfer(self.raw, direction="download"), 409)
        self.finish(backup)
        self.engine.wait_disk(self.raw, "ok")
        self.assertEqual(self.phases(backup), ["ready", "finalizing", "succeeded"])


class TheEnd(BackupTest):
    query = "?legacy=true"

    def test_leaves_no_storage_daemon(self):
        self.start()
        pattern = ["pgrep", "-f", f"qemu-storage-daemon.*{self.engine.dir}"]
        self.assertEqual(subprocess.run(pattern, capture_output=True).returncode, 0)
        self.engine.process.terminate()
        self.assertEqual(self.engine.process.wait(timeout=60), 0)
        self.assertEqual(subprocess.run(pattern, capture_output=True).returncode, 1)
        self.assertNotIn("nbd", os.listdir(self.engine.dir))


class OldLevel(BackupTest):
    options = ("--level", "4.6")

    def test_has_no_hybrid_backup(self):
        backup = self.start()
        self.assertEqual(self.engine.state("backups", backup["id"])["kind"], "live")
        self.finish(backup)


class Refusals(BackupTest):
    def test_of_a_backup(self):
        shared = self.engine.old_disk(name="shared", shareable=True)["id"]
        foreign = self.engine.old_disk(name="foreign")["id"]
        only = self.engine.vm(name="only", status="up", attachments=[{"disk": shared}])
        nothing = "00000000-0000-0000-0000-000000000000"
        for status, vm, disks, spec in (
            (400, self.vm, [nothing], {}),
            (500, self.vm, [foreign], {}),
            (400, only, [shared], {}),
            (400, self.vm, [self.cow], {"from_checkpoint_id": nothing}),
            (400, self.vm, [self.cow], {"description": "d" * 1025}),
        ):
            self.ok(self.engine.backup(vm, disks, **spec), status)
        self.ok(self.engine.call("POST", f"/vms/{self.vm}/backups", {}), 500)
        for change in ({"status": "paused"}, {"status": "saving_state"}, {"is_engine": True}):
            self.ok(self.engine.control("POST", f"/vms/{self.vm}", change))
            self.ok(self.engine.backup(self.vm, [self.cow]), 409)
            self.ok(self.engine.control("POST", f"/vms/{self.vm}", {"status": "up", "is_engine": False}))
        self.ok(self.engine.control("POST", f"/disks/{self.cow}", {"status": "locked"}))
        self.ok(self.engine.backup(self.vm, [self.cow]), 409)

    def test_of_transfers_and_of_finalize(self):
        other = self.engine.old_disk(name="other", format="cow")["id"]
        stuck = self.engine.vm(name="stuck", status="up", attachments=[{"disk": other}])
        self.engine.switch("backup_stuck", match="stuck")
        started = self.ok(self.engine.backup(stuck, [other]), 201)["id"]
        self.ok(self.engine.backup_transfer(started, other), 409)
        backup = self.start(self.cow)
        self.ok(self.engine.backup_transfer(backup["id"], self.cow, format="cow"), 400)
        self.ok(self.engine.backup_transfer(backup["id"], self.raw), 400)
        self.ok(self.engine.backup_transfer(self.vm, self.cow), 400)
        first = self.ok(self.engine.backup_transfer(backup["id"], self.cow, format=None), 201)
        second = self.ok(self.engine.backup_transfer(backup["id"], self.cow), 201)
        fault = self.ok(self.engine.finalize_backup(self.vm, backup["id"]), 409)
        self.assertIn("active image transfers", fault["detail"])
        for transfer in (first, second):
            self.assertEqual(transfer["format"], "raw")
            self.engine.end_transfer(transfer["id"])
        self.finish(backup)
        fault = self.ok(self.engine.finalize_backup(self.vm, backup["id"]), 400)
        self.assertIn("already stopped", fault["detail"])
        self.assertEqual(self.engine.finalize_backup(self.vm, self.vm), (404, None))
        self.ok(self.engine.backup_transfer(backup["id"], self.cow), 409)

    def test_disks_that_cannot_take_part_are_silently_left_out(self):
        shared = self.engine.old_disk(name="shared", shareable=True)["id"]
        lun = self.engine.old_disk(name="lun", is_lun=True)["id"]
        idle = self.engine.old_disk(name="idle")["id"]
        mine = [{"disk": shared}, {"disk": lun}, {"disk": idle, "active": False}, {"disk": self.cow}]
        self.ok(self.engine.control("POST", f"/disks/{self.cow}", {"shareable": True}))
        other = self.engine.vm(name="other", status="up", attachments=mine)
        self.ok(self.engine.control("POST", f"/disks/{self.cow}", {"shareable": False}))
        backup = self.ok(self.engine.backup(other, [shared, lun, idle, self.cow]), 201)
        self.engine.wait_backup(other, backup["id"], "ready")
        self.vm = other
        self.assertEqual(list(self.modes(backup)), [self.cow])


class Checkpoints(BackupTest):
    def test_are_deleted_in_steps_and_the_chain_goes_on(self):
        points = []
        for _ in range(3):
            backup = self.start(self.cow)
            points.append(backup["to_checkpoint_id"])
            self.finish(backup)
        path = f"/vms/{self.vm}/checkpoints"
        self.ok(self.engine.call("DELETE", f"{path}/{points[1]}"))
        self.engine._wait(f"{path}/{points[1]}", "state", (404,))
        last = self.ok(self.engine.call("GET", f"{path}/{points[2]}"))
        self.assertEqual(last["parent_id"], points[0])
        self.assertEqual(self.engine.codes(points[1]), [10797])
        self.ok(self.engine.backup(self.vm, [self.cow], from_checkpoint_id=points[1]), 400)
        self.ok(self.engine.control("POST", f"/vms/{self.vm}", {"status": "down"}))
        self.engine.switch("checkpoint_stays")
        self.ok(self.engine.call("DELETE", f"{path}/{points[0]}"))
        self.engine._wait(f"{path}/{points[0]}", "state", ("invalid",))
        self.ok(self.engine.backup(self.vm, [self.cow], from_checkpoint_id=points[0]), 400)

    def test_all_go_where_an_invalid_one_is_deleted_while_the_vm_is_up(self):
        for _ in range(2):
            backup = self.start(self.cow)
            self.finish(backup)
        path = f"/vms/{self.vm}/checkpoints/{backup['to_checkpoint_id']}"
        self.ok(self.engine.control("POST", path, {"state": "invalid"}))
        self.ok(self.engine.call("DELETE", path))
        self.engine._wait(path, "state", (404,))
        self.assertEqual(self.engine.control("GET", "/state")[1]["checkpoints"], [])

    def test_of_a_paused_vm_are_deleted_by_old_engines_and_the_image_with_them(self):
        backup = self.start(self.cow)
        self.finish(backup)
        self.ok(self.engine.control("POST", f"/vms/{self.vm}", {"status": "paused"}))
        path = f"/vms/{self.vm}/checkpoints/{backup['to_checkpoint_id']}"
        self.ok(self.engine.call("DELETE", path))
        self.engine._wait(path, "state", (404,))
        with open(self.engine.state("disks", self.cow)["path"], "rb") as file:
            self.assertEqual(file.read(4), bytes(4))

    def test_go_with_a_detached_disk_and_with_a_restored_snapshot(self):
        backup = self.start()
        self.finish(backup)
        self.ok(self.engine.control("POST", f"/vms/{self.vm}", {"status": "down"}))
        self.ok(self.engine.call("DELETE", f"/vms/{self.vm}/diskattachments/{self.cow}"))
        path = f"/vms/{self.vm}/checkpoints"
        self.assertEqual(self.ok(self.engine.call("GET", f"{path}/{backup['to_checkpoint_id']}/disks")), {})
        self.ok(self.engine.control("DELETE", path))
        self.assertEqual(self.ok(self.engine.call("GET", path)), {})


if __name__ == "__main__":
    unittest.main()
