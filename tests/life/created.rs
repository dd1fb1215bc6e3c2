//! A failed mount removes the disk that it created, unless the user asked to keep it.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::rig::{
    DATA_MAY_BE_LOST, ENGINE_FAILED, assert_free, assert_told, command, create, over, point, source,
};
use crate::support::engine::Engine;
use crate::support::foreground::Foreground;
use crate::support::run::wait_until;

#[track_caller]
fn assert_gone(engine: &Engine) {
    wait_until("the engine removes the disk", 60, || engine.disks().is_empty());
    assert!(engine.state_files().is_empty(), "a state file is left");
}

fn keep(name: &str) -> Vec<String> {
    let mut args = create(name);
    args.push("--keep-on-failure".into());
    args
}

#[test]
fn a_disk_whose_command_failed_is_gone_and_the_status_is_the_commands() {
    let engine = Engine::start();
    let ran = over(&engine, &create("failed"), "printf half > {}; exit 42");
    assert_told(&ran, &[42], &["removed|cancel"]);
    assert_gone(&engine);
    let cancelled = engine.phases(&engine.transfer().id);
    assert!(cancelled.contains(&"cancelled_user".to_owned()), "{cancelled:?}");
}

#[test]
fn a_disk_whose_command_failed_is_kept_on_request() {
    let engine = Engine::start();
    let source = source(&engine, 51);
    let script = format!("cp '{}' {{}}; exit 42", source.display());
    let ran = over(&engine, &keep("kept"), &script);
    assert_told(&ran, &[42], &[]);
    assert_free(&engine, "kept", &source);
    assert!(engine.state_files().is_empty());
}

#[test]
fn a_command_that_is_not_there_leaves_no_disk() {
    let engine = Engine::start();
    let point = point(&engine, "nothing");
    let mut args = engine.args();
    args.extend(create("nothing").into_iter().map(Into::into));
    args.extend([point.into(), "--".into(), "no-such-program-here".into()]);
    let ran = engine.run(args, 60);
    assert_told(&ran, &[127], &["no-such-program-here"]);
    assert_gone(&engine);
}

#[test]
fn a_disk_with_a_write_error_is_gone() {
    let engine = Engine::start();
    let script = format!(
        "{}; dd if=/dev/urandom of={{}} bs=1M count=4 conv=notrunc status=none || true",
        engine.kill_storage_line()
    );
    let ran = over(&engine, &create("broken"), &script);
    assert_told(&ran, &[DATA_MAY_BE_LOST], &["data may be lost", "removed|cancel"]);
    assert_gone(&engine);
}

/// `--keep-on-failure` keeps the disk, and the message still says that data may be lost.
#[test]
fn a_disk_with_a_write_error_is_kept_on_request() {
    let engine = Engine::start();
    let script = format!(
        "{}; dd if=/dev/urandom of={{}} bs=1M count=4 conv=notrunc status=none || true",
        engine.kill_storage_line()
    );
    let ran = over(&engine, &keep("broken"), &script);
    assert_told(&ran, &[DATA_MAY_BE_LOST], &["data may be lost"]);
    assert!(engine.disk("broken").is_some(), "the disk is gone: {ran}");
    assert!(engine.requests("POST", "/cancel").is_empty());
}

#[test]
fn a_signal_under_a_command_is_a_failure_and_leaves_no_disk() {
    let engine = Engine::start();
    let point = point(&engine, "stopped");
    let ready = engine.dir().join("command-runs");
    let script = format!("touch '{}'; exec sleep 60", ready.display());
    let mut program = command(&engine, &create("stopped"), &point, &script);
    let mut mount = Foreground::spawn(&mut program);
    wait_until("the command runs", 30, || ready.exists());
    mount.signal(Signal::SIGTERM);
    assert_eq!(mount.wait(60).code(), Some(128 + 15), "{}", mount.stderr());
    assert_gone(&engine);
}

/// A signal is the ordinary end of a mount without a command: the disk holds the written bytes, and is kept.
#[test]
fn a_signal_in_the_foreground_is_the_end_and_no_failure() {
    let engine = Engine::start();
    let source = source(&engine, 52);
    let point = point(&engine, "stopped");
    let mut program = engine.program();
    program.args(engine.args()).args(create("stopped"));
    program.arg("--foreground").arg(&point);
    let mut mount = Foreground::start(&mut program, &point);
    std::fs::copy(&source, &point).expect("copy into the mount");
    mount.signal(Signal::SIGTERM);
    assert_eq!(mount.wait(60).code(), Some(0), "{}", mount.stderr());
    assert_free(&engine, "stopped", &source);
}

#[test]
fn a_signal_while_it_starts_leaves_no_disk() {
    let engine = Engine::start();
    engine.switch(&json!({"switch": "stay_initializing", "value": "forever", "times": 1}));
    let point = point(&engine, "stopped");
    let mut program = engine.program();
    program.args(engine.args()).args(create("stopped"));
    program.arg("--foreground").arg(&point);
    let mut mount = Foreground::spawn(&mut program);
    wait_until("the transfer is started", 60, || !engine.transfers().is_empty());
    mount.signal(Signal::SIGINT);
    let status = mount.wait(30);
    assert!(status.code().is_some_and(|code| code != 0), "{status:?}");
    assert_gone(&engine);
    assert!(!point.exists(), "the mountpoint is left");
}

/// The signal comes while the mount tries to reach the host, and the disk opens all the same, through the
/// proxy.
#[test]
fn a_signal_while_it_connects_leaves_no_disk() {
    let engine = Engine::start();
    engine.switch(&json!({"switch": "url_host", "value": "silent"}));
    let point = point(&engine, "connecting");
    let mut program = engine.program();
    program.args(engine.args()).args(create("connecting"));
    program.arg("--foreground").arg(&point);
    let mut mount = Foreground::spawn(&mut program);
    let transferring = || {
        engine
            .transfers()
            .iter()
            .any(|transfer| transfer.phase == "transferring")
    };
    wait_until("the transfer is ready for data", 60, transferring);
    std::thread::sleep(Duration::from_secs(1));
    mount.signal(Signal::SIGINT);
    let status = mount.wait(60);
    assert!(status.code().is_some_and(|code| code != 0), "{status:?}");
    assert_gone(&engine);
    assert!(!point.exists(), "the mountpoint is left");
}

/// A disk that becomes illegal during its creation fails at once, without the wait for slow disks.
#[test]
fn a_disk_that_becomes_illegal_fails_at_once_and_is_removed() {
    let engine = Engine::start();
    engine.switch(&json!({"switch": "disk_illegal", "times": 1}));
    let ran = over(&engine, &create("bad"), "true");
    assert_told(&ran, &[ENGINE_FAILED], &["illegal", "bad"]);
    assert!(ran.took.as_secs() < 25, "{ran}");
    assert_gone(&engine);
}
