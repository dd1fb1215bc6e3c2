//! `rhv-mount recover` finds, reports and ends the transfer of a killed mount, and deletes no disk that
//! existed before.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::existing::{expected, write_and_sync};
use crate::rig::{
    DATA_MAY_BE_LOST, LOGIN_REFUSED, USAGE, assert_free, assert_nothing_deleted, assert_refused, assert_told,
    control_files, create, existing, state_file, used_disk,
};
use crate::support::content::MIB;
use crate::support::engine::{Engine, write_private};
use crate::support::mount::{Mount, is_mounted};
use crate::support::run::{Ran, run, wait_until};

/// Runs `rhv-mount recover OPTIONS [POINT]` with the engine's options.
pub(crate) fn recover(engine: &Engine, options: &[&str], point: Option<&Path>) -> Ran {
    let mut args: Vec<OsString> = vec!["recover".into()];
    args.extend(options.iter().map(OsString::from));
    args.extend(engine.args());
    args.extend(point.map(OsString::from));
    engine.run(args, 120)
}

/// Mounts, writes and flushes one MiB at `seed` MiB, and kills the mount. Returns its mountpoint, and the
/// mount, whose drop clears the mountpoint.
fn killed(engine: &Engine, args: &[String], seed: u64) -> (Mount, PathBuf) {
    let mount = engine.mounting(args).start();
    write_and_sync(&mount.file(), seed * MIB, MIB, seed);
    let point = mount.mountpoint().to_path_buf();
    mount.kill();
    assert!(state_file(&point).is_some(), "no state file of a killed mount");
    (mount, point)
}

#[test]
fn what_a_killed_mount_left_is_finalized() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let (_mount, point) = killed(&engine, &existing("web01"), 1);
    let transfer = engine.transfer().id;
    let ran = recover(&engine, &[], Some(&point)).ok();
    let said = ran.stdout.clone() + &ran.stderr;
    assert!(
        said.contains(&transfer) && said.contains("web01"),
        "the transfer or the disk is not named: {ran}"
    );
    assert_eq!(engine.transfer().phase, "finished_success");
    assert_free(&engine, &disk.id, &expected(&content, MIB, MIB, 1));
    assert!(!is_mounted(&point), "the dead mount is left: {ran}");
    assert!(
        control_files(&point).is_empty(),
        "files of the dead mount are left: {ran}"
    );
    assert!(state_file(&point).is_none(), "the state file is left");
    assert_nothing_deleted(&engine);
    assert_eq!(engine.sessions(), 1, "only the killed mount's session is open");
    let again = recover(&engine, &[], Some(&point));
    assert!(
        again.code.is_some() && !again.stderr.contains("panicked"),
        "{again}"
    );
}

#[test]
fn a_shell_is_told_what_is_left_to_recover() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let (_mount, point) = killed(&engine, &existing("web01"), 1);
    let offered = |words: &[&str]| {
        let mut program = engine.tool();
        program.env("RHV_MOUNT_COMPLETE", "fish").arg("--").args(words);
        let ran = run(&mut program, 30).ok();
        let mut lines = ran
            .stdout
            .lines()
            .map(|line| line.split('\t').next().unwrap_or(line));
        lines.any(|value| Path::new(value) == point)
    };
    let words = ["rhv-mount", "-c", "prod", "recover", "/"];
    assert!(offered(&words));
    recover(&engine, &[], Some(&point)).ok();
    assert!(!offered(&words));
    assert_free(&engine, &disk.id, &expected(&content, MIB, MIB, 1));
}

#[test]
fn a_disk_that_was_there_before_is_not_cancelled_on_request_either() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let (_mount, point) = killed(&engine, &existing("web01"), 2);
    let ran = recover(&engine, &["--cancel"], Some(&point));
    assert_refused(&ran, &[USAGE], &["web01|cancel", "--finalize|finalize"]);
    assert_nothing_deleted(&engine);
    assert_eq!(engine.transfer().phase, "transferring", "nothing has happened");
    assert!(state_file(&point).is_some(), "the state file is still needed");
    recover(&engine, &["--finalize"], Some(&point)).ok();
    assert_free(&engine, &disk.id, &expected(&content, 2 * MIB, MIB, 2));
    assert!(state_file(&point).is_none());
}

