//! The files that runs of `backup` have left that were killed, or could not write their manifest: they are
//! known to be ours, named, and removed by the next run. Two runs never get into each other's way.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::backup_chains::{checkpoints, mode};
use crate::backups::{
    assert_holds, assert_nothing_left, back_up, command, command_for, dir, entry, files, manifests, web,
};
use crate::recovering::recover;
use crate::rig::{LIMIT, SIZE, assert_told};
use crate::support::engine::Engine;
use crate::support::foreground::Foreground;
use crate::support::run::{Ran, run, wait_until};

fn images(engine: &Engine) -> Vec<String> {
    let mut images = files(engine);
    images.retain(|name| name.ends_with(".qcow2"));
    images
}

/// The checkpoints of the engine are those that the manifests name.
#[track_caller]
fn assert_every_checkpoint_is_named(engine: &Engine, ran: &Ran) {
    let named: Vec<Value> = manifests(engine)
        .iter()
        .map(|one| one["checkpoint"].clone())
        .collect();
    for id in checkpoints(engine) {
        assert!(named.contains(&json!(id)), "{id} is in no manifest: {ran}");
    }
}

/// Starts a backup whose second disk can't be had until the switches are cleared, and waits until the first
/// one has got its name.
fn held_between_the_disks(engine: &Engine) -> Foreground {
    let before = images(engine).len();
    engine.switch(&json!({"switch": "transfer_locked", "match": "root"}));
    let mut running = Foreground::spawn(&mut command(engine, &["--connections", "1"]));
    wait_until("the first disk has its file", 60, || {
        assert!(!running.has_ended(), "it has ended: {}", running.stderr());
        images(engine).len() > before
    });
    running
}

fn tool(engine: &Engine, option: &str) -> Ran {
    let mut command = engine.tool();
    command.args(["backup", option]).arg(dir(engine));
    run(&mut command, LIMIT)
}

/// Nothing but the directory tells of them: `recover` could not see them, nor delete the checkpoint of a VM
/// that was paused.
#[test]
fn the_files_and_the_checkpoint_of_a_killed_run_go_with_the_next_one() {
    let engine = Engine::start();
    let disks = web(&engine, "up", "4.7");
    back_up(&engine, &[]).ok();
    let before = images(&engine);
    let mut running = held_between_the_disks(&engine);
    running.signal(Signal::SIGKILL);
    running.wait(60);
    engine.clear_switches();
    let left: Vec<String> = images(&engine)
        .into_iter()
        .filter(|name| !before.contains(name))
        .collect();
    assert!(!left.is_empty(), "{}", running.stderr());
    let aside = engine.dir().join("aside");
    fs::create_dir(&aside).expect("make a directory");
    for name in &left {
        fs::rename(dir(&engine).join(name), aside.join(name)).expect("move a file");
    }
    engine.change_vm("web", &json!({"status": "paused"}));
    let ran = recover(&engine, &[], Some(&dir(&engine))).ok();
    engine.change_vm("web", &json!({"status": "up"}));
    assert_eq!(
        checkpoints(&engine).len(),
        2,
        "one of a paused VM is deleted: {ran}"
    );
    for name in &left {
        fs::rename(aside.join(name), dir(&engine).join(name)).expect("move it back");
    }

    for option in ["--list", "--check"] {
        let ran = tool(&engine, option).ok();
        let told = format!("{}: no manifest names it", left[0]);
        assert!(ran.stdout.contains(&told), "{ran}");
    }
    let ran = back_up(&engine, &["--keep", "5"]).ok();
    assert!(!ran.stderr.contains("removes nothing"), "{ran}");
    for name in &left {
        assert!(!dir(&engine).join(name).exists(), "{name} is there: {ran}");
    }
    assert_every_checkpoint_is_named(&engine, &ran);
    assert_nothing_left(&engine, &ran);
    let last = &manifests(&engine)[1];
    assert_eq!(mode(last, &disks[0].0), "incremental");
    for (disk, content) in &disks {
        assert_holds(&engine, last, &disk.id, content);
    }
}

