//! Killed and failed runs leave something behind: `status` tells it with the command that ends it, it blocks
//! nobody else's mountpoint, and `recover` ends it without asking for anything again.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::existing::{expected, write_and_sync};
use crate::recovering::recover;
use crate::rig::{
    DATA_MAY_BE_LOST, DONE, ENGINE_FAILED, LOGIN_REFUSED, USAGE, assert_free, assert_nothing_deleted,
    assert_told, create, existing, over, point, state_file, used_disk,
};
use crate::support::content::MIB;
use crate::support::engine::{Engine, PASSWORD, USER, write_private};
use crate::support::mount::{BINARY, Mount, Mounting, is_mounted, processes_with, rhv_mount};
use crate::support::run::{Ran, sh, wait_until};

/// Mounts `disk` on `point` in the background.
pub(crate) fn mount_on(engine: &Engine, disk: &str, point: &Path) -> Ran {
    let mut args: Vec<OsString> = engine.args();
    args.extend(existing(disk).iter().map(OsString::from));
    args.push(point.into());
    // A first argument with dashes is one of a mount, whose log is searched for secrets.
    engine.run(args, 60)
}

/// Kills the mount on `point`.
pub(crate) fn kill(point: &Path) {
    for pid in processes_with(point.as_os_str()) {
        signal::kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill the mount");
    }
    wait_until("the mount is gone", 60, || {
        processes_with(point.as_os_str()).is_empty()
    });
}

/// Kills the mount on `point`, and removes it from the tree.
fn kill_and_clear(point: &Path) {
    kill(point);
    let ran = rhv_mount(None, [Path::new("umount"), point]);
    assert_told(&ran, &[DATA_MAY_BE_LOST], &["rhv-mount recover"]);
    assert!(!is_mounted(point), "{ran}");
}

/// Returns what `status` without an argument tells of the transfer, in JSON and in lines.
fn told_of(transfer: &str) -> (Option<Value>, String) {
    let listed = rhv_mount(None, ["status", "-o", "json"]).ok().stdout;
    let all: Vec<Value> = serde_json::from_str(&listed).expect("status prints an array");
    let is_it = |one: &Value| one["transfer"] == transfer && one["phase"] == "left";
    let one = all.into_iter().find(is_it);
    let text = rhv_mount(None, ["status"]).ok().stdout;
    let blocks = text.split("\n\n").map(str::to_owned);
    let block = blocks.into_iter().find(|block| block.contains(transfer));
    (one, block.unwrap_or_default())
}

/// The section is in a file that only the mount was told of: the environment of `recover` is another one.
#[test]
fn the_line_that_status_shows_ends_what_a_killed_mount_has_left_without_asking() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let config = format!(
        "[here]\nengine_url = {}\nusername = {USER}\npassword = {PASSWORD}\ncafile = {}\n",
        engine.url(),
        engine.cafile().display()
    );
    write_private(&engine.dir().join("config/ovirt-img.conf"), &config);
    let mount = Mounting::without_url()
        .env("XDG_CONFIG_HOME", engine.dir().join("config"))
        .secret(PASSWORD)
        .args(["-c", "here", "--disk", "web01"])
        .start();
    write_and_sync(&mount.file(), MIB, MIB, 81);
    let transfer = engine.transfer().id;
    assert_eq!(told_of(&transfer).0, None, "it is at work");
    mount.kill();
    // A process has no command line any more while it still holds its note.
    wait_until("the killed process has let go of its note", 60, || {
        told_of(&transfer)
            .0
            .is_some_and(|one| one["happened"] != "in_recovery")
    });
    let (one, text) = told_of(&transfer);
    let one = one.expect("status tells of it");
    let line = format!("rhv-mount recover {transfer}");
    for (key, value) in [
        ("happened", "killed"),
        ("disk_id", disk.id.as_str()),
        ("disk_name", "web01"),
        ("engine_url", engine.url()),
        ("recover", line.as_str()),
    ] {
        assert_eq!(one[key], value, "{one}");
    }
    for said in ["was killed", disk.id.as_str(), "web01", line.as_str()] {
        assert!(text.contains(said), "{said} is not in {text}");
    }
    let path = Path::new(BINARY).parent().expect("a directory");
    let script = r#"cd /; unset XDG_CONFIG_HOME HOME; PATH=$1:$PATH; eval "$2""#;
    let ran = sh(script, [path.as_os_str(), OsStr::new(&line)], 60).ok();
    assert!(ran.stdout.contains(&transfer), "{ran}");
    assert_free(&engine, &disk.id, &expected(&content, MIB, MIB, 81));
    assert_eq!(told_of(&transfer).0, None, "it has ended");
    assert_nothing_deleted(&engine);
}

