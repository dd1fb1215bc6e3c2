"""The life of a transfer, with real data through the real daemon."""

import os
import subprocess
import time
import unittest

import rig
from rig import MIB, EngineTest

CONTENT = os.urandom(MIB)


class Uploads(EngineTest):
    def test_data_arrives_in_every_kind_of_disk(self):
        kinds = ({}, {"sparse": "false"}, {"format": "cow"}, {"format": "cow", "domain": "san"})
        for spec in kinds:
            disk = self.engine.ready_disk(**spec)
            transfer = self.ok(self.engine.transfer(disk["id"]), 201)
            self.assertEqual((transfer["phase"], transfer["image"]["id"]), ("transferring", disk["id"]))
            self.assertEqual(transfer["inactivity_timeout"], "60")
            self.assertEqual(self.engine.wait_disk(disk["id"], "locked")["status"], "locked")
            self.assertEqual(self.engine.data(transfer, "PUT", CONTENT)[0], 200)
            self.assertEqual(self.engine.data(transfer, "GET", length=10), (206, CONTENT[:10]))
            self.assertEqual(self.ok(self.engine.act(transfer["id"], "finalize")), {"status": "complete"})
            done = self.engine.wait_phase(transfer["id"], "finished_success")
            self.assertNotIn("transfer_url", done)
            self.engine.wait_disk(disk["id"], "ok")
            self.assertEqual(self.raw_bytes(disk["id"]), CONTENT)
            phases = ["transferring", "finalizing_success", "finished_success"]
            self.assertEqual(self.engine.phases(transfer["id"]), phases)
            self.assertEqual(self.engine.data(transfer, "GET", length=10)[0], 403)

    def test_a_cancelled_upload_takes_a_pre_existing_disk_with_it(self):
        disk = self.engine.old_disk()
        transfer = self.engine.transfer(disk["id"])[1]
        self.ok(self.engine.act(transfer["id"], "cancel"))
        self.engine.wait_phase(transfer["id"], "finished_failure")
        phases = [
            "transferring",
            "cancelled_user",
            "finalizing_cleanup",
            "finished_cleanup",
            "finished_failure",
        ]
        self.assertEqual(self.engine.phases(transfer["id"]), phases)
        self.engine.wait_disk(disk["id"], 404)
        self.assertFalse(os.path.exists(disk["path"]))

    def test_a_cancelled_download_does_no_harm(self):
        disk = self.engine.old_disk()
        transfer = self.engine.transfer(disk["id"], direction="download")[1]
        self.assertEqual(self.engine.data(transfer, "PUT", b"x")[0], 403)
        self.ok(self.engine.act(transfer["id"], "cancel"))
        self.engine.wait_phase(transfer["id"], "finished_failure")
        self.engine.wait_disk(disk["id"], "ok")

    def test_a_foreign_format_is_not_trusted(self):
        disk = self.engine.ready_disk()
        transfer = self.engine.transfer(disk["id"])[1]
        path = os.path.join(self.engine.dir, "foreign.qcow2")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
        with open(path, "rb") as file:
            self.assertEqual(self.engine.data(transfer, "PUT", file.read(65536))[0], 200)
        self.engine.act(transfer["id"], "finalize")
        self.engine.wait_phase(transfer["id"], "finished_failure")
        self.engine.wait_disk(disk["id"], 404)

    def test_without_a_format_the_file_itself_is_served(self):
        disk = self.engine.ready_disk(format="cow")
        body = {"image": {"id": disk["id"]}}
        transfer = self.ok(self.engine.call("POST", "/imagetransfers", body), 201)
        self.assertEqual((transfer["direction"], transfer["format"]), ("upload", "cow"))
        self.assertEqual(self.engine.state("transfers", transfer["id"])["size"], int(MIB * 1.1) + 1 + MIB)
        self.assertEqual(self.engine.data(transfer, "GET", length=4), (206, b"QFI\xfb"))
        self.engine.act(transfer["id"], "finalize")
        self.engine.wait_phase(transfer["id"], "finished_success")

    def test_actions_say_yes_to_anything(self):
        for action in ("finalize", "cancel", "pause", "resume", "extend"):
            self.ok(self.engine.act("00000000-0000-0000-0000-000000000000", action))
        disk = self.engine.old_disk()
        transfer = self.engine.transfer(disk["id"])[1]["id"]
        self.ok(self.engine.act(transfer, "resume"), 409)
        self.engine.act(transfer, "finalize")
        self.engine.wait_phase(transfer, "finished_success")
        self.ok(self.engine.act(transfer, "cancel"))
        self.assertEqual(self.engine.wait_phase(transfer, "finished_success")["phase"], "finished_success")
        self.engine.wait_disk(disk["id"], "ok")

    def test_locks(self):
        disk = self.engine.old_disk()
        first = self.engine.transfer(disk["id"], direction="download")[1]["id"]
        self.assertIn(
            "are locked", self.ok(self.engine.transfer(disk["id"], direction="download"), 409)["detail"]
        )
        self.assertIn("being transferred", self.ok(self.engine.transfer(disk["id"]), 409)["detail"])
        self.ok(self.engine.call("DELETE", f"/disks/{disk['id']}"), 409)
        self.ok(self.engine.act(first, "pause"), 400)
        self.engine.act(first, "finalize")
        self.engine.wait_phase(first, "finished_success")
        self.ok(self.engine.transfer(disk["id"]), 201)
        self.ok(self.engine.transfer(self.engine.old_disk(status="illegal")["id"]), 500)
        self.ok(self.engine.transfer(self.engine.old_disk(vm="v")["id"]), 409)
        self.ok(self.engine.transfer("00000000-0000-0000-0000-000000000000"), 400)
        self.ok(self.engine.call("POST", "/imagetransfers", {}), 400)

    def test_snapshots_can_be_downloaded_also_of_a_running_vm(self):
        path = os.path.join(self.engine.dir, "content")
        with open(path, "wb") as file:
            file.write(CONTENT)
        disk = self.engine.old_disk(vm="v", snapshots=1, content=path, format="cow")
        snapshot = self.ok(self.engine.call("GET", f"/disks/{disk['id']}/disksnapshots"))["disk_snapshot"][0]
        domain = self.ok(self.engine.call("GET", "/storagedomains?search=name%3Ddata"))["storage_domain"][0][
            "id"
        ]
        self.assertIn(
            "disk_snapshot", self.ok(self.engine.call("GET", f"/storagedomains/{domain}/disksnapshots"))
        )
        body = {"snapshot": {"id": snapshot["id"]}, "direction": "download", "format": "raw"}
        transfer = self.ok(self.engine.call("POST", "/imagetransfers", body), 201)
        self.assertEqual(self.engine.data(transfer, "GET")[1], CONTENT)
        self.engine.wait_phase(transfer["id"], "finished_success")


