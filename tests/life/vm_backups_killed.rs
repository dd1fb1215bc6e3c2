//! `--vm --backup` that is killed, or whose end takes long: `recover` leaves nothing locked, and nothing
//! behind.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::backups::{assert_nothing_left, web};
use crate::recovering::recover;
use crate::rig::{ENGINE_FAILED, control_files};
use crate::support::content::Random;
use crate::support::engine::Engine;
use crate::support::foreground::Foreground;
use crate::support::mount::is_mounted;
use crate::support::run::{run, sh, wait_until};
use crate::vm_backups::in_backup;
use crate::vm_mounts::directory;

fn phase(engine: &Engine) -> Option<String> {
    let backups = engine.state("backups");
    let last = backups.as_array().and_then(|all| all.last().cloned());
    last.and_then(|backup| backup["phase"].as_str().map(str::to_owned))
}

/// Starts a mount in the foreground, and does not wait for it.
fn spawn(engine: &Engine, more: &[&str]) -> Foreground {
    let point = directory(engine, "point");
    let mut program = engine.program();
    program
        .args(engine.args())
        .args(in_backup(more))
        .arg("--foreground")
        .arg(&point);
    Foreground::spawn(&mut program)
}

/// Recovers what a killed mount has left, and asserts that nothing is, and that the next mount works.
#[track_caller]
fn recovered(engine: &Engine) {
    engine.clear_switches();
    let point = directory_of_point(engine);
    let ran = recover(engine, &[], Some(&point)).ok();
    assert_nothing_left(engine, &ran);
    assert!(!is_mounted(&point), "the dead mount is left: {ran}");
    assert!(control_files(&point).is_empty(), "{ran}");
    let mut next = engine.program();
    next.args(engine.args()).args(in_backup(&[])).arg(&point);
    next.args(["--", "cmp", "{}/root"])
        .arg(engine.dir().join("content-41"));
    let ran = run(&mut next, 150).ok();
    assert_nothing_left(engine, &ran);
}

/// The mountpoint, also while a dead mount is on it.
fn directory_of_point(engine: &Engine) -> std::path::PathBuf {
    engine.dir().join("point")
}

#[track_caller]
fn killed_at(more: &[&str], switch: Option<Value>, moment: impl Fn(&Engine) -> bool) {
    let engine = Engine::start();
    web(&engine, "up", "4.7");
    switch.iter().for_each(|order| drop(engine.switch(order)));
    let mut mount = spawn(&engine, more);
    wait_until("the moment has come", 60, || {
        assert!(!mount.has_ended(), "it has ended: {}", mount.stderr());
        moment(&engine)
    });
    mount.signal(Signal::SIGKILL);
    mount.wait(60);
    recovered(&engine);
}

#[test]
fn a_mount_that_is_killed_before_its_backup_is_ready_is_ended_by_recover() {
    for more in [&[][..], &["--live"]] {
        let stuck = json!({"switch": "backup_stuck", "value": 15.0, "times": 1});
        killed_at(more, Some(stuck), |engine| {
            phase(engine).as_deref() == Some("initializing") && !engine.state_files().is_empty()
        });
    }
}

#[test]
fn a_mount_that_is_killed_leaves_no_transfer_and_no_backup_after_recover() {
    for more in [&[][..], &["--live"]] {
        killed_at(more, None, |engine| is_mounted(&directory_of_point(engine)));
    }
}

#[test]
fn a_mount_that_is_killed_at_its_end_is_ended_by_recover() {
    let engine = Engine::start();
    web(&engine, "up", "4.7");
    engine.switch(&json!({"switch": "merge_slow", "value": 15.0, "times": 1}));
    let mut mount = spawn(&engine, &[]);
    wait_until("it is mounted", 60, || is_mounted(&directory_of_point(&engine)));
    mount.signal(Signal::SIGTERM);
    wait_until("the snapshot is merged", 60, || {
        phase(&engine).as_deref() == Some("finalizing")
    });
    mount.signal(Signal::SIGKILL);
    mount.wait(60);
    recovered(&engine);
}