/// The password file is known, and what it is called.
#[test]
fn a_password_file_is_used_again() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).start();
    mount.kill();
    rhv_mount(None, [Path::new("recover"), mount.mountpoint()]).ok();
    assert_free(&engine, &disk.id, &content);
}

#[test]
fn a_finalize_that_failed_is_no_death() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let point = point(&engine, "web01");
    mount_on(&engine, "web01", &point).ok();
    write_and_sync(&point, MIB, MIB, 82);
    let fault = json!({"status": 403, "detail": "[User is not authorized to perform this action.]"});
    engine.switch(&json!({"switch": "fault", "value": fault, "match": "/finalize$"}));
    let ran = rhv_mount(None, [Path::new("umount"), &point]);
    assert_told(&ran, &[DATA_MAY_BE_LOST], &["403"]);
    engine.clear_switches();
    let (one, text) = told_of(&engine.transfer().id);
    assert_eq!(one.expect("status tells of it")["happened"], "finalize_failed");
    assert!(
        text.contains("has not finalized") && !text.contains("killed"),
        "{text}"
    );
    // The disk is locked, so the next mount of it is refused wherever it is.
    let other = engine.dir().join("other.raw");
    for at in [&point, &other] {
        let ran = mount_on(&engine, "web01", at);
        let line = format!("rhv-mount recover {}", engine.transfer().id);
        assert_told(&ran, &[ENGINE_FAILED], &["has not finalized", &line]);
        assert!(!ran.stderr.contains("killed"), "{ran}");
    }
    let ran = recover(&engine, &[], Some(&point)).ok();
    assert!(
        !ran.stdout.contains("may be missing"),
        "every byte had arrived: {ran}"
    );
    assert_free(&engine, &disk.id, &expected(&content, MIB, MIB, 82));
}

#[test]
fn a_transfer_that_was_left_paused_is_told_as_that() {
    let engine = Engine::start();
    used_disk(&engine, "web01", "raw");
    let script = format!(
        "{}; dd if=/dev/urandom of={{}} bs=1M count=4 conv=notrunc status=none || true",
        engine.kill_storage_line()
    );
    let ran = over(&engine, &existing("web01"), &script);
    assert_told(&ran, &[DATA_MAY_BE_LOST], &["rhv-mount recover"]);
    let (one, text) = told_of(&engine.transfer().id);
    assert_eq!(one.expect("status tells of it")["happened"], "paused");
    assert!(text.contains("left paused"), "{text}");
    let ran = recover(&engine, &[], Some(&point(&engine, "web01"))).ok();
    assert!(ran.stdout.contains("may be missing"), "{ran}");
}

#[test]
fn what_is_left_of_one_disk_does_not_block_the_mountpoint_of_another() {
    let engine = Engine::start();
    let (first, content) = used_disk(&engine, "web01", "raw");
    let (second, other_content) = used_disk(&engine, "web02", "raw");
    let point = point(&engine, "both");
    let mut transfers = Vec::new();
    for (disk, seed) in [("web01", 83), ("web02", 84)] {
        mount_on(&engine, disk, &point).ok();
        write_and_sync(&point, MIB, MIB, seed);
        transfers.push(engine.transfer().id);
        kill_and_clear(&point);
    }
    for transfer in &transfers {
        let (one, _) = told_of(transfer);
        assert_eq!(
            one.expect("status tells of it")["recover"],
            format!("rhv-mount recover {transfer}")
        );
    }
    // The user vouches for one of them, and a mountpoint does not say which.
    for option in ["--finalize", "--cancel", "--forget"] {
        let ran = recover(&engine, &[option], Some(&point));
        assert_told(&ran, &[USAGE], &[option, &transfers[0], &transfers[1]]);
    }
    let ran = recover(&engine, &[], Some(Path::new(&transfers[0]))).ok();
    assert!(!ran.stdout.contains("web02"), "{ran}");
    assert_free(&engine, &first.id, &expected(&content, MIB, MIB, 83));
    assert_eq!(engine.transfer().phase, "transferring", "the second one's");
    assert_eq!(told_of(&transfers[0]).0, None);
    recover(&engine, &[], Some(Path::new(&transfers[1]))).ok();
    assert_free(&engine, &second.id, &expected(&other_content, MIB, MIB, 84));
    assert!(engine.state_files().is_empty());
    assert_nothing_deleted(&engine);
}