class Pauses(EngineTest):
    def test_pause_and_resume_keep_url_and_ticket(self):
        disk = self.engine.old_disk()
        transfer = self.engine.transfer(disk["id"])[1]
        self.ok(self.engine.act(transfer["id"], "pause"))
        self.engine.wait_phase(transfer["id"], "paused_user")
        self.assertEqual(self.engine.data(transfer, "PUT", CONTENT)[0], 200)
        self.engine.switch("pause_now")
        self.ok(self.engine.act(transfer["id"], "resume"))
        self.engine.wait_phase(transfer["id"], "transferring")
        self.assertEqual(self.engine.switch("pause_now", value=disk["id"]), {"met": 1})
        paused = self.engine.wait_phase(transfer["id"], "paused_system")
        self.assertEqual(paused["transfer_url"], transfer["transfer_url"])
        self.engine.act(transfer["id"], "finalize")
        self.engine.wait_phase(transfer["id"], "finished_success")
        self.assertEqual(self.raw_bytes(disk["id"]), CONTENT)

    def test_inactivity_ends_as_the_policy_says(self):
        expected = (
            ("upload", "legacy", "paused_system"),
            ("download", "legacy", "finished_failure"),
            ("download", "pause", "paused_system"),
            ("upload", "cancel", "finished_failure"),
        )
        started = []
        for direction, policy, phase in expected:
            disk = self.engine.old_disk()["id"]
            spec = {"direction": direction, "timeout_policy": policy, "inactivity_timeout": "1"}
            started.append((disk, direction, phase, self.engine.transfer(disk, **spec)[1]))
        for disk, direction, phase, transfer in started:
            self.engine.wait_phase(transfer["id"], phase)
            if phase == "finished_failure":
                self.engine.wait_disk(disk, 404 if direction == "upload" else "ok")

    def test_activity_keeps_a_transfer_alive_and_extend_does_not(self):
        # A busy machine sends each of these requests late, but not by seconds.
        active = self.engine.transfer(self.engine.old_disk()["id"], inactivity_timeout="8")[1]
        extended = self.engine.transfer(self.engine.old_disk()["id"], inactivity_timeout="1")[1]["id"]
        for _ in range(22):
            self.engine.data(active, "OPTIONS")
            self.ok(self.engine.act(extended, "extend"))
            time.sleep(0.4)
        self.assertEqual(self.engine.wait_phase(active["id"], "transferring")["phase"], "transferring")
        self.assertEqual(self.engine.wait_phase(extended, "paused_system")["phase"], "paused_system")

    def test_who_resumes_after_inactivity_without_activity_is_paused_again(self):
        transfer = self.engine.transfer(self.engine.old_disk()["id"], inactivity_timeout="3")[1]
        self.engine.wait_phase(transfer["id"], "paused_system")
        self.engine.act(transfer["id"], "resume")
        while len(self.engine.phases(transfer["id"])) < 5:
            time.sleep(0.02)
        self.assertEqual(
            self.engine.phases(transfer["id"])[2:], ["resuming", "transferring", "paused_system"]
        )
        self.engine.data(transfer, "OPTIONS")
        self.engine.act(transfer["id"], "resume")
        while len(self.engine.phases(transfer["id"])) < 7:
            time.sleep(0.02)
        self.assertEqual(self.engine.phases(transfer["id"])[5:7], ["resuming", "transferring"])

    def test_a_lost_ticket_is_not_made_anew_and_finalize_is_the_way_out(self):
        disk = self.engine.old_disk()["id"]
        transfer = self.engine.transfer(disk)[1]
        self.assertEqual(self.engine.data(transfer, "PUT", CONTENT)[0], 200)
        rig.stop_daemon()
        rig.start_daemon()
        self.engine.wait_phase(transfer["id"], "paused_system")
        self.engine.act(transfer["id"], "resume")
        while len(self.engine.phases(transfer["id"])) < 5:
            time.sleep(0.02)
        self.assertEqual(
            self.engine.phases(transfer["id"])[2:], ["resuming", "transferring", "paused_system"]
        )
        self.engine.act(transfer["id"], "finalize")
        self.engine.wait_phase(transfer["id"], "finished_success")
        again = self.ok(self.engine.transfer(disk), 201)
        self.assertEqual(self.engine.data(again, "GET")[1], CONTENT)

    def test_a_lost_download_is_cancelled(self):
        disk = self.engine.old_disk()["id"]
        transfer = self.engine.transfer(disk, direction="download")[1]["id"]
        self.assertEqual(self.engine.switch("ticket_remove"), {"met": 1})
        self.engine.wait_phase(transfer, "finished_failure")
        self.engine.wait_disk(disk, "ok")

    def test_a_download_that_was_read_whole_is_finalized_by_the_engine(self):
        transfer = self.engine.transfer(self.engine.old_disk()["id"], direction="download")[1]
        self.assertEqual(len(self.engine.data(transfer, "GET")[1]), MIB)
        self.engine.wait_phase(transfer["id"], "finished_success")


