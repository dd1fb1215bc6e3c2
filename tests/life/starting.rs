//! A start that is refused, or cut short by a signal, or that gets no answer: nothing of it is left, and
//! nothing of somebody else's is ended. Only a request that was on its way without an answer may have started
//! a transfer, and only one that is proven to be its own is ended for it.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::recovering::recover;
use crate::rig::{
    ENGINE_FAILED, assert_free, assert_nothing_deleted, assert_told, create, existing, over, point,
    state_file, used_disk,
};
use crate::support::engine::Engine;
use crate::support::foreground::Foreground;
use crate::support::run::{text, wait_until};

/// The request that starts a transfer, for a switch.
const START: &str = "^POST /ovirt-engine/api/imagetransfers$";

/// The seconds that the engine takes over the start of one transfer, while another one is started and ready.
const SLOW: u64 = 20;

/// A mount in the foreground that is not ready yet, and its mountpoint.
fn starting(engine: &Engine, args: &[String], name: &str) -> (Foreground, PathBuf) {
    let point = point(engine, name);
    let mut program = engine.program();
    program
        .args(engine.args())
        .args(args)
        .arg("--foreground")
        .arg(&point);
    (Foreground::spawn(&mut program), point)
}

/// Tells whether a switch that takes effect once has done so.
fn is_used_up(engine: &Engine, switch: &str) -> bool {
    engine.state("switches")[switch] == json!([])
}

fn starts(engine: &Engine) -> usize {
    engine.requests("POST", "/imagetransfers").len()
}

/// Stops a mount that is not ready yet, and returns what it said.
#[track_caller]
fn stopped(mount: &mut Foreground, signal: Signal) -> String {
    mount.signal(signal);
    let status = mount.wait(60);
    let said = mount.stderr();
    assert!(status.code().is_some_and(|code| code != 0), "{status:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[test]
fn a_signal_while_it_waits_for_a_lock_leaves_nothing() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "busy", "raw");
    engine.switch(&json!({"switch": "transfer_locked", "match": "busy"}));
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let before = starts(&engine);
        let (mut mount, point) = starting(&engine, &existing("busy"), "busy");
        wait_until("it was refused", 30, || starts(&engine) > before);
        stopped(&mut mount, signal);
        assert!(state_file(&point).is_none(), "{}", mount.stderr());
    }
    engine.clear_switches();
    over(&engine, &existing("busy"), "true").ok();
    assert_free(&engine, &disk.id, &content);
    assert_nothing_deleted(&engine);
}

/// The engine is away while the transfer, or the disk, is asked for: it has performed nothing.
#[test]
fn a_signal_while_it_waits_for_an_engine_that_is_away_leaves_nothing() {
    let engine = Engine::start();
    used_disk(&engine, "web01", "raw");
    for (args, path) in [
        (existing("web01"), "/imagetransfers"),
        (create("web02"), "/imagetransfers"),
        (create("web03"), "/disks"),
    ] {
        engine.switch(&json!({"switch": "unavailable", "match": format!("^POST .*{path}$")}));
        let before = engine.requests("POST", path).len();
        let (mut mount, point) = starting(&engine, &args, &args[1]);
        wait_until("it was turned away", 30, || {
            engine.requests("POST", path).len() > before
        });
        let said = stopped(&mut mount, Signal::SIGINT);
        engine.clear_switches();
        assert!(state_file(&point).is_none(), "{args:?}: {said}");
        assert!(engine.transfers().is_empty(), "{args:?}");
    }
    wait_until("the new disk is removed", 60, || engine.disk("web02").is_none());
    assert!(engine.disk("web01").is_some() && engine.disk("web03").is_none());
}

/// While the engine takes its time over the start of a second download, somebody else starts theirs; the
/// second is refused then, again and again.
#[test]
fn a_signal_while_it_waits_leaves_somebody_elses_download_alone() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    engine.switch(&json!({"switch": "slow", "value": SLOW, "times": 1, "match": START}));
    let mut args = existing("web01");
    args.push("--read-only".into());
    let (mut second, point) = starting(&engine, &args, "other");
    wait_until("it has asked", 60, || is_used_up(&engine, "slow"));
    let first = engine.mounting(args).start();
    let theirs = engine.transfer().id;
    wait_until("it was refused", 90, || starts(&engine) >= 3);
    let said = stopped(&mut second, Signal::SIGTERM);
    assert_eq!(engine.phases(&theirs), ["transferring"], "{said}");
    assert!(state_file(&point).is_none(), "{said}");
    first.umount().ok();
    assert_free(&engine, &disk.id, &content);
}

