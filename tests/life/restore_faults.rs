//! Faults in the middle of a `restore`: no VM without all of its disks, no disk with other bytes, and nothing
//! locked or half made left behind.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::backups::{back_up, dir, entry, manifests};
use crate::recovering::recover;
use crate::restoring::{assert_free, assert_restored, backed_up, command, disks_of, has_vm, restore};
use crate::rig::{DATA_MAY_BE_LOST, ENGINE_FAILED, LIMIT, assert_told};
use crate::support::engine::{DiskState, Engine};
use crate::support::foreground::Foreground;
use crate::support::run::wait_until;

/// Changes a byte of the guest's in the file of a disk.
fn damage(engine: &Engine, disk: &str) {
    let manifest = &manifests(engine)[0];
    let path = dir(engine).join(entry(manifest, disk)["file"].as_str().expect("a file"));
    let mut bytes = fs::read(&path).expect("the file");
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("change a byte");
}

#[test]
fn a_file_that_has_changed_makes_no_disk_and_no_vm() {
    let (from, disks) = backed_up();
    let to = Engine::start();
    damage(&from, &disks[0].0.id);
    let ran = restore(&to, &from, &[]);
    let whole = format!("disk {} (data)", disks[1].0.id);
    let words = [
        "(root) is not restored",
        "does not hold what was backed up",
        "a file of it has changed since",
        "backup --check",
        "VM web is not made",
        whole.as_str(),
    ];
    assert_told(&ran, &[DATA_MAY_BE_LOST], &words);
    assert!(
        !has_vm(&to, "web") && to.requests("POST", "/vms").is_empty(),
        "{ran}"
    );
    assert!(to.disk(&disks[0].0.id).is_none(), "the disk is there: {ran}");
    let kept = to.disk(&disks[1].0.id).expect("what is whole is kept");
    to.compare(&kept, &disks[1].1).unwrap();
    assert_free(&to, &ran);
    // It can be kept for a look at it.
    let to = Engine::start();
    let ran = restore(&to, &from, &["--keep-on-failure"]);
    let kept = format!("disk {} is kept, with the part that was written", disks[0].0.id);
    assert_told(&ran, &[DATA_MAY_BE_LOST], &["VM web is not made", &kept]);
    assert!(to.disk(&disks[0].0.id).is_some() && !has_vm(&to, "web"), "{ran}");
    assert_free(&to, &ran);
}

/// All restores of a backup want the same ids: without an answer, nobody knows whose the disk is.
#[test]
fn a_disk_whose_making_got_no_answer_is_left_alone_as_it_may_be_anothers() {
    let (from, disks) = backed_up();
    let to = Engine::start();
    to.switch(&json!({"switch": "cut_after", "match": "^POST .*/disks$", "times": 1}));
    let ran = restore(&to, &from, &[]);
    let words = [
        "is not restored",
        "may be this one or another's, so it is left alone",
        "VM web is not made",
    ];
    assert_told(&ran, &[ENGINE_FAILED], &words);
    let there = |one: &&(DiskState, PathBuf)| to.disk(&one.0.id).is_some();
    assert_eq!(disks.iter().filter(there).count(), 2, "one is removed: {ran}");
    let deleted = to.requests("DELETE", "");
    let of_disks = |one: &Value| one["path"].as_str().is_some_and(|path| path.contains("/disks/"));
    assert!(!deleted.iter().any(of_disks), "{deleted:?}");
    assert_eq!(to.requests("POST", "/imagetransfers").len(), 1, "{ran}");
    for note in to.state_files() {
        let note: Value = serde_json::from_slice(&fs::read(note).expect("a note")).expect("JSON");
        recover(&to, &[], note["disk_id"].as_str().map(Path::new));
    }
    assert_eq!(disks.iter().filter(there).count(), 2);
}