#[test]
fn a_disk_that_the_killed_mount_had_made_is_kept_unless_cancel_is_asked_for() {
    let engine = Engine::start();
    let (_first, point) = killed(&engine, &create("kept"), 3);
    recover(&engine, &[], Some(&point)).ok();
    let disk = engine.disk("kept").expect("the disk is kept");
    assert_eq!((disk.status.as_str(), disk.locked_by.len()), ("ok", 0));
    assert_nothing_deleted(&engine);
    let (_second, point) = killed(&engine, &create("dropped"), 3);
    recover(&engine, &["--cancel"], Some(&point)).ok();
    wait_until("the disk is removed", 60, || engine.disk("dropped").is_none());
    assert!(engine.disk("kept").is_some());
    assert!(engine.state_files().is_empty());
}

#[test]
fn a_download_may_be_cancelled() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).arg("--read-only").start();
    let point = mount.mountpoint().to_path_buf();
    mount.kill();
    recover(&engine, &["--cancel"], Some(&point)).ok();
    assert_free(&engine, &disk.id, &content);
    assert!(state_file(&point).is_none());
}

#[test]
fn a_paused_transfer_is_finalized() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "cow");
    let (_mount, point) = killed(&engine, &existing("web01"), 4);
    engine.switch(&json!({"switch": "pause_now"}));
    recover(&engine, &[], Some(&point)).ok();
    assert_free(&engine, &disk.id, &expected(&content, 4 * MIB, MIB, 4));
    assert_nothing_deleted(&engine);
}

/// Somebody else has ended the transfer, and the engine has forgotten it: the disk shows the outcome.
#[test]
fn a_transfer_that_is_gone_is_told_and_its_state_file_removed() {
    let engine = Engine::with(["--keep-success", "0.1", "--keep-failure", "0.1"]);
    let (disk, content) = used_disk(&engine, "web01", "raw");
    for action in ["finalizing", "cancelling"] {
        let (_mount, point) = killed(&engine, &existing("web01"), 5);
        let transfer = engine.transfer().id;
        if action == "finalizing" {
            by_hand(&engine, &transfer, "finalize");
        } else {
            engine.switch(&json!({"switch": "cancel_now"}));
        }
        wait_until("the engine forgets it", 60, || engine.transfers().is_empty());
        let ran = recover(&engine, &[], Some(&point));
        if action == "finalizing" {
            assert_told(&ran, &[0], &[]);
            assert_free(&engine, &disk.id, &expected(&content, 5 * MIB, MIB, 5));
        } else {
            assert_told(
                &ran,
                &[DATA_MAY_BE_LOST, 4],
                &["gone|removed|not in the engine|no longer"],
            );
        }
        let said = ran.stdout.clone() + &ran.stderr;
        assert!(said.contains(&transfer) || said.contains("web01"), "{ran}");
        assert!(
            state_file(&point).is_none(),
            "{action}: the state file is left: {ran}"
        );
    }
    // The engine itself removed the disk of the cancelled transfer; rhv-mount did not ask for that.
    assert_nothing_deleted(&engine);
}

#[test]
fn a_mount_that_is_alive_is_not_recovered_from_under_its_user() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mount = engine.mounting(existing("web01")).start();
    for options in [vec![], vec!["--finalize"], vec!["--cancel"]] {
        let ran = recover(&engine, &options, Some(mount.mountpoint()));
        assert!(!ran.success(), "{ran}");
        assert!(
            ran.stderr.contains("rhv-mount umount") || ran.code == Some(USAGE),
            "{ran}"
        );
    }
    assert_eq!(engine.transfer().phase, "transferring");
    write_and_sync(&mount.file(), 6 * MIB, MIB, 6);
    mount.umount().ok();
    assert_free(&engine, &disk.id, &expected(&content, 6 * MIB, MIB, 6));
}

