"""Backups go wrong: every switch of theirs, with what a client sees."""

import os
import time
import unittest

from rig import MIB, EngineTest
from test_backups import BLOCK, BackupTest

NOBODY = "00000000-0000-0000-0000-000000000000"


class Switches(EngineTest):
    def test_each_is_documented_and_tried_here(self):
        status, answer = self.engine.control("POST", "/switches", {"switch": "no_such_switch"})
        self.assertEqual(status, 400)
        names = answer["error"].partition("of backups: ")[2].partition(";")[0].split(", ")
        self.assertGreater(len(names), 15)
        here = os.path.dirname(os.path.abspath(__file__))
        tests = ""
        for file in sorted(os.listdir(here)):
            if file.endswith(".py"):
                with open(os.path.join(here, file), encoding="utf-8") as opened:
                    tests += opened.read()
        with open(os.path.join(os.path.dirname(here), "main.py"), encoding="utf-8") as opened:
            documented = opened.read()
        for name in names:
            self.assertIn(f'"{name}"', tests)
            self.assertIn(f"\n    {name} ", documented)


class Starts(BackupTest):
    def test_an_answer_that_is_lost_leaves_a_backup_that_its_description_finds(self):
        self.engine.call("GET", "")
        self.engine.switch("cut_after", match="POST .*/backups$", times=1)
        with self.assertRaises(OSError):
            self.engine.backup(self.vm, [self.cow], description="token 7")
        found = self.ok(self.engine.call("GET", f"/vms/{self.vm}/backups"))["backup"]
        self.assertEqual([one["description"] for one in found], ["token 7"])
        self.finish(self.engine.wait_backup(self.vm, found[0]["id"], "ready"))

    def test_a_backup_that_is_stuck_stays_in_its_phase(self):
        for after, phase in ((0, "initializing"), (1, "starting")):
            self.engine.switch("backup_stuck", after=after, times=1)
            backup = self.ok(self.engine.backup(self.vm, [self.cow]), 201)["id"]
            self.engine.wait_backup(self.vm, backup, phase)
            time.sleep(0.3)
            self.assertEqual(self.engine.wait_backup(self.vm, backup, phase)["phase"], phase)
            # A hybrid backup that is stopped early only winds down once it is ready.
            self.ok(self.engine.finalize_backup(self.vm, backup))
            self.ok(self.engine.finalize_backup(self.vm, backup), 400)
            self.ok(self.engine.backup(self.vm, [self.cow]), 409)
            self.vm = self.engine.vm(name="next", status="up", attachments=[{"disk": self._other()}])

    def _other(self):
        self.cow = self.engine.old_disk(name="other", format="cow")["id"]
        return self.cow

    def test_a_failed_backup_has_no_checkpoint_and_an_event(self):
        self.engine.switch("backup_fails", times=1)
        backup = self.ok(self.engine.backup(self.vm, [self.cow]), 201)["id"]
        failed = self.engine.wait_backup(self.vm, backup, "failed")
        self.assertNotIn("to_checkpoint_id", failed)
        self.assertEqual(self.engine.codes(backup), [10790, 10792])
        self.assertEqual(self.ok(self.engine.call("GET", f"/vms/{self.vm}/checkpoints")), {})
        self.finish(self.start())

    def test_one_that_vanishes_leaves_only_events(self):
        self.engine.switch("backup_vanishes", times=1)
        backup = self.ok(self.engine.backup(self.vm, [self.cow]), 201)["id"]
        self.engine.wait_backup(self.vm, backup, 404)
        self.assertEqual(self.engine.codes(backup), [10790, 10792])
        self.engine.switch("backup_vanishes", value="succeeded", times=1)
        backup = self.start(self.cow)["id"]
        self.ok(self.engine.finalize_backup(self.vm, backup))
        self.engine.wait_backup(self.vm, backup, 404)
        self.assertEqual(self.engine.codes(backup)[-1], 10793)

    def test_a_disk_can_be_dropped_in_silence(self):
        self.engine.switch("disk_dropped", match="raw", times=1)
        backup = self.start()
        self.assertEqual(list(self.modes(backup)), [self.cow])
        self.finish(backup)

    def test_an_id_of_the_clients_own_does_not_survive_a_restart_of_the_engine(self):
        own = self.start(self.cow, id=NOBODY)
        self.assertEqual((own["id"], self.engine.switch("engine_restart")), (NOBODY, {"met": 1}))
        self.engine.wait_backup(self.vm, NOBODY, "failed")
        self.assertEqual(self.engine.codes(NOBODY), [10790, 10814])
        self.finish(self.start(self.raw))
        self.assertEqual(self.engine.switch("engine_restart"), {"met": 0})

    def test_use_active_is_not_read_and_legacy_needs_a_value(self):
        for query, kind in (
            ("?use_active=true", "hybrid"),
            ("?legacy", "hybrid"),
            ("?legacy=true&use_active=false", "live"),
        ):
            self.query = query
            backup = self.start(self.cow)
            self.assertEqual(self.engine.state("backups", backup["id"])["kind"], kind)
            self.finish(backup)


