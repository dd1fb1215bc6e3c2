//! `rhv-mount status` where the process of a mount does not answer, or is at its end: an operator sees which
//! mount that is, and what it waits for.

use crate::rig::{MIB, Rig, settings};
use crate::server::{Action, Fault, Verb};
use crate::support::foreground::Foreground;
use crate::support::mount::{is_mounted, rhv_mount, rhv_mount_command};
use crate::support::run::{Ran, run, stop, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// `status -o json` with `path`, where there is one.
fn status(path: Option<&Path>) -> Ran {
    let mut program = rhv_mount_command(None);
    run(program.args(["status", "-o", "json"]).args(path), 120).ok()
}

/// Parses the object that is told of `path`.
fn one(path: &Path) -> Value {
    let told = status(Some(path));
    serde_json::from_str(&told.stdout).unwrap_or_else(|e| panic!("{e}: {told}"))
}

/// Lets a stopped process go on, also after a failed assertion.
struct Stopped(Pid);

impl Stopped {
    fn process(pid: i32) -> Stopped {
        stop(pid);
        Stopped(Pid::from_raw(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

#[test]
fn silent_mounts_and_one_that_answers_are_told_in_the_order_in_which_they_were() {
    let rigs = [(); 3].map(|()| Rig::start(settings(MIB), &[]));
    let points: Vec<String> = rigs
        .iter()
        .map(|rig| rig.mount.mountpoint().display().to_string())
        .collect();
    // There may be other mounts on this machine.
    let ours = || -> Vec<(String, String)> {
        let all: Vec<Value> = serde_json::from_str(&status(None).stdout).expect("a list");
        let text = |one: &Value, name: &str| one[name].as_str().unwrap_or_default().to_owned();
        let told = all
            .iter()
            .map(|one| (text(one, "mountpoint"), text(one, "phase")));
        told.filter(|(point, _)| points.contains(point)).collect()
    };
    let before = ours();
    assert!(before.iter().all(|(_, phase)| phase == "mounted"), "{before:?}");
    let stopped = [0, 2].map(|n: usize| Stopped::process(rigs[n].mount.server()));
    let phase = |point: &String| match *point == points[1] {
        true => "mounted",
        false => "silent",
    };
    let expected: Vec<(String, String)> = before
        .iter()
        .map(|(point, _)| (point.clone(), phase(point).to_owned()))
        .collect();
    assert_eq!(ours(), expected);
    drop(stopped);
    rigs.into_iter().for_each(|rig| drop(rig.umount().0.ok()));
}

#[test]
fn a_silent_mount_on_a_directory_is_found_by_its_file_too() {
    let rig = Rig::start(settings(MIB), &[]);
    let stopped = Stopped::process(rig.mount.server());
    let (file, point) = (rig.mount.file(), rig.mount.mountpoint().to_path_buf());
    for path in [&file, &point] {
        let told = one(path);
        assert_eq!(told["phase"], "silent", "{told}");
        assert_eq!(told["file"], file.display().to_string(), "{told}");
        assert_eq!(told["mountpoint"], point.display().to_string(), "{told}");
    }
    let none = rhv_mount(None, [Path::new("status"), &point.join("other")]);
    assert_eq!(none.code, Some(6), "{none}");
    drop(stopped);
    rig.umount().0.ok();
}

/// A program writes 1 MiB and keeps the file open. It is not this one: each program that this one starts
/// would close its copy of the file first, and wait in that for the server.
fn write_and_stay(file: &Path) -> Foreground {
    let script = "import os, sys, time\n\
                  fd = os.open(sys.argv[1], os.O_RDWR)\n\
                  os.pwrite(fd, b'7' * 1048576, 0)\n\
                  time.sleep(600)\n";
    Foreground::spawn(Command::new("python3").args(["-c", script]).arg(file))
}

#[test]
fn a_mount_that_waits_for_its_last_bytes_is_told_as_ending_and_as_silent_once_it_is_stopped() {
    let rig = Rig::start(settings(4 * MIB), &[]);
    let (point, pid) = (rig.mount.mountpoint().to_path_buf(), rig.mount.server());
    rig.server.arm(Fault::always(Verb::Put, Action::Hold));
    let writer = write_and_stay(&rig.mount.file());
    wait_until("a write is held", 60, || rig.server.count(Verb::Put) > 0);
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    wait_until("the mount is told as ending", 60, || {
        one(&point)["phase"] == "ending"
    });
    let told = one(&point);
    assert_eq!(told["pid"], pid, "{told}");
    assert!(!is_mounted(&point), "{told}");
    assert!(told["bytes_unflushed"].as_u64() > Some(0), "{told}");
    let text = rhv_mount(None, [Path::new("status"), &point]).ok();
    assert!(text.stdout.contains("1.00 MiB not flushed"), "{text}");
    let stopped = Stopped::process(pid);
    let told = one(&point);
    assert_eq!(told["phase"], "silent", "{told}");
    let why = told["failure"].as_str().unwrap_or_default();
    assert!(why.contains(&format!("kill -CONT {pid}")), "{told}");
    drop(stopped);
    rig.server.disarm();
    drop(writer);
    rig.mount.wait_until_ended();
    assert!(rig.server.read_durable(0..MIB).iter().all(|byte| *byte == b'7'));
}
