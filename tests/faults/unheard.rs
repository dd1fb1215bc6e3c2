//! Bad outcomes that nobody heard when the mount ended: they are kept until somebody hears them.

use crate::endings::{open, slow_server};
use crate::rig::{MIB, errno, pattern};
use crate::server::{Action, Fault, Verb};
use crate::support::mount::{processes_with, rhv_mount, rhv_mount_command};
use crate::support::run::{run, scratch, wait_until};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A plain umount hears nothing. The next mount on the path tells it, status lists it, and the next
/// `rhv-mount umount` tells it for the last time.
#[test]
fn a_bad_end_that_nobody_heard_is_told_until_somebody_has_heard_it() {
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let path = target.as_path();
    let patience = ["--retry-time", "1"].map(Path::new);
    let told = "an earlier mount here ended badly";
    for times in 1..3 {
        let server = slow_server();
        let first = rhv_mount(Some(&server.url()), [&patience[..], &[path]].concat()).ok();
        assert_eq!(first.stderr.contains(told), times > 1, "{first}");
        let file = open(&target);
        file.write_all_at(&pattern(1, MIB as usize), 0).unwrap();
        wait_until("a write is on the server", 60, || server.count(Verb::Put) > 0);
        drop(server);
        assert_eq!(errno(file.sync_all()), libc::EIO);
        drop(file);
        // A process that another test forks may hold the file for a moment.
        wait_until("a plain umount succeeds", 60, || {
            run(Command::new("umount").arg(&target), 20).success()
        });
        wait_until("the mount has ended", 60, || {
            processes_with(path.as_os_str()).is_empty()
        });
    }
    let status = rhv_mount(None, [Path::new("status"), path]).ok();
    assert!(status.stdout.contains("phase        failed\n"), "{status}");
    assert!(status.stdout.contains(told), "{status}");

    let server = slow_server();
    let next = rhv_mount(Some(&server.url()), [path]).ok();
    assert!(
        next.stderr.contains(told) && next.stderr.contains("data may be lost"),
        "{next}"
    );
    let status = rhv_mount(None, [Path::new("status"), path]).ok();
    assert!(status.stdout.contains("phase        mounted"), "{status}");
    assert!(status.stdout.contains(told), "{status}");
    fs::write(&target, b"new").unwrap();
    let ended = rhv_mount(None, [Path::new("umount"), path]);
    assert_eq!(ended.code, Some(0), "this mount has ended well: {ended}");
    assert_eq!(ended.stderr.matches(told).count(), 2, "{ended}");
    assert_eq!(server.read_durable(0..3), b"new");

    let again = rhv_mount(Some(&server.url()), [path]).ok();
    assert_eq!(again.stderr, "", "it was told: {again}");
    assert_eq!(rhv_mount(None, [Path::new("umount"), path]).ok().stderr, "");
}

/// The outcome goes to a `rhv-mount umount` that was killed meanwhile.
#[test]
fn an_outcome_whose_waiter_is_gone_is_kept() {
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let server = slow_server();
    let patience = ["--retry-time", "1"].map(Path::new);
    rhv_mount(Some(&server.url()), [&patience[..], &[&target]].concat()).ok();
    open(&target).write_all_at(&pattern(1, MIB as usize), 0).unwrap();
    server.arm(Fault::always(Verb::Flush, Action::Stall(Duration::from_secs(30))));
    let mut waiter = rhv_mount_command(None)
        .arg("umount")
        .arg(&target)
        .spawn()
        .unwrap();
    wait_until("the last flush is asked for", 60, || {
        server.count(Verb::Flush) > 0
    });
    waiter.kill().unwrap();
    waiter.wait().unwrap();
    drop(server);
    wait_until("the mount has ended", 60, || {
        processes_with(target.as_os_str()).is_empty()
    });
    let next = rhv_mount(None, [Path::new("umount"), &target]);
    assert_eq!(next.code, Some(7), "{next}");
    let after = rhv_mount(None, [Path::new("umount"), &target]);
    assert_eq!(after.code, Some(6), "it was told: {after}");
}