class LiveStarts(BackupTest):
    query = "?legacy=true"

    def test_a_redefinition_that_fails_costs_the_chain(self):
        full = self.start(self.cow)
        self.finish(full)
        base = full["to_checkpoint_id"]
        self.engine.switch("redefine_fails", times=1)
        fault = self.ok(self.engine.backup(self.vm, [self.cow], self.query, from_checkpoint_id=base), 400)
        self.assertEqual(fault["detail"], "[]")
        [failed] = [
            one for one in self.engine.control("GET", "/state")[1]["backups"] if one["id"] != full["id"]
        ]
        self.assertEqual(failed["phase"], "failed")
        self.assertEqual(self.engine.codes(failed["id"]), [10790, 10791])
        self.assertEqual(self.ok(self.engine.call("GET", f"/vms/{self.vm}/checkpoints")), {})
        self.finish(self.start(self.cow))

    def test_so_does_a_bitmap_that_the_host_does_not_find(self):
        full = self.start(self.cow)
        self.finish(full)
        base = full["to_checkpoint_id"]
        path = f"/vms/{self.vm}/checkpoints/{base}"
        self.ok(self.engine.control("POST", path, {"bitmap": "removed"}))
        self.ok(self.engine.backup(self.vm, [self.cow], self.query, from_checkpoint_id=base), 400)
        self.assertEqual(self.engine.call("GET", path), (404, None))

    def test_without_room_for_scratch_disks_or_a_frozen_guest_it_fails(self):
        for switch, query, codes in (
            ("scratch_fails", self.query, [10790, 10799, 10806, 10792]),
            ("freeze_fails", f"{self.query}&require_consistency", [10790, 10792]),
        ):
            self.engine.switch(switch, times=1)
            backup = self.ok(self.engine.backup(self.vm, [self.cow], query), 201)["id"]
            self.engine.wait_backup(self.vm, backup, "failed")
            self.assertEqual(self.engine.codes(backup), codes)
            self.engine.wait_disk(self.cow, "ok")
        self.engine.switch("freeze_fails", times=1)
        self.finish(self.start(self.cow))

    def test_finalize_before_ready_is_an_abort_and_a_fault(self):
        self.engine.switch("backup_stuck", times=1)
        backup = self.ok(self.engine.backup(self.vm, [self.cow], self.query), 201)["id"]
        self.ok(self.engine.finalize_backup(self.vm, backup), 400)
        self.engine.wait_backup(self.vm, backup, "failed")
        self.engine.wait_disk(self.cow, "ok")
        self.assertEqual(self.engine.codes(backup)[-1], 10795)


class Transfers(BackupTest):
    def setUp(self):
        super().setUp()
        full = self.start(self.cow)
        self.finish(full)
        self.base = full["to_checkpoint_id"]
        self.engine.guest(self.cow, {"offset": 0, "length": BLOCK, "zero": True})

    def test_one_with_a_missing_bitmap_does_not_start(self):
        backup = self.start(self.cow, from_checkpoint_id=self.base)
        self.engine.switch("bitmap_missing", times=1)
        for spec in ({}, {"shallow": "true"}):
            transfer = self.ok(self.engine.backup_transfer(backup["id"], self.cow, **spec), 201)
            self.engine.wait_phase(transfer["id"], "finished_failure")
        self.engine.switch("bitmap_missing", value="paused_system", times=1)
        transfer = self.ok(self.engine.backup_transfer(backup["id"], self.cow), 201)
        self.assertEqual((transfer["phase"], transfer.get("transfer_url")), ("paused_system", None))
        self.ok(self.engine.act(transfer["id"], "cancel"))
        self.engine.wait_phase(transfer["id"], "finished_failure")
        transfer = self.ok(self.engine.backup_transfer(backup["id"], self.cow), 201)
        self.assertEqual(transfer["phase"], "transferring")

    def test_a_bitmap_that_is_gone_or_was_not_kept_up_is_missing_too(self):
        for change in ("disabled", "removed"):
            path = f"/vms/{self.vm}/checkpoints/{self.base}"
            self.ok(self.engine.control("POST", path, {"disk": "cow", "bitmap": change}))
            backup = self.start(self.cow, from_checkpoint_id=self.base)
            transfer = self.ok(self.engine.backup_transfer(backup["id"], self.cow), 201)
            self.engine.wait_phase(transfer["id"], "finished_failure")
            self.finish(backup)
        backup = self.start(self.cow)
        self.assertEqual(len(self.read(backup, self.cow)[0]), MIB)

    def test_extents_may_lack_zero_or_all_that_is_dirty(self):
        backup = self.start(self.cow, from_checkpoint_id=self.base)
        self.engine.switch("extents_without_zero", times=1)
        content, extents = self.read(backup, self.cow)
        self.assertEqual({tuple(sorted(one)) for one in extents}, {("dirty", "length", "start")})
        self.assertEqual(content[:BLOCK], bytes(BLOCK))
        self.engine.switch("dirty_missing", times=1)
        self.assertEqual(self.read(backup, self.cow)[1], 404)
        first = self.read(backup, self.cow)[1][0]
        self.assertEqual(first, {"start": 0, "length": BLOCK, "dirty": True, "zero": True})


