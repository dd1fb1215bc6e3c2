//! `--vm --backup`: the disks of a VM at one point in time, as files, by a backup that ends with the mount.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::backups::{assert_nothing_left, web};
use crate::rig::{ENGINE_FAILED, SIZE, USAGE, assert_refused, assert_told};
use crate::support::content::{MIB, compare};
use crate::support::engine::{DiskState, Engine};
use crate::support::foreground::Foreground;
use crate::support::run::{Ran, run, sh, wait_until};
use crate::vm_mounts::{directory, files, of_file, over, status};

/// The arguments of a mount of the VM `web` as a backup has it.
pub(crate) fn in_backup(more: &[&str]) -> Vec<String> {
    let words = ["--vm", "web", "--backup"].iter().chain(more);
    words.map(|word| (*word).to_owned()).collect()
}

/// Returns an extended attribute of a file.
#[track_caller]
pub(crate) fn attribute(file: &Path, name: &str) -> Option<String> {
    let script = "import os, sys\ntry:\n    print(os.getxattr(sys.argv[1], sys.argv[2]).decode())\nexcept \
                  OSError as e:\n    import errno\n    assert e.errno in (errno.ENODATA, errno.ENOTSUP), e";
    let line = r#"python3 -c "$1" "$2" "$3""#;
    let ran = sh(line, [OsStr::new(script), file.as_os_str(), OsStr::new(name)], 20).ok();
    Some(ran.stdout.trim().to_owned()).filter(|value| !value.is_empty())
}

/// Asserts that each transfer has ended before the backup, of which the end was asked for once.
#[track_caller]
pub(crate) fn assert_ended_in_order(engine: &Engine, ran: &Ran) {
    let asked = engine.requests("POST", "/finalize");
    let path = |one: &Value| one["path"].as_str().unwrap_or_default().to_owned();
    let of_backups: Vec<usize> = (0..asked.len())
        .filter(|n| path(&asked[*n]).contains("/backups/"))
        .collect();
    assert_eq!(of_backups, [asked.len() - 1], "{asked:?}: {ran}");
    assert_nothing_left(engine, ran);
    assert_eq!(engine.sessions(), 0, "a session is left open: {ran}");
}

/// The guest's writes while the disks are mounted must not be in them.
fn at_one_point(vm_status: &str, level: &str, more: &[&str], kind: &str) {
    let engine = Engine::start();
    let disks = web(&engine, vm_status, level);
    let mount = engine.mounting(in_backup(more)).start();
    let point = mount.mountpoint();
    let expected = [("data", SIZE), ("root", SIZE)].map(|(name, size)| (name.to_owned(), size));
    assert_eq!(files(point), BTreeMap::from(expected));
    // The engine ends a transfer of which everything was read.
    let told = status(&engine, point);
    for (disk, content) in &disks {
        if vm_status == "up" {
            engine.guest_writes(&disk.id, &json!([{"offset": MIB, "length": MIB, "pattern": 9}]));
        }
        let file = point.join(&disk.name);
        sh(r#"cmp "$1" "$2""#, [&file, content], 60).ok();
        let refused = fs::File::options().write(true).open(&file);
        let refused = refused.expect_err("it is read-only");
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS), "{refused}");
    }
    assert_eq!(engine.log("backup_created")[0]["backup_kind"], kind);
    let (backup, checkpoint) = (
        engine.state("backups")[0].clone(),
        engine.state("checkpoints")[0].clone(),
    );
    assert_eq!(told["backup"]["id"], backup["id"], "{told}");
    assert_eq!(told["backup"]["checkpoint"], checkpoint["id"], "{told}");
    assert_eq!(told["backup"]["phase"], "ready", "{told}");
    assert!(told["backup"].get("from_checkpoint").is_none(), "{told}");
    assert_eq!(of_file(&told, "root")["transfer_phase"], "transferring");
    let shown = mount.status(&[]).ok();
    let id = backup["id"].as_str().expect("an id");
    let names_it = |line: &str| line.contains("backup") && line.contains(id) && line.contains("(ready)");
    assert!(shown.stdout.lines().any(names_it), "{shown}");
    // The disk with raw volumes is in no checkpoint.
    let known = attribute(&point.join("root"), "user.rhv_mount.checkpoint");
    assert_eq!(known.as_deref(), checkpoint["id"].as_str());
    for (file, name) in [("data", "checkpoint"), ("root", "dirty")] {
        assert_eq!(
            attribute(&point.join(file), &format!("user.rhv_mount.{name}")),
            None
        );
    }
    assert!(!point.join(".rhv-mount").exists(), "nothing asks for changes");
    let said = mount.stderr();
    assert!(
        said.contains(id) && said.contains("at one point in time"),
        "{said}"
    );
    let ran = mount.umount().ok();
    assert_ended_in_order(&engine, &ran);
}

#[test]
fn a_vm_that_runs_is_mounted_from_a_snapshot_at_one_point_in_time() {
    at_one_point("up", "4.7", &[], "hybrid");
}

#[test]
fn a_vm_that_runs_is_mounted_without_a_snapshot_at_one_point_in_time() {
    at_one_point("up", "4.7", &["--live"], "live");
}