/// The start of a second mount gets no answer, and somebody else's transfer is there when the disk is looked
/// at: it is not taken for the one that may have been started. Neither does `recover` end it by itself.
#[track_caller]
fn assert_left_alone(options: &[&str]) {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let mut args = existing("web01");
    args.extend(options.iter().map(|&option| option.to_owned()));
    engine.switch(&json!({"switch": "slow", "value": SLOW, "times": 1, "match": START}));
    let (mut second, point) = starting(&engine, &args, "other");
    wait_until("it has asked", 60, || is_used_up(&engine, "slow"));
    let asked = state_file(&point).is_some_and(|path| text(&path).contains("\"asked\": true"));
    assert!(asked, "its note does not tell that it has asked");
    let first = engine.mounting(args).start();
    let theirs = engine.transfer().id;
    engine.switch(&json!({"switch": "html_error", "value": 502, "times": 1, "match": START}));
    wait_until("it was refused", 90, || starts(&engine) >= 3);
    let said = stopped(&mut second, Signal::SIGTERM);
    assert!(said.contains(&theirs) && said.contains("left alone"), "{said}");
    assert_eq!(engine.phases(&theirs), ["transferring"], "{said}");
    assert!(
        state_file(&point).is_some(),
        "nothing leads to what may be left: {said}"
    );
    let ran = recover(&engine, &[], Some(&point));
    assert_told(&ran, &[ENGINE_FAILED], &["does not have the mark", "--finalize"]);
    assert_eq!(engine.phases(&theirs), ["transferring"], "{ran}");
    first.umount().ok();
    recover(&engine, &[], Some(&point)).ok();
    assert!(engine.state_files().is_empty());
    assert_free(&engine, &disk.id, &content);
    assert_nothing_deleted(&engine);
}

#[test]
fn a_download_that_is_not_proven_to_be_ours_is_left_alone() {
    assert_left_alone(&["--read-only"]);
}

#[test]
fn an_upload_that_is_not_proven_to_be_ours_is_left_alone() {
    assert_left_alone(&[]);
}

/// The answer to the start is lost, and the engine does not say at once what it has started; the mark of the
/// request proves which transfer it is.
#[test]
fn a_start_without_an_answer_is_found_by_its_mark_and_taken_back() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    engine.switch(&json!({"switch": "cut_after", "times": 1, "match": START}));
    engine.switch(&json!({"switch": "unavailable", "match": "^GET .*/imagetransfers$"}));
    let (mut mount, point) = starting(&engine, &existing("web01"), "web01");
    wait_until("the transfer is started", 30, || !engine.transfers().is_empty());
    mount.signal(Signal::SIGINT);
    sleep(Duration::from_millis(500));
    engine.clear_switches();
    let status = mount.wait(60);
    assert!(status.code().is_some_and(|code| code != 0), "{status:?}");
    assert!(state_file(&point).is_none(), "{}", mount.stderr());
    assert_free(&engine, &disk.id, &content);
    assert_nothing_deleted(&engine);
}

/// The engine itself has removed the disk of an upload that did not start, and is away just then.
#[test]
fn a_disk_that_the_engine_has_removed_already_is_taken_back() {
    let engine = Engine::start();
    engine.switch(&json!({"switch": "transfer_fault", "value": "failed", "times": 1}));
    engine.switch(&json!({"switch": "slow", "value": 2, "times": 1, "match": START}));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_until("the disk is made", 60, || {
                engine.disk("new").is_some_and(|disk| disk.status == "ok")
            });
            sleep(Duration::from_millis(300));
            engine.switch(&json!({"switch": "unavailable", "times": 3, "match": "^GET .*/disks/"}));
        });
        let ran = over(&engine, &create("new"), "true");
        assert_told(&ran, &[ENGINE_FAILED], &["no host"]);
        assert!(engine.state_files().is_empty(), "a note is left: {ran}");
        assert!(engine.disk("new").is_none(), "{ran}");
    });
}