/// The directory is away when the manifest should be written, as a file system is that was unmounted.
#[test]
fn a_run_that_can_not_write_its_manifest_leaves_nothing_for_good() {
    let engine = Engine::start();
    web(&engine, "up", "4.7");
    back_up(&engine, &[]).ok();
    let before = images(&engine);
    let mut running = held_between_the_disks(&engine);
    let aside = engine.dir().join("aside");
    fs::rename(dir(&engine), &aside).expect("move the directory");
    fs::write(dir(&engine), "no directory").expect("take its place");
    engine.clear_switches();
    let status = running.wait(LIMIT);
    assert_ne!(status.code(), Some(0), "{}", running.stderr());
    assert!(
        running.stderr().contains("is not written"),
        "{}",
        running.stderr()
    );
    fs::remove_file(dir(&engine)).expect("give its place back");
    fs::rename(&aside, dir(&engine)).expect("move the directory back");
    assert!(images(&engine).len() > before.len());

    let ran = back_up(&engine, &["--full", "--keep", "1"]).ok();
    assert!(ran.stderr.contains("1 older backups are removed"), "{ran}");
    assert_eq!(images(&engine).len(), 2, "{:?}: {ran}", files(&engine));
    assert_every_checkpoint_is_named(&engine, &ran);
    assert_eq!(checkpoints(&engine).len(), 1, "{ran}");
}

#[test]
fn the_checkpoint_of_a_run_without_a_manifest_goes_at_its_end() {
    let engine = Engine::start();
    web(&engine, "up", "4.7");
    engine.switch(&json!({"switch": "transfer_fault", "value": "refused"}));
    let ran = back_up(&engine, &[]);
    assert!(
        manifests(&engine).is_empty() && checkpoints(&engine).is_empty(),
        "{ran}"
    );

    // The engine does not delete it now, and the next backup does.
    refuse_deletions(&engine);
    let ran = back_up(&engine, &[]);
    assert!(ran.stderr.contains("stays for now"), "{ran}");
    let left = checkpoints(&engine);
    assert_eq!(left.len(), 1);
    engine.clear_switches();
    // One of somebody else's is never touched, whatever is in its description.
    let other = engine.dir().join("elsewhere");
    let mut elsewhere = command_for(&engine, "web", &[], &other);
    run(&mut elsewhere, LIMIT).ok();
    let theirs = checkpoints(&engine)[1].clone();
    let ran = back_up(&engine, &[]).ok();
    let there = checkpoints(&engine);
    assert_eq!(there.len(), 2, "{there:?}: {ran}");
    assert!(
        !there.contains(&left[0]) && there.contains(&theirs),
        "{there:?}: {ran}"
    );
}

fn refuse_deletions(engine: &Engine) {
    engine.switch(&json!({"switch": "fault", "match": "^DELETE .*/checkpoints/",
        "value": {"status": 409, "detail": "[Cannot delete VM checkpoint: it is locked.]"}}));
}

/// A merge that always outlasts a run lets no checkpoint go at its end.
#[test]
fn a_checkpoint_that_could_not_be_deleted_goes_before_the_next_backup_begins() {
    let engine = Engine::start();
    web(&engine, "up", "4.7");
    back_up(&engine, &[]).ok();
    refuse_deletions(&engine);
    let ran = back_up(&engine, &["--full", "--keep", "1"]).ok();
    assert!(ran.stderr.contains("stays for now"), "{ran}");
    assert_eq!(manifests(&engine).len(), 1, "{ran}");
    let left = checkpoints(&engine);
    assert_eq!(left.len(), 2, "{left:?}: {ran}");
    engine.clear_switches();
    let ran = back_up(&engine, &["--full", "--keep", "1"]).ok();
    assert_every_checkpoint_is_named(&engine, &ran);
    assert_eq!(checkpoints(&engine).len(), 1, "{ran}");
    let order: Vec<String> = engine
        .log("request")
        .iter()
        .filter_map(|one| Some((one["method"].as_str()?, one["path"].as_str()?)))
        .filter(|(method, path)| {
            let of_first = *method == "DELETE" && path.ends_with(left[0].as_str());
            of_first || (*method == "POST" && path.ends_with("/backups"))
        })
        .map(|(method, _)| method.to_owned())
        .collect();
    assert_eq!(order[order.len() - 2..], ["DELETE", "POST"], "{order:?}: {ran}");
}