#[test]
fn a_vm_that_is_down_is_mounted_as_a_backup_has_it() {
    at_one_point("down", "4.6", &[], "cold");
    at_one_point("down", "4.7", &[], "hybrid");
}

#[test]
fn a_command_gets_the_directory_and_its_status_counts() {
    let engine = Engine::start();
    let disks = web(&engine, "up", "4.7");
    let script = format!("cmp {{}}/root '{}'; exit 41", disks[0].1.display());
    let ran = over(&engine, &in_backup(&[]), &script);
    assert_eq!(ran.code, Some(41), "{ran}");
    assert_ended_in_order(&engine, &ran);
}

#[test]
fn a_guest_that_can_not_be_frozen_fails_the_mount_only_where_that_is_asked_for() {
    let engine = Engine::start();
    web(&engine, "up", "4.7");
    engine.switch(&json!({"switch": "freeze_fails"}));
    let ran = over(&engine, &in_backup(&["--require-consistency"]), "true");
    assert_told(
        &ran,
        &[ENGINE_FAILED],
        &["has failed before any disk could be read"],
    );
    let query = &engine.requests("POST", "/backups")[0]["query"];
    let asked = (&query["legacy"], &query["require_consistency"]);
    assert_eq!(asked, (&json!("true"), &json!("true")));
    assert_nothing_left(&engine, &ran);
    let ran = over(&engine, &in_backup(&["--live"]), "true").ok();
    assert_nothing_left(&engine, &ran);
}

#[test]
fn a_disk_that_can_not_take_part_is_named_and_one_that_is_dropped_gives_eio() {
    let engine = Engine::start();
    let disks = web(&engine, "up", "4.7");
    let shared = engine.add_disk(&json!({"name": "shared", "size": SIZE, "shareable": true, "vm": "web"}));
    let ran = over(&engine, &in_backup(&[]), "test ! -e {}/shared").ok();
    assert!(
        ran.stderr.contains(&shared.id) && ran.stderr.contains("shareable"),
        "{ran}"
    );

    engine.switch(&json!({"switch": "disk_dropped", "match": "data"}));
    let script = format!(
        "test -e {{}}/data; if cat {{}}/data 2>/dev/null; then exit 9; fi; cmp {{}}/root '{}'",
        disks[0].1.display()
    );
    let ran = over(&engine, &in_backup(&[]), &script);
    assert_told(
        &ran,
        &[ENGINE_FAILED],
        &[&disks[1].0.id, "has left it out of the backup"],
    );
    assert_nothing_left(&engine, &ran);
}

