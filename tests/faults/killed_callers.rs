//! Programs that are killed while they wait for a server that does not answer: they are gone at once, and
//! what was not accepted of them changes nothing afterwards.

use crate::rig::{MIB, Rig, assert_same, pattern, read_at, settings, used_server};
use crate::server::{Action, Fault, Image, Verb};
use crate::support::run::{start, wait_until};
use std::fs;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};

const SIZE: u64 = 256 * MIB;

/// A program at work, killed when dropped.
struct Program(Child);

impl Program {
    /// Runs a shell script with the disk's file as `$1`.
    fn start(rig: &Rig, script: &str) -> Program {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &format!("exec {script}"), "sh"])
            .arg(rig.mount.file())
            .stderr(Stdio::null());
        Program(start(&mut shell))
    }

    /// Returns how many bytes it has written so far.
    fn written(&self) -> u64 {
        let io = fs::read_to_string(format!("/proc/{}/io", self.0.id())).unwrap();
        let written = io.lines().find_map(|line| line.strip_prefix("wchar: "));
        written.unwrap().parse().unwrap()
    }

    /// Tells whether it has this name now, and waits for something.
    fn waits_as(&self, name: &str) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        [" S ", " D "]
            .iter()
            .any(|state| stat.contains(&format!("({name}){state}")))
    }

    /// Sends SIGKILL, and waits until the program has ended.
    fn kill(mut self) {
        self.0.kill().unwrap();
        wait_until("the killed program is gone", 30, || {
            self.0.try_wait().unwrap().is_some()
        });
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

fn rig() -> Rig {
    Rig::over(used_server(settings(SIZE)), &["--timeout=600"])
}

/// Starts `script`, whose request of this kind gets no answer, kills it, and checks that it is gone although
/// the server is still silent.
fn kill_while_it_waits(rig: &Rig, verb: Verb, script: &str) {
    rig.server.arm(Fault::always(verb, Action::Hold));
    let program = Program::start(rig, script);
    wait_until("the server has its request", 30, || rig.server.faults_fired() > 0);
    program.kill();
    assert!(rig.server.requests_running() > 0, "{script}: it was answered");
    rig.server.disarm();
}

#[test]
fn a_killed_reader_is_gone_and_the_next_one_reads() {
    let rig = rig();
    kill_while_it_waits(
        &rig,
        Verb::Get,
        "dd if=\"$1\" of=/dev/null bs=1M iflag=direct skip=8",
    );
    let image = rig.server.visible();
    let bytes = read_at(&rig.read_write(), 0..16 * MIB).unwrap();
    assert!(bytes == image.read(0..16 * MIB));
    rig.umount_expecting(&image);
}

#[test]
fn a_program_that_is_killed_in_an_fsync_is_gone_and_its_bytes_arrive() {
    let rig = rig();
    let mut model = rig.server.visible();
    kill_while_it_waits(
        &rig,
        Verb::Flush,
        "dd if=/dev/zero of=\"$1\" bs=1M count=8 conv=fsync,notrunc",
    );
    model.zero(0..8 * MIB);
    rig.umount_expecting(&model);
}

/// The write is accepted, and waits for its flush only.
#[test]
fn a_program_that_is_killed_in_a_synchronous_write_is_gone_and_its_bytes_arrive() {
    let rig = rig();
    let mut model = rig.server.visible();
    kill_while_it_waits(
        &rig,
        Verb::Flush,
        "dd if=/dev/zero of=\"$1\" bs=1M count=1 oflag=sync conv=notrunc",
    );
    model.zero(0..MIB);
    rig.umount_expecting(&model);
}

/// Without the extents all of the disk would be zeroed.
#[test]
fn a_program_that_is_killed_in_a_truncate_is_gone_and_changes_nothing() {
    let server = used_server(settings(SIZE));
    server.arm(Fault::always(Verb::Extents, Action::Hold));
    let rig = Rig::over(server, &["--timeout=600"]);
    let model = rig.server.visible();
    let program = Program::start(&rig, "truncate -s 4096 \"$1\"");
    let mut waits = 0;
    wait_until("it waits in its truncate", 30, || {
        waits = if program.waits_as("truncate") {
            waits + 1
        } else {
            0
        };
        waits > 20
    });
    program.kill();
    rig.server.disarm();
    rig.umount_expecting(&model);
}

/// The close of a process that ends waits, too.
#[test]
fn a_program_that_is_killed_while_it_closes_is_gone_and_its_bytes_arrive() {
    let rig = rig();
    let mut model = rig.server.visible();
    kill_while_it_waits(
        &rig,
        Verb::Put,
        "sh -c 'exec 3<>\"$1\"; printf hello >&3; exec sleep 600' sh \"$1\"",
    );
    model.write(0, b"hello");
    rig.umount_expecting(&model);
}

/// Its last write has no room yet. Accepted after the kill, it would overwrite what is written next.
#[test]
fn a_killed_writer_changes_nothing_later() {
    let rig = rig();
    rig.server.arm(Fault::always(Verb::Put, Action::Hold));
    let program = Program::start(&rig, "dd if=/dev/urandom of=\"$1\" bs=1M count=200 conv=notrunc");
    let (mut seen, mut same) = (0, 0);
    wait_until("its next write waits for room", 60, || {
        let written = program.written();
        same = if written == seen && written > 0 {
            same + 1
        } else {
            0
        };
        seen = written;
        same > 20
    });
    program.kill();
    assert!(rig.server.requests_running() > 0);
    rig.server.disarm();
    let bytes = pattern(3, 200 * MIB as usize);
    let file = rig.read_write();
    file.write_all_at(&bytes, 0).unwrap();
    file.sync_all().unwrap();
    let mut model = Image::new(SIZE);
    model.write(0, &bytes);
    model.write(200 * MIB, &pattern(9, SIZE as usize)[200 * MIB as usize..]);
    assert_same("after the next writer", &rig.server.durable(), &model);
    drop(file);
    rig.umount_expecting(&model);
}
