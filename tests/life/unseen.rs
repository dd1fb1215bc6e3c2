//! A raw disk that was there before and that could not be opened: nobody has seen its first bytes. The engine
//! removes it on a cancel, and on a finalize where it begins like an image. So its transfer is finalized only
//! after a look, by the same run or by `recover`.

use std::fs;
use std::net::{Shutdown, TcpListener};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::heads::encrypted;
use crate::recovering::{by_hand, recover};
use crate::rig::{
    CANNOT_CONNECT, DATA_MAY_BE_LOST, ENGINE_FAILED, assert_free, assert_nothing_deleted, assert_told,
    create, existing, over, point, state_file, used_disk,
};
use crate::support::engine::{DiskState, Engine};
use crate::support::foreground::Foreground;
use crate::support::mount::rhv_mount;
use crate::support::run::{Ran, text, wait_until};

/// How long a transfer does not get ready: longer than a busy machine takes to send a signal, and shorter
/// than a look waits.
const INITIALIZING_SECONDS: u32 = 15;

/// The ways in which nobody gets at the disk, and the exit code of each.
fn out_of_reach() -> [(Value, i32); 2] {
    [
        (json!({"switch": "url_host", "value": "dead"}), CANNOT_CONNECT),
        (json!({"switch": "url_missing", "value": "both"}), ENGINE_FAILED),
    ]
}

#[track_caller]
pub(crate) fn assert_left(engine: &Engine, disk: &DiskState, point: &Path, ran: &Ran, code: i32) {
    let words = [
        &disk.id,
        "not finalized",
        "could not be read",
        "rhv-mount recover",
    ];
    assert_told(ran, &[code], &words);
    assert!(
        engine.requests("POST", "/finalize").is_empty(),
        "it was finalized: {ran}"
    );
    assert_nothing_deleted(engine);
    assert!(engine.disk(&disk.id).is_some(), "the disk is gone: {ran}");
    let note = state_file(point).unwrap_or_else(|| panic!("nothing is left for recover: {ran}"));
    assert!(text(&note).contains("\"head_unseen\""), "{}", text(&note));
}

/// Neither the host nor the proxy can be reached.
fn engine_and(disk: fn(&Engine) -> (DiskState, PathBuf)) -> (Engine, DiskState, PathBuf) {
    let engine = Engine::with(["--proxy-url", "dead"]);
    let (disk, content) = disk(&engine);
    (engine, disk, content)
}

#[test]
fn a_raw_disk_that_nobody_has_looked_at_is_left_until_recover_can_look() {
    for (order, code) in out_of_reach() {
        let (engine, disk, content) = engine_and(|engine| used_disk(engine, "web01", "raw"));
        let point = point(&engine, "web01");
        engine.switch(&order);
        let ran = over(&engine, &existing("web01"), "true");
        assert_left(&engine, &disk, &point, &ran, code);
        assert_eq!(engine.transfer().phase, "paused_user");
        let status = rhv_mount(None, ["status"]).ok().stdout;
        assert!(
            status.contains("nobody could look at the first bytes"),
            "{status}"
        );
        let ran = recover(&engine, &[], Some(&point));
        assert_left(&engine, &disk, &point, &ran, DATA_MAY_BE_LOST);
        engine.clear_switches();
        recover(&engine, &[], Some(&point)).ok();
        assert_free(&engine, &disk.id, &content);
        assert_nothing_deleted(&engine);
        assert!(engine.state_files().is_empty());
    }
}

#[test]
fn a_raw_disk_that_begins_like_an_image_outlives_a_start_that_failed() {
    for (order, code) in out_of_reach() {
        let (engine, disk, _) = engine_and(encrypted);
        let point = point(&engine, "vault");
        engine.switch(&order);
        let ran = over(&engine, &existing("vault"), "true");
        assert_left(&engine, &disk, &point, &ran, code);
        engine.clear_switches();
        let ran = recover(&engine, &["--finalize"], Some(&point));
        assert_told(
            &ran,
            &[DATA_MAY_BE_LOST],
            &["luks", "would remove", "not finalized"],
        );
        assert!(engine.requests("POST", "/finalize").is_empty(), "{ran}");
        assert!(engine.disk(&disk.id).is_some() && state_file(&point).is_some());
    }
}

/// The user says that it begins like no image.
#[test]
fn recover_finalizes_a_disk_that_nobody_can_look_at_on_request() {
    let (engine, disk, content) = engine_and(|engine| used_disk(engine, "web01", "raw"));
    let point = point(&engine, "web01");
    engine.switch(&json!({"switch": "url_host", "value": "dead"}));
    over(&engine, &existing("web01"), "true");
    recover(&engine, &["--finalize"], Some(&point)).ok();
    assert_free(&engine, &disk.id, &content);
    assert!(engine.state_files().is_empty());
}