class ShortTickets(EngineTest):
    options = ("--ticket-validity", "6", "--ticket-refresh", "3")

    def test_are_renewed_while_transferring_and_not_while_paused(self):
        running = self.engine.transfer(self.engine.old_disk()["id"])[1]
        paused = self.engine.transfer(self.engine.old_disk()["id"])[1]
        stale = self.engine.transfer(self.engine.old_disk(name="stale")["id"])[1]
        failing = self.engine.transfer(self.engine.old_disk(name="failing")["id"])[1]["id"]
        self.engine.act(paused["id"], "pause")
        self.engine.switch("extend_stopped", match="stale")
        self.engine.switch("extend_fails", match="failing")
        time.sleep(9)
        self.assertEqual(self.engine.data(running, "GET", length=1)[0], 206)
        self.assertEqual(self.engine.data(paused, "GET", length=1)[0], 403)
        self.assertEqual(self.engine.data(stale, "GET", length=1)[0], 403)
        self.engine.wait_phase(failing, "paused_system")


class CappedInactivity(EngineTest):
    options = ("--inactivity-cap", "1")

    def test_is_shorter_than_what_was_asked_for(self):
        transfer = self.engine.transfer(self.engine.old_disk()["id"], inactivity_timeout="3600")[1]
        self.assertEqual(transfer["inactivity_timeout"], "1")
        self.engine.wait_phase(transfer["id"], "paused_system")