/// While the VM is up, the engine would take the whole chain with it.
#[test]
fn an_invalid_checkpoint_goes_once_the_vm_is_down() {
    let engine = Engine::start();
    web(&engine, "down", "4.7");
    back_up(&engine, &[]).ok();
    let old = checkpoints(&engine)[0].clone();
    refuse_deletions(&engine);
    let ran = back_up(&engine, &[]).ok();
    assert!(ran.stderr.contains("stays for now"), "{ran}");
    assert_eq!(checkpoints(&engine).len(), 2, "{ran}");
    engine.clear_switches();
    // A deletion leaves it so, where a bitmap can't be removed.
    let order = json!({"state": "invalid"});
    engine.control("POST", &format!("/vms/web/checkpoints/{old}"), Some(&order));
    engine.change_vm("web", &json!({"status": "up"}));
    let ran = back_up(&engine, &[]).ok();
    assert!(
        ran.stderr.contains("is invalid: a backup while the VM is down"),
        "{ran}"
    );
    let there = checkpoints(&engine);
    assert_eq!(there.len(), 2, "{there:?}: {ran}");
    assert_eq!(there[0], old, "{ran}");
    engine.change_vm("web", &json!({"status": "down"}));
    let ran = back_up(&engine, &[]).ok();
    let there = checkpoints(&engine);
    assert_eq!(there.len(), 1, "{there:?}: {ran}");
    assert_ne!(there[0], old, "{ran}");
    let all = manifests(&engine);
    assert_eq!(all[3]["from_checkpoint"], all[2]["checkpoint"], "{ran}");
}

/// A guest's disks and its configuration are secret.
#[test]
fn nobody_else_may_read_a_backup_whatever_the_umask_says() {
    let engine = Engine::start();
    web(&engine, "down", "4.7");
    for args in [&[][..], &[]] {
        let plain = command(&engine, args);
        let mut command = Command::new("sh");
        command.args(["-c", "umask 000; exec \"$0\" \"$@\""]);
        command.arg(plain.get_program()).args(plain.get_args());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        run(&mut command, LIMIT).ok();
    }
    let bits = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(bits(&dir(&engine)), 0o700);
    let all = files(&engine);
    assert!(all.len() >= 8, "{all:?}");
    for name in all {
        assert_eq!(bits(&dir(&engine).join(&name)), 0o600, "{name}");
    }
}

#[test]
fn a_second_run_for_a_vm_is_refused_and_another_vm_goes_on_beside_it() {
    let engine = Engine::start();
    web(&engine, "up", "4.7");
    engine.add_disk(&json!({"name": "other", "size": SIZE, "format": "cow", "vm": "db"}));
    let vm = engine.state("vms");
    let vm = vm
        .as_array()
        .expect("the VMs")
        .iter()
        .find(|one| one["name"] == "web");
    let id = vm.expect("web")["id"].as_str().expect("an id").to_owned();
    // It asks again for two minutes.
    engine.switch(
        &json!({"switch": "fault", "match": format!("^POST .*/vms/{id}/backups(\\?.*)?$"),
        "value": {"status": 409, "detail": "[Cannot backup VM: The VM is during a backup operation.]"}}),
    );
    let mut running = Foreground::spawn(&mut command(&engine, &[]));
    wait_until("it has asked", 60, || {
        assert!(!running.has_ended(), "it has ended: {}", running.stderr());
        !engine.requests("POST", "/backups").is_empty()
    });
    let ran = back_up(&engine, &[]);
    assert_told(&ran, &[1], &["another backup of VM web", "is under way"]);
    for _ in 0..2 {
        let mut db = command_for(&engine, "db", &["--keep", "1"], &dir(&engine));
        run(&mut db, LIMIT).ok();
    }
    let of_db = |engine: &Engine| {
        let all = manifests(engine);
        all.iter().filter(|one| one["vm"]["name"] == "db").count()
    };
    assert_eq!(of_db(&engine), 1, "an older one stays");
    engine.clear_switches();
    let status = running.wait(LIMIT);
    assert_eq!(status.code(), Some(0), "{}", running.stderr());
    assert_eq!(manifests(&engine).len(), 2);
    let ran = tool(&engine, "--check").ok();
    assert!(ran.stdout.contains("3 files are whole, 0 are not"), "{ran}");
}

/// Its newest good backup stays, and the others go.
#[test]
fn a_disk_that_fails_for_ever_keeps_its_backup_and_stops_nothing() {
    let engine = Engine::start();
    let disks = web(&engine, "up", "4.7");
    back_up(&engine, &["--keep", "1"]).ok();
    engine.switch(&json!({"switch": "transfer_fault", "value": "refused", "match": "data"}));
    for _ in 0..2 {
        let ran = back_up(&engine, &["--keep", "1"]);
        assert_told(&ran, &[4], &["(data) is not backed up"]);
        assert_nothing_left(&engine, &ran);
    }
    let all = manifests(&engine);
    assert_eq!(all.len(), 2, "the second one is older than the newest of root");
    entry(&all[0], &disks[1].0.id);
    entry(&all[1], &disks[0].0.id);
    assert_eq!(
        checkpoints(&engine),
        [all[1]["checkpoint"].as_str().expect("one")]
    );
}