#[test]
fn umount_of_a_killed_mount_says_what_is_left_and_recover_ends_it() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let (mount, point) = killed(&engine, &existing("web01"), 7);
    let ran = mount.umount();
    assert_told(&ran, &[DATA_MAY_BE_LOST], &["rhv-mount recover"]);
    assert!(!is_mounted(&point) && state_file(&point).is_some());
    recover(&engine, &[], Some(&point)).ok();
    assert_free(&engine, &disk.id, &expected(&content, 7 * MIB, MIB, 7));
}

/// The state file is the only record of the transfer, so a wrong password or a failing engine must not cost
/// it.
#[test]
fn a_recover_that_fails_keeps_the_state_file() {
    let engine = Engine::start();
    used_disk(&engine, "web01", "raw");
    let (_mount, point) = killed(&engine, &existing("web01"), 0);
    let wrong = engine.dir().join("wrong");
    write_private(&wrong, "another one\n");
    let mut args: Vec<OsString> = vec!["recover".into()];
    args.extend(engine.args());
    let file = args.iter_mut().find(|arg| **arg == engine.password_file());
    *file.expect("the password file") = wrong.into();
    args.push(point.clone().into());
    let ran = engine.run(args, 60);
    assert_told(&ran, &[LOGIN_REFUSED], &["cannot authenticate"]);
    assert!(state_file(&point).is_some(), "the state file is gone: {ran}");
    engine.switch(&json!({"switch": "html_error", "value": 500, "match": "/imagetransfers/"}));
    let ran = recover(&engine, &[], Some(&point));
    assert!(!ran.success() && !ran.timed_out, "{ran}");
    assert!(state_file(&point).is_some(), "the state file is gone: {ran}");
    engine.clear_switches();
    recover(&engine, &[], Some(&point)).ok();
    assert!(engine.disk("web01").expect("the disk").locked_by.is_empty());
}

/// The state file holds the engine and the user, so the user gives only the password (and the CA).
#[test]
fn the_state_file_knows_the_engine_and_the_user() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let (_mount, point) = killed(&engine, &existing("web01"), 1);
    let mut program = engine.tool();
    program
        .arg("recover")
        .arg("--password-file")
        .arg(engine.password_file());
    program.arg("--cafile").arg(engine.cafile()).arg(&point);
    crate::support::run::run(&mut program, 60).ok();
    assert_free(&engine, &disk.id, &expected(&content, MIB, MIB, 1));
}

#[test]
fn nothing_to_recover_is_said() {
    let engine = Engine::start();
    let point = engine.dir().join("never-mounted");
    let ran = recover(&engine, &[], Some(&point));
    assert!(!ran.stderr.contains("panicked") && !ran.timed_out, "{ran}");
    let said = ran.stdout.clone() + &ran.stderr;
    assert!(
        said.contains("never-mounted") || said.contains("nothing"),
        "{ran}"
    );
    let ran = recover(&engine, &["--cancel", "--finalize"], Some(&point));
    assert_refused(&ran, &[USAGE], &["--cancel"]);
}

/// Sends an action over the API, as a user of the engine's web page does.
pub(crate) fn by_hand(engine: &Engine, transfer: &str, action: &str) {
    let script = r#"
        token=$(curl -sf --cacert "$2" -H 'Accept: application/json' "$1/ovirt-engine/sso/oauth/token" \
            -d grant_type=password -d scope=ovirt-app-api -d "username=$4" --data-urlencode "password=$5" |
            sed 's/.*"access_token": *"\([^"]*\)".*/\1/')
        curl -sf --cacert "$2" -H "Authorization: Bearer $token" -H 'Accept: application/json' \
            -H 'Content-Type: application/json' -d '{}' "$1/ovirt-engine/api/imagetransfers/$3/$6""#;
    let ca = engine.cafile().to_str().expect("UTF-8");
    let (user, password) = (crate::support::engine::USER, crate::support::engine::PASSWORD);
    let args = [engine.url(), ca, transfer, user, password, action];
    crate::support::run::sh(script, args, 30).ok();
}