/// The proxy that was asked for is dead, and the host is not: the last look goes straight there.
#[test]
fn a_disk_that_another_route_leads_to_is_looked_at_and_freed() {
    let (engine, disk, content) = engine_and(|engine| used_disk(engine, "web01", "raw"));
    let mut args = existing("web01");
    args.push("--proxy".into());
    let ran = over(&engine, &args, "true");
    assert_told(&ran, &[CANNOT_CONNECT], &["proxy", "refused"]);
    assert_free(&engine, &disk.id, &content);
    assert!(engine.state_files().is_empty(), "{ran}");
    let (vault, _) = encrypted(&engine);
    args[1] = "vault".into();
    let ran = over(&engine, &args, "true");
    assert_told(&ran, &[CANNOT_CONNECT], &["luks", "not finalized", &vault.id]);
    assert!(engine.disk(&vault.id).is_some(), "the disk is gone: {ran}");
    assert_nothing_deleted(&engine);
}

/// There is nothing to be looked at or left then: the last look takes the transfer as it is by then, and not
/// as it was at its start.
#[test]
fn a_transfer_that_a_user_has_ended_before_the_last_look_is_not_told_as_left() {
    let proxy = TcpListener::bind("127.0.0.1:0").expect("listen");
    proxy
        .set_nonblocking(true)
        .expect("a listener that does not block");
    let address = proxy.local_addr().expect("an address").to_string();
    let engine = Engine::with(["--proxy-url", &address]);
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mut args = existing("web01");
    args.push("--proxy".into());
    let ran = std::thread::scope(|scope| {
        let engine = &engine;
        scope.spawn(move || {
            let mut call = None;
            wait_until("the proxy is called", 60, || {
                call = proxy.accept().ok();
                call.is_some()
            });
            by_hand(engine, &engine.transfer().id, "finalize");
            wait_until("it has ended", 60, || {
                engine.transfer().phase == "finished_success"
            });
            // Nobody listens there any more.
            if let Some((socket, _)) = call {
                let _ = socket.shutdown(Shutdown::Both);
            }
            drop(proxy);
        });
        over(engine, &args, "true")
    });
    assert_ne!(ran.code, Some(0), "{ran}");
    assert!(!ran.stderr.contains("is left"), "{ran}");
    assert_free(&engine, &disk.id, &content);
    assert_nothing_deleted(&engine);
    assert!(engine.state_files().is_empty(), "{ran}");
}

/// A killed mount has not told whether it had looked. `--finalize` was named by a message that asks only
/// whether the mount is dead.
#[test]
fn a_request_to_finalize_vouches_for_the_head_only_after_a_message_about_it() {
    let (engine, disk, content) = engine_and(|engine| used_disk(engine, "web01", "raw"));
    engine.switch(&json!({"switch": "url_host", "value": "dead"}));
    let (point, mut mount) = initializing(&engine);
    mount.signal(Signal::SIGKILL);
    mount.wait(60);
    let ran = recover(&engine, &["--finalize"], Some(&point));
    assert_left(&engine, &disk, &point, &ran, DATA_MAY_BE_LOST);
    recover(&engine, &["--finalize"], Some(&point)).ok();
    assert_free(&engine, &disk.id, &content);
    assert!(engine.state_files().is_empty());
}

/// A new disk may begin with what its storage held before.
#[test]
fn a_new_disk_that_is_to_be_kept_is_left_until_recover_can_look() {
    let engine = Engine::with(["--proxy-url", "dead"]);
    engine.switch(&json!({"switch": "url_host", "value": "dead"}));
    let mut args = create("web01");
    args.push("--keep-on-failure".into());
    let ran = over(&engine, &args, "true");
    let point = point(&engine, "web01");
    let disk = engine.disk("web01").expect("the disk is kept");
    assert_left(&engine, &disk, &point, &ran, CANNOT_CONNECT);
    engine.clear_switches();
    recover(&engine, &[], Some(&point)).ok();
    let freed = engine.disk("web01").expect("the disk is kept");
    assert_eq!((freed.status.as_str(), freed.locked_by.len()), ("ok", 0));
    assert!(engine.state_files().is_empty());
}

/// Starts a mount of the disk web01 whose transfer does not get ready for a while.
fn initializing(engine: &Engine) -> (PathBuf, Foreground) {
    engine.switch(&json!({"switch": "stay_initializing", "value": INITIALIZING_SECONDS, "times": 1}));
    let point = point(engine, "web01");
    let mut program = engine.program();
    program.args(engine.args()).args(existing("web01"));
    program.arg("--foreground").arg(&point);
    let mount = Foreground::spawn(&mut program);
    wait_until("the transfer is started", 60, || !engine.transfers().is_empty());
    (point, mount)
}

/// The transfer is not ready when the signal comes, and later it is.
#[test]
fn a_signal_during_the_start_waits_for_the_look_and_frees_the_disk() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let (point, mut mount) = initializing(&engine);
    sleep(Duration::from_millis(300));
    mount.signal(Signal::SIGINT);
    assert_ne!(mount.wait(60).code(), Some(0));
    assert_free(&engine, &disk.id, &content);
    assert_nothing_deleted(&engine);
    assert!(engine.state_files().is_empty(), "{}", mount.stderr());
    assert!(fs::symlink_metadata(&point).is_err());
}
