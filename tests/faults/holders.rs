//! Mounts that somebody holds: a bind mount, as a container has it, and files that are open after the mount
//! has left the tree. `umount` waits for none of them for ever, and names them.

use crate::rig::{MIB, Rig, errno, pattern, settings};
use crate::support::mount::{is_mounted, rhv_mount, rhv_mount_command};
use crate::support::run::{Ran, is_root, run, scratch};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// Bounds on the `umount` here: its grace is three seconds, and the data takes no time.
const LIMIT_SECONDS: u64 = 60;

/// A bind mount of a rig's directory, detached when dropped.
struct Bind(TempDir);

impl Bind {
    fn of(rig: &Rig) -> Bind {
        let dir = scratch();
        run(
            Command::new("mount")
                .arg("--bind")
                .arg(rig.mount.mountpoint())
                .arg(dir.path()),
            20,
        )
        .ok();
        Bind(dir)
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-l").arg(self.0.path()), 20);
    }
}

fn umount(target: &Path) -> Ran {
    let ran = run(rhv_mount_command(None).arg("umount").arg(target), LIMIT_SECONDS);
    assert!(!ran.timed_out, "{ran}");
    ran
}

#[track_caller]
fn assert_names(ran: &Ran, words: &[&str]) {
    for word in words {
        assert!(ran.stderr.contains(word), "{word} is not named: {ran}");
    }
}

#[test]
fn umount_goes_on_when_only_another_mount_holds_the_file_system() {
    if !is_root() {
        return;
    }
    let rig = Rig::start(settings(8 * MIB), &[]);
    let bind = Bind::of(&rig);
    rig.read_write()
        .write_all_at(&pattern(1, MIB as usize), 0)
        .unwrap();
    let ran = umount(rig.mount.mountpoint());
    assert_eq!(ran.code, Some(0), "{ran}");
    assert_names(&ran, &["cut off", bind.0.path().to_str().unwrap()]);
    assert!(rig.server.read_durable(0..MIB) == pattern(1, MIB as usize));
    assert!(!is_mounted(rig.mount.mountpoint()));
    assert_eq!(
        errno(fs::read(bind.0.path().join("disk")).map(drop)),
        libc::ENOTCONN
    );
    rig.mount.wait_until_ended();
}

#[test]
fn umount_after_a_lazy_unmount_names_who_has_the_file_open_and_ends_when_it_is_closed() {
    if !is_root() {
        return;
    }
    let rig = Rig::start(settings(8 * MIB), &[]);
    let target = rig.mount.mountpoint();
    let file = rig.read_write();
    run(Command::new("umount").arg("-l").arg(target), 20).ok();
    let ran = umount(target);
    assert_eq!(ran.code, Some(6), "{ran}");
    assert_names(&ran, &["open", &format!("process {} ", std::process::id())]);
    // It works on: nothing was cut off.
    file.write_all_at(&pattern(1, MIB as usize), 0).unwrap();
    file.sync_all().unwrap();
    drop(file);
    rig.mount.wait_until_ended();
    assert!(rig.server.read_durable(0..MIB) == pattern(1, MIB as usize));
}

#[test]
fn status_tells_that_a_lazily_unmounted_mount_is_still_in_use_and_by_whom() {
    if !is_root() {
        return;
    }
    let rig = Rig::start(settings(8 * MIB), &[]);
    let target = rig.mount.mountpoint();
    let file = rig.read_write();
    let phase = || {
        let json = rig.mount.status(&["-o", "json"]).ok().stdout;
        let status: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        (status["phase"].clone(), status["holders"].to_string())
    };
    assert_eq!(phase().0, "mounted");
    run(Command::new("umount").arg("-l").arg(target), 20).ok();
    let process = format!("process {} ", std::process::id());
    let (detached, holders) = phase();
    assert_eq!(detached, "detached");
    assert!(holders.contains(&process), "{holders}");
    let shown = rig.mount.status(&[]).ok().stdout;
    for said in ["detached", "it is unmounted", &process] {
        assert!(shown.contains(said), "{said} is not in {shown}");
    }
    drop(file);
    rig.mount.wait_until_ended();
}

#[test]
fn umount_waits_for_nobody_who_has_the_file_open_through_another_mount() {
    if !is_root() {
        return;
    }
    let rig = Rig::start(settings(8 * MIB), &[]);
    let bind = Bind::of(&rig);
    let open = |how: &mut OpenOptions| how.open(bind.0.path().join("disk")).unwrap();
    let file: File = open(OpenOptions::new().write(true));
    let ran = umount(rig.mount.mountpoint());
    assert_eq!(ran.code, Some(6), "{ran}");
    assert_names(
        &ran,
        &[
            "open",
            &format!("process {} ", std::process::id()),
            bind.0.path().to_str().unwrap(),
        ],
    );
    file.write_all_at(&pattern(1, MIB as usize), 0).unwrap();
    drop(file);
    let ran = umount(rig.mount.mountpoint());
    assert_eq!(ran.code, Some(0), "{ran}");
    assert!(rig.server.read_durable(0..MIB) == pattern(1, MIB as usize));
}

#[test]
fn a_refusal_names_who_is_in_the_way() {
    let rig = Rig::start(settings(8 * MIB), &[]);
    let file = rig.read_write();
    let ran = rhv_mount(None, [Path::new("umount"), rig.mount.mountpoint()]);
    assert_eq!(ran.code, Some(6), "{ran}");
    assert_names(&ran, &["in use", &format!("process {} ", std::process::id())]);
    drop(file);
    let mut inside = Command::new("sleep")
        .arg("60")
        .current_dir(rig.mount.mountpoint())
        .spawn()
        .unwrap();
    let ran = rhv_mount(None, [Path::new("umount"), rig.mount.mountpoint()]);
    let pid = inside.id();
    inside.kill().unwrap();
    inside.wait().unwrap();
    assert_eq!(ran.code, Some(6), "{ran}");
    assert_names(&ran, &[&format!("process {pid} (sleep)")]);
    assert_eq!(rig.umount().0.code, Some(0));
}

/// The file system that somebody has mounted over it is not ours to unmount.
#[test]
fn what_is_mounted_over_the_mount_stays() {
    if !is_root() {
        return;
    }
    let rig = Rig::start(settings(8 * MIB), &[]);
    let point = rig.mount.mountpoint().to_path_buf();
    let over = |words: &[&str]| run(Command::new(words[0]).args(&words[1..]).arg(&point), 20).ok();
    over(&["mount", "-t", "tmpfs", "over"]);
    fs::write(point.join("theirs"), "theirs").unwrap();
    let ran = umount(&point);
    assert_eq!(ran.code, Some(6), "{ran}");
    assert_names(&ran, &["another file system is mounted over it"]);
    assert_eq!(fs::read(point.join("theirs")).unwrap(), b"theirs", "{ran}");
    over(&["umount"]);
    rig.umount().0.ok();
    assert!(!is_mounted(&point));
}