#[test]
fn a_disk_whose_transfer_does_not_start_takes_no_other_one_with_it() {
    let engine = Engine::start();
    let disks = web(&engine, "up", "4.7");
    engine.switch(&json!({"switch": "transfer_fault", "value": "refused", "match": "data"}));
    let figures = engine.dir().join("vm.prom");
    let mut args = in_backup(&[]);
    args.extend(["--metrics-file".into(), figures.display().to_string()]);
    let script = format!(
        "cmp {{}}/root '{}'; if cat {{}}/data 2>/dev/null; then exit 9; fi",
        disks[0].1.display()
    );
    let ran = over(&engine, &args, &script);
    assert_told(&ran, &[ENGINE_FAILED], &["(data) could not be opened"]);
    assert_nothing_left(&engine, &ran);
    let figures = fs::read_to_string(figures).expect("the figures");
    for ((disk, _), open) in disks.iter().zip([1, 0]) {
        let end = format!(r#",disk="{}",disk_id="{}"}} {open}"#, disk.name, disk.id);
        let is_it = |line: &str| line.starts_with("rhv_mount_disk_open{") && line.ends_with(&end);
        assert!(figures.lines().any(is_it), "{figures}");
    }

    engine.switch(&json!({"switch": "transfer_fault", "value": "refused"}));
    let ran = over(&engine, &in_backup(&[]), "true");
    assert_told(&ran, &[ENGINE_FAILED], &["could be opened"]);
    // The engine merges the snapshot by itself.
    wait_until("the backup has ended", 60, || {
        let backups = engine.state("backups");
        backups
            .as_array()
            .is_some_and(|all| all.iter().all(|one| one["phase"] == "succeeded"))
    });
    assert_nothing_left(&engine, &ran);
}

/// The ticket is lost: the transfer after it is one of the same backup.
#[test]
fn a_transfer_that_is_renewed_is_one_of_the_backup_too() {
    let engine = Engine::start();
    let disks = web(&engine, "up", "4.7");
    let mount = engine.mounting(in_backup(&[])).start();
    let before = engine.transfers().len();
    engine.switch(&json!({"switch": "ticket_remove"}));
    for (disk, content) in &disks {
        sh(
            r#"cmp "$1" "$2""#,
            [&mount.mountpoint().join(&disk.name), content],
            100,
        )
        .ok();
    }
    assert!(engine.transfers().len() > before, "nothing was renewed");
    let backup = engine.state("backups")[0]["id"].clone();
    for started in engine.requests("POST", "/imagetransfers") {
        assert_eq!(started["body"]["backup"]["id"], backup, "{started}");
    }
    let ran = mount.umount().ok();
    assert_nothing_left(&engine, &ran);
}

#[test]
fn names_that_collide_are_ids_also_in_a_backup() {
    let engine = Engine::start();
    engine.add_vms(&json!([{"name": "web", "status": "up", "level": "4.7"}]));
    let add = |_| engine.add_disk(&json!({"name": "same", "size": MIB, "format": "cow", "vm": "web"}));
    let disks: Vec<DiskState> = (0..2).map(add).collect();
    let mount = engine.mounting(in_backup(&[])).start();
    let names: Vec<String> = files(mount.mountpoint()).into_keys().collect();
    let mut ids: Vec<String> = disks.into_iter().map(|disk| disk.id).collect();
    ids.sort();
    assert_eq!(names, ids);
    mount.umount().ok();
}

/// The first signal ends the mount and then the backup, in order.
#[test]
fn a_signal_ends_the_transfers_and_then_the_backup() {
    let engine = Engine::start();
    web(&engine, "up", "4.7");
    let point = directory(&engine, "point");
    let mut program = engine.program();
    program
        .args(engine.args())
        .args(in_backup(&[]))
        .arg("--foreground")
        .arg(&point);
    let mut mount = Foreground::start(&mut program, &point);
    mount.signal(Signal::SIGTERM);
    let ended = mount.wait(120);
    assert_eq!(ended.code(), Some(0), "{}", mount.stderr());
    wait_until("the merge is over", 60, || {
        engine.state("backups")[0]["phase"] == "succeeded"
    });
    let ran = sh("true", [""], 20).ok();
    assert_ended_in_order(&engine, &ran);
}

#[test]
fn a_backup_is_for_a_vm_and_contradicts_what_is_another_point_in_time() {
    let engine = Engine::start();
    web(&engine, "up", "4.7");
    for (args, words) in [
        ("--disk root --backup", "--backup is for --vm"),
        ("--disk root --since c", "--since is for --vm with --backup"),
        ("--vm web --since c", "--since is for --backup"),
        ("--vm web --live", "--live is for --backup"),
        ("--vm web --backup --snapshot a", "--backup beside --snapshot"),
        ("--vm web --backup --read-write", "--read-write beside --backup"),
        ("--vm web --backup --verify", "--verify beside --read-only"),
    ] {
        let args: Vec<String> = args.split(' ').map(str::to_owned).collect();
        let ran = over(&engine, &args, "true");
        assert_refused(&ran, &[USAGE], &[words]);
    }
    assert!(engine.state("backups").as_array().expect("backups").is_empty());
    assert_eq!(engine.log("request").len(), 0, "the engine was asked");
}

#[test]
fn mount8_and_the_environment_ask_for_a_backup_as_the_command_line_does() {
    let engine = Engine::start();
    let disks = web(&engine, "up", "4.7");
    let point = directory(&engine, "point");
    for (words, variables) in [
        (vec!["none", "-orw,vm=web,backup,_netdev"], vec![]),
        (
            vec!["-oro"],
            vec![("RHV_MOUNT_VM", "web"), ("RHV_MOUNT_BACKUP", "yes")],
        ),
    ] {
        let mut program = engine.program();
        program.args(engine.args()).envs(variables);
        program
            .args(&words[..words.len() - 1])
            .arg(&point)
            .args(words.last());
        run(&mut program, 60).ok();
        sh(r#"cmp "$1" "$2""#, [&point.join("root"), &disks[0].1], 60).ok();
        let umount = [OsStr::new("umount"), point.as_os_str()];
        let ran = engine.run(umount, 100).ok();
        assert_nothing_left(&engine, &ran);
    }
    assert_eq!(engine.log("backup_created").len(), 2);
}

/// The line of `docs/backup.md`.
#[test]
fn restic_saves_a_vm_that_runs_and_gives_the_same_bytes_back() {
    let engine = Engine::start();
    let disks = web(&engine, "up", "4.7");
    let (repository, restored) = (engine.dir().join("repository"), engine.dir().join("restored"));
    let restic = format!(
        "export RESTIC_PASSWORD=nightly RESTIC_CACHE_DIR='{}' RESTIC_REPOSITORY='{}'",
        engine.dir().join("cache").display(),
        repository.display()
    );
    let script = format!("{restic}; restic init --quiet; restic backup --quiet {{}}");
    let ran = over(&engine, &in_backup(&[]), &script).ok();
    assert_ended_in_order(&engine, &ran);
    for (disk, _) in &disks {
        engine.guest_writes(&disk.id, &json!([{"offset": 0, "length": MIB, "pattern": 5}]));
    }
    let script = format!("{restic}; restic restore --quiet latest --target \"$1\"");
    sh(&script, [&restored], 100).ok();
    let point = directory(&engine, "over");
    for (disk, content) in &disks {
        let below = point.strip_prefix("/").expect("an absolute path");
        compare(&restored.join(below).join(&disk.name), content).unwrap();
    }
}