#[test]
fn a_disk_that_can_not_be_made_takes_no_other_one_with_it() {
    let (from, disks) = backed_up();
    let to = Engine::start();
    to.switch(&json!({"switch": "transfer_fault", "value": "refused", "match": "root"}));
    let ran = restore(&to, &from, &[]);
    assert_told(
        &ran,
        &[ENGINE_FAILED],
        &["(root) is not restored", "VM web is not made", "--include"],
    );
    assert!(to.disk(&disks[0].0.id).is_none() && !has_vm(&to, "web"), "{ran}");
    assert_free(&to, &ran);
    // As the message says.
    to.clear_switches();
    restore(&to, &from, &["--disks-only", "--include", "root"]).ok();
    for (disk, content) in &disks {
        to.compare(&to.disk(&disk.id).expect("it is there"), content)
            .unwrap();
    }
}

/// The engine accepts the import, and only an event tells.
#[test]
fn a_disk_that_the_import_has_not_attached_is_attached_afterwards() {
    let (from, disks) = backed_up();
    let to = Engine::start();
    to.switch(&json!({"switch": "attach_fails", "times": 1}));
    let ran = restore(&to, &from, &[]).ok();
    assert_restored(&to, &from, "web", &disks, &ran);
    assert_eq!(to.requests("POST", "/diskattachments").len(), 1, "{ran}");
    assert!(ran.stderr.contains("has not attached disk"), "{ran}");
}

#[test]
fn a_disk_that_can_not_be_attached_at_all_is_told_with_the_vm() {
    let (from, disks) = backed_up();
    let to = Engine::start();
    to.switch(&json!({"switch": "attach_fails", "match": "root"}));
    to.switch(&json!({"switch": "fault", "match": "^POST .*/diskattachments$",
        "value": {"status": 409, "detail": "[Cannot attach it.]"}}));
    let ran = restore(&to, &from, &[]);
    let words = [
        "VM web (",
        "is made, and disk",
        "(root)",
        "Cannot attach it",
        "attach it in the engine",
    ];
    assert_told(&ran, &[ENGINE_FAILED], &words);
    assert_eq!(disks_of(&to, "web").len(), 1, "{ran}");
    to.compare(&to.disk(&disks[0].0.id).expect("it is kept"), &disks[0].1)
        .unwrap();
    assert_free(&to, &ran);
}

#[test]
fn an_import_that_is_refused_keeps_the_disks_and_names_them() {
    let (from, disks) = backed_up();
    let to = Engine::start();
    to.switch(&json!({"switch": "fault", "match": "^POST .*/vms$",
        "value": {"status": 400, "detail": "[The chipset is unknown.]"}}));
    let ran = restore(&to, &from, &[]);
    let words = [
        "VM web is not made",
        "The chipset is unknown",
        disks[0].0.id.as_str(),
        disks[1].0.id.as_str(),
    ];
    assert_told(&ran, &[ENGINE_FAILED], &words);
    assert!(!has_vm(&to, "web"), "{ran}");
    for (disk, content) in &disks {
        to.compare(&to.disk(&disk.id).expect("it is kept"), content)
            .unwrap();
    }
    assert_free(&to, &ran);
}

#[test]
fn an_import_whose_answer_is_lost_is_found_and_not_made_twice() {
    for args in [&[][..], &["--name", "web2"]] {
        let (from, disks) = backed_up();
        let to = Engine::start();
        to.switch(&json!({"switch": "cut_after", "match": "^POST .*/vms$", "times": 1}));
        let ran = restore(&to, &from, args).ok();
        let name = args.last().unwrap_or(&"web");
        assert_restored(&to, &from, name, &disks, &ran);
        assert_eq!(to.log("vm_created").len(), 1, "{ran}");
    }
}

/// No disk ever becomes whole here.
fn begin(to: &Engine, from: &Engine) -> Foreground {
    to.switch(&json!({"switch": "stay_initializing", "value": "forever"}));
    let mut running = Foreground::spawn(&mut command(to, from, &[]));
    wait_until("the transfers are begun", 60, || {
        assert!(!running.has_ended(), "{}", running.stderr());
        to.transfers().len() == 2
    });
    running
}