class Ends(BackupTest):
    def test_a_finalized_hybrid_backup_stays_ready_and_may_merge_for_long(self):
        self.engine.switch("finalize_conflict", times=1)
        self.engine.switch("finalize_lag", value=0.5)
        self.engine.switch("merge_slow", value=0.5)
        backup = self.start(self.cow)
        self.ok(self.engine.finalize_backup(self.vm, backup["id"]), 409)
        self.ok(self.engine.finalize_backup(self.vm, backup["id"]))
        self.ok(self.engine.finalize_backup(self.vm, backup["id"]), 400)
        self.engine.wait_backup(self.vm, backup["id"], "succeeded")
        changed = {one["phase"]: one["time"] for one in self.engine.log("backup_phase")}
        [asked] = [one["time"] for one in self.engine.log("event") if one["code"] == 10796]
        self.assertGreater(changed["finalizing"] - asked, 0.4)
        self.assertGreater(changed["succeeded"] - changed["finalizing"], 0.4)

    def test_a_snapshot_that_is_left_can_be_removed_by_hand(self):
        self.engine.switch("snapshot_left", times=1)
        backup = self.start(self.cow)
        self.engine.guest(self.cow, {"offset": 0, "length": BLOCK, "pattern": 9})
        now = self.engine.guest_bytes(self.cow)
        self.finish(backup)
        self.assertEqual(self.engine.codes(backup["id"]), [10790, 10796, 10813, 10793])
        path = f"/vms/{self.vm}/snapshots/{backup['snapshot']['id']}"
        self.ok(self.engine.call("DELETE", path))
        self.engine._wait(path, "snapshot_status", (404,))
        self.assertEqual(self.engine.guest_bytes(self.cow), now)
        after = self.start(self.cow, from_checkpoint_id=backup["to_checkpoint_id"])
        self.assertEqual([one["dirty"] for one in self.read(after, self.cow)[1]], [True, False])


class ShortMemory(BackupTest):
    options = ("--keep-success", "0.2", "--keep-failure", "0.2")

    def test_ended_backups_are_removed_after_a_while(self):
        backup = self.start(self.cow)
        self.ok(self.engine.finalize_backup(self.vm, backup["id"]))
        self.engine.wait_backup(self.vm, backup["id"], 404)
        self.assertEqual(self.engine.codes(backup["id"])[-1], 10793)


class OldEngine(BackupTest):
    options = ("--engine-version", "4.4.6")

    def test_cuts_the_transfers_of_a_backup_that_is_finalized(self):
        backup = self.start(self.cow)
        transfer = self.ok(self.engine.backup_transfer(backup["id"], self.cow), 201)["id"]
        self.ok(self.engine.finalize_backup(self.vm, backup["id"]))
        self.engine.wait_phase(transfer, 404)
        self.engine.wait_backup(self.vm, backup["id"], "succeeded")
        self.assertIn("cancelled_system", self.engine.phases(transfer))

    def test_forgets_a_backup_that_has_failed(self):
        self.engine.switch("backup_fails")
        backup = self.ok(self.engine.backup(self.vm, [self.cow]), 201)["id"]
        self.engine.wait_backup(self.vm, backup, 404)
        self.assertEqual(self.engine.codes(backup), [10790, 10792])


if __name__ == "__main__":
    unittest.main()
