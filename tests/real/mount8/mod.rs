//! mount(8), umount(8) and lines of fstab: the real programs of util-linux and libfuse call the built
//! program, with an empty environment as at boot.
//!
//! mount(8) looks for its helpers in /sbin only. The tests here put links there under names of their own,
//! which nobody else uses; `installed` has those about the names that a package installs.

mod installed;
mod options;
mod rig;

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rig::{Helpers, Point, assert_free, engine, login, source};

use crate::support::engine::{PASSWORD, state_directory};
use crate::support::mount::{is_mounted, processes_with};
use crate::support::redaction::assert_shows_none;
use crate::support::run::{Ran, is_root, run, scratch, sh};

/// Exit codes of mount(8).
const INCORRECT_INVOCATION: i32 = 1;
const MOUNT_FAILURE: i32 = 32;

/// A command with an empty environment.
fn bare(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    command
}

fn mount8<const N: usize>(args: [&str; N]) -> Ran {
    run(bare("/usr/bin/mount").args(args), 60)
}

fn umount8(point: &Point) -> Ran {
    run(bare("/usr/bin/umount").arg(&point.0), 120)
}

fn copy(source: &Path, target: &Path) {
    sh(r#"cat "$1" > "$2""#, [source, target], 60).ok();
}

#[test]
fn a_line_of_fstab_mounts_and_a_plain_umount_waits_until_the_disk_is_free() {
    if !is_root() {
        return;
    }
    let (engine, helpers, dir) = (engine(), Helpers::new(), scratch());
    let point = Point::new(dir.path());
    let options = format!(
        "_netdev,nofail,noauto,user,x-systemd.automount,x-systemd.mount-timeout=15min,relatime,helper={},{}",
        helpers.0,
        login(&engine)
    );
    let fstab = dir.path().join("fstab");
    let line = format!("web01 {} {} {options} 0 0\n", point.shown(), helpers.0);
    fs::write(&fstab, &line).expect("write fstab");
    let ran = mount8(["-T", fstab.to_str().expect("UTF-8"), point.shown()]).ok();
    assert_shows_none(&ran, &[PASSWORD]);
    assert_eq!(point.findmnt("SOURCE,FSTYPE"), "web01 fuse.rhv-mount");
    let df = run(Command::new("df").arg("--output=source").arg(&point.0), 20)
        .ok()
        .stdout;
    assert!(df.lines().any(|line| line == "web01"), "{df}");
    // mount(8) knows it again by its source, and does not mount it twice.
    fs::write(&fstab, line.replace("noauto,", "")).expect("write fstab");
    mount8(["-T", fstab.to_str().expect("UTF-8"), "-a"]).ok();
    let source = source(dir.path());
    copy(&source, &point.disk());
    umount8(&point).ok();
    assert_free(&engine, &source);
    assert!(!is_mounted(&point.0));
    point.await_end();
    point.assert_no_line_left();
}

#[test]
fn a_plain_umount_fails_where_data_is_lost_and_says_so() {
    if !is_root() {
        return;
    }
    let (engine, helpers, dir) = (engine(), Helpers::new(), scratch());
    let point = Point::new(dir.path());
    let options = format!("retry_time=0,helper={},{}", helpers.0, login(&engine));
    mount8(["-t", &helpers.0, "-o", &options, "web01", point.shown()]).ok();
    let source = source(dir.path());
    copy(&source, &point.disk());
    engine.kill_storage();
    let ran = umount8(&point);
    assert_eq!(ran.code, Some(MOUNT_FAILURE), "{ran}");
    assert!(ran.stderr.contains("data may be lost"), "{ran}");
    assert_shows_none(&ran, &[PASSWORD]);
    assert!(!is_mounted(&point.0));
    point.await_end();
    point.assert_no_line_left();
    let kept = engine.state_files();
    assert!(
        !kept.is_empty(),
        "nothing in {} for recover",
        state_directory().display()
    );
}

#[test]
fn umount_l_leaves_the_tree_at_once_and_waits_for_nobody_who_has_the_file_open() {
    if !is_root() {
        return;
    }
    let (engine, helpers, dir) = (engine(), Helpers::new(), scratch());
    let point = Point::new(dir.path());
    let options = format!("helper={},{}", helpers.0, login(&engine));
    mount8(["-t", &helpers.0, "-o", &options, "web01", point.shown()]).ok();
    let source = source(dir.path());
    copy(&source, &point.disk());
    let open = fs::File::open(point.disk()).expect("open the disk");
    let ran = run(bare("/usr/bin/umount").arg("-l").arg(&point.0), 60).ok();
    assert!(ran.stderr.contains("has the file open"), "{ran}");
    assert!(!is_mounted(&point.0));
    drop(open);
    point.await_end();
    assert_free(&engine, &source);
}

/// `umount -l` is the usual remedy. It takes the dead mount out of the tree before anybody can look at it.
#[test]
fn umount_l_and_f_of_a_dead_mount_say_that_data_may_be_lost() {
    if !is_root() {
        return;
    }
    for flag in ["-l", "-f"] {
        let (engine, helpers, dir) = (engine(), Helpers::new(), scratch());
        let point = Point::new(dir.path());
        let options = format!("helper={},{}", helpers.0, login(&engine));
        mount8(["-t", &helpers.0, "-o", &options, "web01", point.shown()]).ok();
        copy(&source(dir.path()), &point.disk());
        for pid in processes_with(point.0.as_os_str()) {
            kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill the mount");
        }
        point.await_end();
        let mut umount = bare(&format!("/sbin/umount.{}", helpers.0));
        let ran = run(umount.arg(flag).arg(&point.0), 60);
        assert_eq!(ran.code, Some(MOUNT_FAILURE), "{ran}");
        assert!(ran.stderr.contains("may be lost"), "{ran}");
        assert!(ran.stderr.contains("rhv-mount recover"), "{ran}");
        assert!(!is_mounted(&point.0));
    }
}

#[test]
fn the_helper_answers_mount_with_the_codes_that_it_knows() {
    if !is_root() {
        return;
    }
    let (helpers, dir) = (Helpers::new(), scratch());
    let point = Point::new(dir.path());
    let url = dir.path().join("url");
    fs::write(&url, "http://127.0.0.1:1/images/t").expect("write the URL");
    let nowhere = format!("retry_time=0,transfer_url_file={}", url.display());
    let mount = |flags: &[&str], options: &str| {
        let mut command = bare("/usr/bin/mount");
        command
            .args(flags)
            .args(["-t", &helpers.0, "-o", options, "none", point.shown()]);
        run(&mut command, 60)
    };
    let strange = format!("frobnicate,{nowhere}");
    for (flags, options, code, words) in [
        (&[][..], nowhere.as_str(), MOUNT_FAILURE, "127.0.0.1"),
        (&["-f"], &nowhere, 0, ""),
        (&[], &strange, INCORRECT_INVOCATION, "frobnicate"),
        (&["-f"], &strange, INCORRECT_INVOCATION, "frobnicate"),
        (&["-s", "-f", "-v", "-n"], &strange, 0, ""),
        (&["-s"], &strange, MOUNT_FAILURE, "127.0.0.1"),
        (
            &[],
            "disk=x,engine_url=https://127.0.0.1:1",
            INCORRECT_INVOCATION,
            "user name",
        ),
    ] {
        let ran = mount(flags, options);
        assert_eq!(ran.code, Some(code), "{flags:?}: {ran}");
        assert!(ran.stderr.contains(words), "{flags:?}: {ran}");
        assert!(!is_mounted(&point.0), "{flags:?}: {ran}");
    }
}
