"""The SDK's own example of a backup, which anybody who backs up oVirt knows, works against the stand-in."""

import glob
import os
import subprocess
import unittest

from rig import MIB, PASSWORD, USER, EngineTest, project

KIB = 1 << 10


class Example(EngineTest):
    """scripts/setup has installed the SDK and unpacked its examples."""

    def setUp(self):
        super().setUp()
        content = self.engine.content("content", os.urandom(MIB))
        self.disk = self.engine.old_disk(name="web_Disk1", format="cow", content=content)["id"]
        self.vm = self.engine.vm(status="up", attachments=[{"disk": self.disk}])
        self.backups = os.path.join(self.engine.dir, "backups")
        os.makedirs(os.path.join(self.engine.dir, ".config"))
        os.makedirs(self.backups)
        with open(os.path.join(self.engine.dir, ".config", "ovirt.conf"), "w", encoding="utf-8") as file:
            file.write(f"[standin]\nengine_url = {self.engine.ready['url']}\nusername = {USER}\n")
            file.write(f"password = {PASSWORD}\ncafile = {self.engine.ready['cafile']}\n")

    def run_example(self, command, *arguments):
        """Backs the VM up; returns the file that is new."""
        before = set(glob.glob(f"{self.backups}/*"))
        python = os.path.join(project(), "target", "venv", "bin", "python")
        program = os.path.join(project(), "target", "sdk", "examples", "backup_vm.py")
        call = [python, "-B", program, "-c", "standin", "--logfile", f"{self.engine.dir}/log", command]
        done = subprocess.run(
            [*call, self.vm, "--backup-dir", self.backups, *arguments],
            env={**os.environ, "HOME": self.engine.dir},
            capture_output=True,
            text=True,
            timeout=180,
        )
        self.assertEqual(done.returncode, 0, f"{done.stdout}{done.stderr}")
        [new] = set(glob.glob(f"{self.backups}/*")) - before
        return new

    def bytes_of(self, file):
        target = f"{self.engine.dir}/restored"
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", file, target], check=True)
        with open(target, "rb") as restored:
            return restored.read()

    def test_backs_up_in_full_and_incrementally_and_the_chain_is_what_the_guest_had(self):
        at_first = self.engine.guest_bytes(self.disk)
        full = self.run_example("full")
        _, checkpoint, disk, mode, _ = os.path.basename(full).split(".")
        self.assertEqual((disk, mode), (self.disk, "full"))
        self.engine.guest(
            self.disk,
            {"offset": 0, "length": 64 * KIB, "pattern": 5},
            {"offset": 512 * KIB, "length": 128 * KIB, "zero": True},
        )
        now = self.engine.guest_bytes(self.disk)
        incremental = self.run_example("incremental", "--from-checkpoint-uuid", checkpoint)
        self.assertTrue(incremental.endswith(".incremental.qcow2"), incremental)
        self.assertEqual(self.bytes_of(incremental), now)
        self.assertEqual(self.bytes_of(full), at_first)
        self.assertLess(os.stat(incremental).st_blocks * 512, MIB)


if __name__ == "__main__":
    unittest.main()
