//! A service manager hears of the engine's part too: transfers that are finalized or resumed.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::existing::{expected, write_and_sync};
use crate::rig::{assert_free, assert_nothing_deleted, existing, point, used_disk};
use crate::support::content::MIB;
use crate::support::engine::{Engine, PASSWORD};
use crate::support::foreground::Foreground;
use crate::support::manager::{Manager, assert_in_order};
use crate::support::redaction::shows;
use crate::support::run::wait_until;

/// Mounts `web01` on `point` under `manager`, and waits until it is told as ready.
fn mounted(engine: &Engine, manager: &Manager, point: &Path) -> Foreground {
    let mut program = engine.program();
    program.args(engine.args()).args(existing("web01"));
    program.arg("-f").arg(point);
    let mount = Foreground::spawn(program.env("NOTIFY_SOCKET", manager.address()));
    manager.wait_for("READY=1", 60);
    mount
}

#[test]
fn a_finalize_that_takes_its_time_is_told_and_given_time() {
    let engine = Engine::start();
    let (disk, content) = used_disk(&engine, "web01", "raw");
    let manager = Manager::start();
    let point = point(&engine, "web01");
    let mut mount = mounted(&engine, &manager, &point);
    write_and_sync(&point, 0, MIB, 81);
    let transfer = engine.transfer().id;
    manager.wait_for(&format!("STATUS=web01 on {}", point.display()), 30);
    engine.switch(&json!({"switch": "finalize_slow", "value": 8}));
    let secrets = engine.secrets();
    mount.signal(Signal::SIGTERM);
    assert_eq!(mount.wait(90).code(), Some(0), "{}", mount.stderr());
    manager.wait_for("STATUS=done", 10);
    let words = manager.words(mount.pid());
    let finalizing = format!("STATUS=finalizing transfer {transfer}, ");
    assert_in_order(
        &words,
        &[
            "STATUS=opening the disk",
            "READY=1",
            "STOPPING=1",
            &finalizing,
            "EXTEND_TIMEOUT_USEC=",
            &finalizing,
            "EXTEND_TIMEOUT_USEC=",
            "STATUS=done",
        ],
    );
    for secret in secrets.iter().map(String::as_str).chain([PASSWORD]) {
        assert!(!words.iter().any(|word| shows(word, secret)), "{words:?}");
    }
    assert_free(&engine, &disk.id, &expected(&content, 0, MIB, 81));
    assert_nothing_deleted(&engine);
}

#[test]
fn a_transfer_that_is_not_as_it_should_be_is_in_the_status() {
    let engine = Engine::start();
    used_disk(&engine, "web01", "raw");
    let manager = Manager::start();
    let point = point(&engine, "web01");
    let mut mount = mounted(&engine, &manager, &point);
    engine.switch(&json!({"switch": "resume_fails"}));
    engine.switch(&json!({"switch": "pause_now"}));
    wait_until("the pause is told", 60, || {
        let words = manager.words(mount.pid());
        words
            .iter()
            .any(|word| word.starts_with("STATUS=web01 on") && word.contains(", transfer "))
    });
    engine.switch(&json!({"switch": "resume_fails", "value": null}));
    wait_until("it is told as usual again", 60, || {
        std::thread::sleep(Duration::from_millis(100));
        let words = manager.words(mount.pid());
        let last = words.iter().rfind(|word| word.starts_with("STATUS="));
        last.is_some_and(|word| !word.contains(", transfer "))
    });
    mount.signal(Signal::SIGTERM);
    assert_eq!(mount.wait(90).code(), Some(0), "{}", mount.stderr());
}