/// A mount may be killed at anything: `recover` leaves nothing.
#[test]
fn a_mount_of_a_backup_may_be_killed_at_any_moment() {
    let engine = Engine::start();
    web(&engine, "up", "4.7");
    let mut random = Random::new(7);
    for n in 0..8 {
        let more: &[&str] = if n % 3 == 2 { &["--live"] } else { &[] };
        let mut mount = spawn(&engine, more);
        std::thread::sleep(std::time::Duration::from_millis(random.below(2500)));
        if n % 2 == 1 && !mount.has_ended() {
            mount.signal(Signal::SIGTERM);
            std::thread::sleep(std::time::Duration::from_millis(random.below(1000)));
        }
        if !mount.has_ended() {
            mount.signal(Signal::SIGKILL);
        }
        mount.wait(60);
        let ran = recover(&engine, &[], Some(&directory_of_point(&engine))).ok();
        // A mount that a signal has ended leaves the merge to the engine.
        wait_until("no backup is at work", 60, || {
            let backups = engine.state("backups");
            let mut all = backups.as_array().expect("the backups").iter();
            all.all(|one| one["phase"] == "succeeded" || one["phase"] == "failed")
        });
        assert_nothing_left(&engine, &ran);
    }
    recovered(&engine);
}

/// A signal while the engine is asked leaves to it what it does by itself; another one leaves the rest.
#[test]
fn signals_at_the_end_of_a_backup_leave_what_is_left_to_the_engine_or_to_recover() {
    let engine = Engine::start();
    web(&engine, "up", "4.7");
    engine.switch(&json!({"switch": "merge_slow", "value": 20.0, "times": 1}));
    let mut mount = spawn(&engine, &[]);
    let point = directory_of_point(&engine);
    wait_until("it is mounted", 60, || is_mounted(&point));
    mount.signal(Signal::SIGTERM);
    wait_until("the snapshot is merged", 60, || {
        phase(&engine).as_deref() == Some("finalizing")
    });
    mount.signal(Signal::SIGTERM);
    let ended = mount.wait(60);
    assert_eq!(ended.code(), Some(0), "{}", mount.stderr());
    let said = mount.stderr();
    assert!(
        said.contains("is being ended") && said.contains("needs nobody"),
        "{said}"
    );
    assert!(engine.state_files().is_empty(), "{said}");
    wait_until("the merge is over", 60, || {
        phase(&engine).as_deref() == Some("succeeded")
    });

    engine.clear_switches();
    engine.switch(&json!({"switch": "finalize_conflict"}));
    let mut mount = spawn(&engine, &[]);
    wait_until("it is mounted", 60, || is_mounted(&point));
    mount.signal(Signal::SIGTERM);
    let refused = || {
        let asked = engine.requests("POST", "/finalize");
        let path = |one: &Value| one["path"].as_str().unwrap_or_default().to_owned();
        asked.iter().filter(|one| path(one).contains("/backups/")).count() > 1
    };
    wait_until("the engine does not end it", 60, refused);
    mount.signal(Signal::SIGTERM);
    wait_until("the signal is answered", 60, || {
        mount.stderr().contains("is being ended")
    });
    mount.signal(Signal::SIGTERM);
    let ended = mount.wait(60);
    assert_eq!(ended.code(), Some(ENGINE_FAILED), "{}", mount.stderr());
    let said = mount.stderr();
    assert!(
        said.contains("gave up on a signal") && said.contains("rhv-mount recover"),
        "{said}"
    );
    // It is told once more, and then it is heard.
    let mut tool = engine.tool();
    let heard = run(tool.arg("umount").arg(&point), 60);
    assert!(heard.stderr.contains("gave up on a signal"), "{heard}");
    recovered(&engine);
}

/// `status` and `recover` name what is left, and a live one is left alone.
#[test]
fn what_a_killed_mount_of_a_backup_has_left_is_shown_and_a_live_one_is_left_alone() {
    let engine = Engine::start();
    web(&engine, "up", "4.7");
    let mut mount = spawn(&engine, &[]);
    let point = directory_of_point(&engine);
    wait_until("it is mounted", 60, || is_mounted(&point));
    let refused = recover(&engine, &[], Some(&point));
    assert!(
        !refused.success() && refused.stdout.contains("left alone"),
        "{refused}"
    );
    sh(
        r#"cmp "$1" "$2""#,
        [point.join("root"), engine.dir().join("content-41")],
        60,
    )
    .ok();
    mount.signal(Signal::SIGKILL);
    mount.wait(60);
    let mut tool = engine.tool();
    let ran = run(tool.arg("status").arg(&point), 20).ok();
    for words in [
        "backup ",
        "VM ",
        "(web)",
        "its process was killed",
        "rhv-mount recover",
    ] {
        assert!(ran.stdout.contains(words), "{words}: {ran}");
    }
    recovered(&engine);
}
