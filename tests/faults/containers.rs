//! A mount that runs in another PID namespace than `status` and `umount`, as in another container: its number
//! there is a stranger's here, so nobody is told to kill it.

use crate::rig::{MIB, Rig, settings};
use crate::support::mount::{APART, BINARY, clean_environment, rhv_mount};
use crate::support::run::{Ran, is_root, run, stop};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::process::Command;

const MOUNT_FAILED: i32 = 6;
const DATA_MAY_BE_LOST: i32 = 7;

/// Runs `rhv-mount WORDS TARGET` in a PID namespace of its own, where no process of this one is seen.
fn elsewhere(words: &[&str], target: &Path) -> Ran {
    let mut unshare = Command::new("unshare");
    clean_environment(&mut unshare);
    unshare.args(["--pid", "--fork", "--mount-proc", "--", APART, BINARY]);
    run(unshare.args(words).arg(target), 90)
}

#[track_caller]
fn assert_names_no_process(ran: &Ran) {
    let said = ran.stdout.clone() + &ran.stderr;
    assert!(said.contains("another container"), "{ran}");
    assert!(!said.contains("`kill"), "{ran}");
    let mut after = said.split("process ").skip(1);
    assert!(
        !after.any(|word| word.starts_with(|c: char| c.is_ascii_digit())),
        "{ran}"
    );
}

#[test]
fn what_ends_a_mount_in_use_is_no_kill_of_a_stranger() {
    if !is_root() {
        return;
    }
    let rig = Rig::start(settings(MIB), &[]);
    let target = rig.mount.mountpoint();
    let file = rig.read_write();
    run(Command::new("umount").arg("-l").arg(target), 20).ok();
    // Here, the number is the process's.
    let pid = rig.mount.server();
    let line = format!("`kill {pid}` ends it all the same");
    let said = rig.mount.status(&[]).ok().stdout;
    assert!(
        said.contains(&line) && said.contains(&format!("process {pid},")),
        "{said}"
    );
    let ran = rhv_mount(None, [Path::new("umount"), target]);
    assert_eq!(ran.code, Some(MOUNT_FAILED), "{ran}");
    assert!(ran.stderr.contains(&line), "{ran}");
    let status = elsewhere(&["status"], target).ok();
    assert!(status.stdout.contains("SIGTERM"), "{status}");
    assert_names_no_process(&status);
    let umount = elsewhere(&["umount"], target);
    assert_eq!(umount.code, Some(MOUNT_FAILED), "{umount}");
    assert!(umount.stderr.contains("SIGTERM"), "{umount}");
    assert_names_no_process(&umount);
    let json = elsewhere(&["status", "-o", "json"], target).ok().stdout;
    let status: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    // A program may pass it on to kill(2), for which 0 is a group of processes.
    assert_eq!(status.get("pid"), None, "{json}");
    drop(file);
    rig.mount.wait_until_ended();
}

#[test]
fn a_stopped_process_of_another_container_is_not_called_by_a_number() {
    if !is_root() {
        return;
    }
    let rig = Rig::start(settings(MIB), &[]);
    let target = rig.mount.mountpoint();
    let process = Pid::from_raw(rig.mount.server());
    stop(process.as_raw());
    let (status, umount) = std::thread::scope(|scope| {
        let status = scope.spawn(|| elsewhere(&["status"], target));
        let umount = elsewhere(&["umount"], target);
        (status.join().expect("status"), umount)
    });
    kill(process, Signal::SIGCONT).expect("let the mount go on");
    assert!(status.stdout.contains("silent"), "{status}");
    assert_names_no_process(&status);
    assert_eq!(umount.code, Some(DATA_MAY_BE_LOST), "{umount}");
    assert_names_no_process(&umount);
    rig.mount.wait_until_ended();
}
