//! `--vm` with disks that fail: the others go on, and the failure is told.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::existing::{expected, write_and_sync};
use crate::rig::{ENGINE_FAILED, assert_free, assert_nothing_deleted, assert_told};
use crate::support::content::MIB;
use crate::support::engine::Engine;
use crate::support::foreground::Foreground;
use crate::support::run::{sh, wait_until};
use crate::vm_mounts::{directory, files, of_file, over, status, vm, web};
use crate::vm_writing::read_write;

/// Programs that wait for one disk at the same time: more than the file system has threads.
const READERS: usize = 24;

/// The errno of opening a file.
fn errno(path: &Path) -> Option<i32> {
    fs::File::open(path).err().and_then(|e| e.raw_os_error())
}

#[test]
fn a_disk_that_cannot_be_opened_gives_eio_and_the_others_are_there() {
    let engine = Engine::start();
    let disks = web(&engine);
    for (switch, words) in [
        (
            json!({"switch": "transfer_fault", "match": "web_Disk2"}),
            "no host",
        ),
        (
            json!({"switch": "paused_before_data", "match": "web_Disk2"}),
            "paused_system",
        ),
    ] {
        engine.switch(&switch);
        let mount = engine.mounting(vm("web")).start();
        let point = mount.mountpoint();
        let said = mount.stderr();
        let is_told = |line: &str| line.contains("WARNING") && line.contains(&disks[1].0.id);
        assert!(said.lines().any(is_told), "{said}");
        assert_eq!(files(point).len(), 2);
        assert_eq!(errno(&point.join("web_Disk2")), Some(libc::EIO));
        assert!(!sh(r#"truncate -s 0 "$1""#, [point.join("web_Disk2")], 20).success());
        sh(r#"cmp "$1" "$2""#, [&point.join("web_Disk1"), &disks[0].1], 60).ok();
        let told = status(&engine, point);
        let why = of_file(&told, "web_Disk2")["failure"]
            .as_str()
            .unwrap_or_default();
        assert!(
            why.contains("could not be opened") && why.contains(words),
            "{told}"
        );
        assert!(of_file(&told, "web_Disk1")["failure"].is_null(), "{told}");
        assert!(
            told["failure"]
                .as_str()
                .is_some_and(|all| all.contains("web_Disk2")),
            "{told}"
        );
        engine.clear_switches();
        let ran = mount.umount();
        assert_told(
            &ran,
            &[ENGINE_FAILED],
            &["web_Disk2", &disks[1].0.id, "could not be opened"],
        );
        assert!(!ran.stderr.contains(&disks[0].0.id), "{ran}");
    }
    engine.change_disk(&disks[1].0.id, &json!({"status": "illegal"}));
    let ran = over(&engine, &vm("web"), "cat {}/web_Disk1 >/dev/null");
    assert_told(&ran, &[ENGINE_FAILED], &["web_Disk2", "illegal"]);
    assert_free(&engine, &disks[0].0.id, &disks[0].1);
    assert_nothing_deleted(&engine);
    assert!(engine.state_files().is_empty());
    assert_eq!(engine.sessions(), 0, "a session is left open");
}

#[test]
fn where_no_disk_can_be_opened_nothing_is_mounted_and_nothing_is_left() {
    let engine = Engine::start();
    let disks = web(&engine);
    engine.switch(&json!({"switch": "transfer_fault"}));
    let ran = engine.mounting(vm("web")).try_start().expect_err("no disk");
    assert_told(
        &ran,
        &[ENGINE_FAILED],
        &["no disk of VM web", "could be opened", &disks[0].0.id],
    );
    assert!(engine.state_files().is_empty());
    assert_eq!(engine.sessions(), 0, "a session is left open");
}

/// One of the disks gets its ticket late, so that the other one is open by then.
#[test]
fn a_signal_while_the_disks_are_opened_ends_all_that_was_begun() {
    let engine = Engine::start();
    let disks = web(&engine);
    for args in [vm("web"), read_write("web")] {
        engine.switch(&json!({"switch": "stay_initializing", "value": 20, "match": "web_Disk1"}));
        let before = engine.transfers().len();
        let point = directory(&engine, "point");
        let mut program = engine.program();
        program
            .args(engine.args())
            .args(&args)
            .arg("--foreground")
            .arg(&point);
        let mut mount = Foreground::spawn(&mut program);
        let serving = |phase: &str| {
            let all = engine.transfers();
            all.iter().skip(before).filter(|one| one.phase == phase).count() == 1
        };
        wait_until("one disk is open and the other one waits", 60, || {
            serving("transferring") && serving("initializing")
        });
        engine.clear_switches();
        mount.signal(Signal::SIGTERM);
        let status = mount.wait(120);
        assert_eq!(status.code(), Some(1), "{}", mount.stderr());
        let said = mount.stderr();
        assert!(said.contains("interrupted"), "{said}");
        wait_until("all transfers have ended", 60, || {
            engine
                .transfers()
                .iter()
                .all(|one| one.phase.starts_with("finished"))
        });
        assert!(engine.state_files().is_empty(), "{said}");
        assert_eq!(files(&point).len(), 0);
    }
    for (disk, content) in &disks {
        assert_free(&engine, &disk.id, content);
    }
    assert_nothing_deleted(&engine);
    assert_eq!(engine.sessions(), 0, "a session is left open");
}

/// The storage of one disk answers nothing, for as long as it is waited for here.
#[test]
fn a_disk_whose_storage_hangs_holds_up_no_other_disk() {
    let engine = Engine::start();
    let disks = web(&engine);
    let mount = engine.mounting(read_write("web")).start();
    let point = mount.mountpoint();
    let told = status(&engine, point);
    let transfer = of_file(&told, "web_Disk2")["transfer"]
        .as_str()
        .expect("a transfer");
    let stalled = engine.stall_storage_of(transfer);
    let mut readers: Vec<_> = (0..READERS)
        .map(|n| {
            let mut dd = Command::new("dd");
            dd.arg(format!("if={}", point.join("web_Disk2").display()));
            dd.args(["of=/dev/null", "bs=64K", "count=1", "status=none"]);
            dd.arg(format!("skip={n}")).spawn().expect("start a reader")
        })
        .collect();
    let taken = || mount.log().matches("ino 0x0000000000000003 READ").count();
    wait_until("all readers wait for the disk", 60, || taken() == READERS);
    sh(r#"cmp "$1" "$2""#, [&point.join("web_Disk1"), &disks[0].1], 60).ok();
    write_and_sync(&point.join("web_Disk1"), MIB, MIB, 3);
    assert!(
        readers
            .iter_mut()
            .all(|reader| reader.try_wait().expect("look").is_none())
    );
    drop(stalled);
    for reader in &mut readers {
        assert!(reader.wait().expect("wait for a reader").success());
    }
    mount.umount().ok();
    assert_free(&engine, &disks[0].0.id, &expected(&disks[0].1, MIB, MIB, 3));
    assert_free(&engine, &disks[1].0.id, &disks[1].1);
}