class OldEngine(EngineTest):
    options = ("--engine-version", "4.4.6", "--unlock-delay", "5")

    def test_forgets_a_transfer_that_has_ended(self):
        disk = self.engine.old_disk()["id"]
        transfer = self.engine.transfer(disk)[1]["id"]
        self.engine.act(transfer, "finalize")
        self.engine.wait_disk(disk, "ok")
        self.assertIn("being transferred", self.ok(self.engine.transfer(disk), 409)["detail"])
        self.engine.wait_phase(transfer, 404)
        self.ok(self.engine.transfer(disk), 201)


class ShortMemory(EngineTest):
    options = ("--keep-success", "5", "--poll", "0.1", "--poll-max", "0.4")

    def test_ended_transfers_are_removed_after_a_while(self):
        transfer = self.engine.transfer(self.engine.old_disk()["id"])[1]["id"]
        self.engine.act(transfer, "finalize")
        self.engine.wait_phase(transfer, "finished_success")
        self.engine.wait_phase(transfer, 404)


class SmallBlockDisks(EngineTest):
    options = ("--block-extent", str(MIB), "--block-chunk", str(MIB))

    def test_have_no_room_beyond_their_initial_size(self):
        small = self.engine.ready_disk(domain="san", format="cow", provisioned_size=str(4 * MIB))
        right = self.engine.ready_disk(
            domain="san", format="cow", provisioned_size=str(4 * MIB), initial_size=str(5 * MIB)
        )
        for disk, status in ((small, 500), (right, 200)):
            transfer = self.engine.transfer(disk["id"])[1]
            self.assertEqual(self.engine.data(transfer, "PUT", CONTENT * 4)[0], status)


class TheEnd(unittest.TestCase):
    def test_leaves_no_process_ticket_or_socket(self):
        engine = rig.Engine("--proxy-url", "dead")
        transfer = engine.transfer(engine.old_disk()["id"])[1]
        self.assertNotEqual(transfer["proxy_url"], transfer["transfer_url"])
        started = subprocess.run(["pgrep", "-f", f"qemu-nbd.*{engine.dir}"], capture_output=True)
        self.assertEqual(started.returncode, 0)
        engine.stop()
        left = subprocess.run(
            ["pgrep", "-f", f"qemu-nbd.*{engine.dir}"], capture_output=True, text=True
        ).stdout
        self.assertEqual((engine.process.returncode, left), (0, ""))
        self.assertEqual(sorted(os.listdir(engine.dir)), ["api-ca.pem", "engine.log", "images"])
        self.assertEqual(engine.data(transfer, "GET", length=1)[0], 403)


if __name__ == "__main__":
    unittest.main()