/// Both have left something on the same mountpoint, and one refuses the login.
#[test]
fn an_engine_that_refuses_the_login_is_skipped_and_the_others_transfers_are_ended() {
    let engines = [Engine::start(), Engine::start()];
    let point = point(&engines[0], "shared");
    let disks = engines.each_ref().map(|engine| used_disk(engine, "web01", "raw"));
    for engine in &engines {
        mount_on(engine, "web01", &point).ok();
        kill_and_clear(&point);
    }
    let password = engines[0].password_file();
    let option = Path::new("--password-file");
    let ran = rhv_mount(None, [Path::new("recover"), option, &password, &point]);
    assert_told(
        &ran,
        &[USAGE],
        &["--engine-url", engines[0].url(), engines[1].url()],
    );
    for (away, there) in [(0, 1), (1, 0)] {
        if there == 1 {
            engines[away].switch(&json!({"switch": "login_refused", "value": "access_denied"}));
        }
        let ran = rhv_mount(None, [Path::new("recover"), &point]);
        let code = if there == 1 { LOGIN_REFUSED } else { DONE };
        assert_told(&ran, &[code], &[]);
        let at = |words: &str| ran.stdout.find(words);
        let plan = at("it will be finalized").expect("the plan comes first");
        assert!(at("finalized; disk").is_some_and(|done| done > plan), "{ran}");
        assert_free(&engines[there], &disks[there].0.id, &disks[there].1);
        if there == 1 {
            assert!(state_file(&point).is_some(), "the other note is kept: {ran}");
            assert_eq!(engines[away].transfer().phase, "transferring");
            engines[away].clear_switches();
        }
    }
    assert!(state_file(&point).is_none());
}

#[test]
fn a_note_is_dropped_on_request_without_a_word_to_the_engine_and_that_is_told_loudly() {
    let engine = Engine::start();
    used_disk(&engine, "web01", "raw");
    for args in [existing("web01"), create("new")] {
        let mount: Mount = engine.mounting(&args).start();
        let transfer = engine.transfer();
        mount.kill();
        let asked = engine.log("request").len();
        let ran = rhv_mount(
            None,
            [Path::new("recover"), Path::new("--forget"), mount.mountpoint()],
        )
        .ok();
        assert_told(
            &ran,
            &[DONE],
            &[
                "WARNING",
                &transfer.id,
                &transfer.disk_id,
                engine.url(),
                "stays locked",
                "do not cancel",
                "unlock_entity.sh",
            ],
        );
        assert_eq!(engine.log("request").len(), asked, "the engine was asked");
        assert!(state_file(mount.mountpoint()).is_none(), "the note is left");
        assert!(!is_mounted(mount.mountpoint()), "the dead mount is left");
        assert_eq!(told_of(&transfer.id).0, None);
        let disk = engine.disk(&transfer.disk_id).expect("the disk");
        assert_eq!(disk.status, "locked", "nothing was ended");
    }
}

#[test]
fn a_mount_at_work_is_not_forgotten() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).start();
    let args = [Path::new("recover"), Path::new("--forget"), mount.mountpoint()];
    let ran = rhv_mount(None, args);
    assert_told(&ran, &[crate::rig::MOUNT_FAILED], &["is served by"]);
    assert!(state_file(mount.mountpoint()).is_some());
    mount.umount().ok();
    assert_free(&engine, &disk.id, &content);
}

/// The path of the mountpoint and that of the password file are not UTF-8; the note holds both.
#[test]
fn a_mount_on_a_path_that_is_not_utf_8_is_told_and_recovered() {
    use std::os::unix::ffi::OsStrExt;
    let strange = |name: &[u8]| PathBuf::from(OsStr::from_bytes(name));
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let point = engine.dir().join(strange(b"caf\xe9 1.raw"));
    let password = engine.dir().join(strange(b"pass\xff"));
    write_private(&password, &format!("{PASSWORD}\n"));
    let mut args = engine.args();
    let given = args.iter_mut().find(|arg| **arg == engine.password_file());
    *given.expect("the password file") = password.into();
    args.extend(["--disk".into(), "web01".into(), point.clone().into()]);
    engine.run(args, 60).ok();
    write_and_sync(&point, MIB, MIB, 85);
    let transfer = engine.transfer().id;
    kill(&point);
    let one = told_of(&transfer).0.expect("status tells of it");
    assert_eq!(one["mountpoint_bytes"], json!(point.as_os_str().as_bytes()));
    let line = one["recover"].as_str().expect("a line").to_owned();
    let script = r#"cd /; PATH=$1:$PATH; eval "$2""#;
    let path = Path::new(BINARY).parent().expect("a directory");
    sh(script, [path.as_os_str(), OsStr::new(&line)], 60).ok();
    assert_free(&engine, &disk.id, &expected(&content, MIB, MIB, 85));
    assert!(
        fs::symlink_metadata(&point).is_err(),
        "the file that was made is left"
    );
    assert!(engine.state_files().is_empty());
}
