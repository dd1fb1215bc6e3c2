//! `--pid-file`: there from ready to the end, with the number of the process that serves.

use crate::rig::{MIB, settings};
use crate::server::{Action, Fault, Server, Verb};
use crate::support::mount::{Mounting, rhv_mount};
use crate::support::run::{scratch, text, wait_until};
use std::fs;
use std::path::Path;

const USAGE: i32 = 2;

#[test]
fn a_pid_file_lives_as_long_as_its_mount_and_a_stale_one_is_replaced() {
    let server = Server::start(settings(4 * MIB));
    let dir = scratch();
    let path = dir.path().join("mount.pid");
    fs::write(&path, "4194304\n").unwrap();
    let mounting = || Mounting::new(&server.url()).arg("--pid-file").arg(&path);
    let mount = mounting().start();
    let pid = mount.server().to_string();
    assert_eq!(text(&path), format!("{pid}\n"));
    let second = mounting().try_start().expect_err("the file is taken");
    assert_eq!(second.code, Some(USAGE), "{second}");
    assert!(
        second.stderr.contains(&pid) && second.stderr.contains("--pid-file"),
        "{second}"
    );
    assert_eq!(text(&path), format!("{pid}\n"));
    mount.umount().ok();
    assert!(!path.exists(), "it outlives the mount");
    let killed = mounting().start();
    killed.kill();
    assert!(path.exists());
    let after = mounting().start();
    assert_eq!(text(&path), format!("{}\n", after.server()));
    after.umount().ok();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "something is left");
    drop(killed);
}

/// A script that waits for the file may use the mount as soon as it is there.
#[test]
fn a_pid_file_is_not_there_before_the_mount_is_and_has_the_parent_of_a_command() {
    let server = Server::start(settings(4 * MIB));
    server.arm(Fault::next(Verb::Options, Action::Hold));
    let dir = scratch();
    let (path, target) = (dir.path().join("mount.pid"), dir.path().join("disk.raw"));
    let script = format!("echo $PPID; cat '{}'", path.display());
    let url = server.url();
    let ran = std::thread::scope(|scope| {
        let mounting = scope.spawn(|| {
            let words = ["--", "sh", "-c", &script].map(Path::new);
            let options = [Path::new("--pid-file"), &path, &target];
            rhv_mount(Some(&url), [&options[..], &words].concat())
        });
        wait_until("it connects", 40, || server.count(Verb::Options) > 0);
        assert!(!path.exists(), "it is there too early");
        server.disarm();
        mounting.join().unwrap()
    })
    .ok();
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(lines.len() == 2 && lines[0] == lines[1], "{ran}");
    assert!(!path.exists());
}

#[test]
fn a_file_that_is_no_pid_file_is_refused_and_stays() {
    let server = Server::start(settings(MIB));
    let dir = scratch();
    let path = dir.path().join("notes");
    fs::write(&path, "buy milk\n").unwrap();
    let target = dir.path().join("disk.raw");
    let missing = dir.path().join("missing/pid");
    for (path, word) in [(&path, "no PID file"), (&missing, "No such file")] {
        let args = [Path::new("--pid-file"), path, &target];
        let ran = rhv_mount(Some(&server.url()), args);
        assert_eq!(ran.code, Some(USAGE), "{ran}");
        assert!(ran.stderr.contains(word), "{ran}");
        assert!(!target.exists(), "{ran}");
    }
    assert_eq!(text(&path), "buy milk\n");
}