/// Each file is opened when its turn comes, which may be hours after the start.
#[test]
fn a_backup_removes_nothing_while_a_restore_reads_there() {
    let (from, disks) = backed_up();
    from.switch(&json!({"switch": "disk_slow", "value": 600.0}));
    let mut running = Foreground::spawn(&mut command(&from, &from, &["--name", "drill"]));
    wait_until("a disk is made", 60, || from.disks().len() > disks.len());
    let ran = back_up(&from, &["--full", "--keep", "1"]).ok();
    assert!(!running.has_ended(), "{}", running.stderr());
    assert!(ran.stderr.contains("--keep removes nothing for now"), "{ran}");
    assert_eq!(manifests(&from).len(), 2, "{ran}");
    running.signal(Signal::SIGKILL);
    running.wait(60);
    let ran = back_up(&from, &["--full", "--keep", "1"]).ok();
    assert_eq!(manifests(&from).len(), 1, "{ran}");
}

#[test]
fn a_signal_takes_back_what_is_not_whole() {
    let (from, _) = backed_up();
    let to = Engine::start();
    let mut running = begin(&to, &from);
    running.signal(Signal::SIGTERM);
    let status = running.wait(LIMIT);
    assert_eq!(status.code(), Some(1), "{}", running.stderr());
    assert!(
        running.stderr().contains("the restore is stopped"),
        "{}",
        running.stderr()
    );
    assert!(to.disks().is_empty() && !has_vm(&to, "web"), "{:?}", to.disks());
    assert!(to.state_files().is_empty(), "{}", running.stderr());
}

/// The disks have ended in the engine by then, so nothing is left to `recover`.
#[test]
fn a_signal_while_the_vm_is_made_tells_of_the_vm() {
    let (from, disks) = backed_up();
    let to = Engine::start();
    to.switch(&json!({"switch": "slow", "match": "^POST .*/vms$", "value": 60.0, "times": 1}));
    let mut running = Foreground::spawn(&mut command(&to, &from, &[]));
    wait_until("the VM is asked for", 60, || {
        assert!(!running.has_ended(), "{}", running.stderr());
        to.state("switches")["slow"] == json!([])
    });
    running.signal(Signal::SIGTERM);
    wait_until("the signal is answered", 60, || {
        running
            .stderr()
            .contains("VM web is being made, which is waited for")
    });
    running.signal(Signal::SIGTERM);
    assert_eq!(running.wait(LIMIT).code(), Some(1), "{}", running.stderr());
    let said = running.stderr();
    let words = ["while VM web was being made", &disks[0].0.id, &disks[1].0.id];
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
    assert!(!said.contains("recover"), "{said}");
    assert!(to.state_files().is_empty(), "{said}");
}

#[test]
fn a_restore_that_is_killed_is_ended_by_recover() {
    let (from, disks) = backed_up();
    let to = Engine::start();
    let mut running = begin(&to, &from);
    let noted = || -> Vec<String> {
        let notes = to.state_files().into_iter();
        let read = notes.filter_map(|note| serde_json::from_slice(&fs::read(note).ok()?).ok());
        read.filter_map(|note: Value| note["transfer"].as_str().map(str::to_owned))
            .collect()
    };
    wait_until("they are noted", 60, || noted().len() == 2);
    let transfers = noted();
    running.signal(Signal::SIGKILL);
    running.wait(60);
    to.clear_switches();
    for transfer in &transfers {
        recover(&to, &["--cancel"], Some(Path::new(transfer))).ok();
    }
    assert!(to.disks().is_empty() && !has_vm(&to, "web"), "{:?}", to.disks());
    // The killed one has left its sessions, which end by themselves.
    let ran = restore(&to, &from, &[]).ok();
    for (disk, content) in &disks {
        to.compare(&to.disk(&disk.id).expect("it is there"), content)
            .unwrap();
    }
    assert!(has_vm(&to, "web"), "{ran}");
    assert_free(&to, &ran);
}
